"""Rules through a round: recorded, kept, re-run by the verifier, from Python and from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import reference
import tallystick as ts
from tallystick.cli import app
from tallystick.errors import ArgumentError, SchemaError
from tallystick.update import open_update, write_safetensors
from tallystick.verify import verify_ledger

TEXTS = [
    "bulyan(f=1)",
    "geometric_median",
    "meamed(f=1)",
    "mda(f=1)",
    "monna(f=1)",
    "caf(f=1)",
    "smea(f=1)",
    "cge(f=1)",
    "foolsgold",
    "flame(seed=9)",
    "dnc(f=1, columns=50)",
    "norm_clipping(radius=3.5)",
    "nnm(f=2) | trimmed_mean(f=2)",
    "bucketing(s=2, seed=4) | arc(f=1) | median",
]


def update(seed):
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((5, 40)).astype(np.float32) + 0.5, "steps": np.array(7)}


def close(tmp_path, rule, number=0, n=9, **inputs):
    url = f"sqlite:///{tmp_path}/rounds.db"
    with ts.Round("cards", number=number, rule=rule, ledger=url, keep=tmp_path / "kept", **inputs) as r:
        for i in range(n):
            r.submit(f"bank-{i}", update(i), weight=1.0 + i)
        return url, r.close()


def statuses(report):
    return {c.name: c.status for c in report.checks}


@pytest.mark.parametrize("text", TEXTS)
def test_a_round_with_any_rule_is_verified_from_its_files(tmp_path, text):
    url, outcome = close(tmp_path, text)
    assert outcome.record.rule == ts.aggregate.rule(text).text
    assert outcome.record.f == ts.aggregate.rule(text).f
    assert outcome.record.inputs == {}
    report = verify_ledger(url, "cards", updates=tmp_path / "kept")
    assert report.ok
    assert statuses(report)["aggregate"] == "ok"


def test_a_state_goes_from_round_to_round_by_hash(tmp_path):
    state = None
    for number in range(3):
        url, outcome = close(tmp_path, "centered_clipping(tau=2)", number, state=state)
        expected = {} if state is None else {"state": reference.value_hash(state).hex()}
        assert outcome.record.inputs == expected
        state = outcome.state
        assert outcome.record.aggregate_hash == reference.value_hash(state).hex()
    report = verify_ledger(url, "cards", updates=tmp_path / "kept")
    assert report.ok
    assert report.complete is (statuses(report).get("trusted log root") != "not checked")
    assert sum(c.name == "input state" for c in report.checks) == 2


@pytest.mark.parametrize("name", ["state", "server"])
def test_a_changed_or_missing_input_is_found(tmp_path, name):
    rule = {"state": "centered_clipping", "server": "fltrust"}[name]
    url, outcome = close(tmp_path, rule, **{name: update(50)})
    assert set(outcome.record.inputs) == {name}
    path = tmp_path / "kept" / "round-000000" / f"{name}.safetensors"
    assert [t.name for t in open_update(path).schema.tensors] == ["w"]
    assert verify_ledger(url, "cards", updates=tmp_path / "kept").ok
    kept = path.read_bytes()
    write_safetensors(path, {"w": update(51)["w"]})
    report = verify_ledger(url, "cards", updates=tmp_path / "kept")
    assert {f"input {name}", "aggregate"} <= {c.name for c in report.failed}
    path.unlink()
    report = verify_ledger(url, "cards", updates=tmp_path / "kept")
    assert report.ok
    assert statuses(report)["rule re-run"] == "not checked"
    assert f"input {name!r}" in next(c.detail for c in report.checks if c.name == "rule re-run")
    (tmp_path / "kept" / f"{name}.safetensors").write_bytes(kept)  # beside the rounds does as well
    assert statuses(verify_ledger(url, "cards", updates=tmp_path / "kept"))["aggregate"] == "ok"


def test_inputs_that_a_rule_does_not_take_or_lacks_are_refused(tmp_path):
    for rule, inputs, says in (
        ("mean", {"state": update(0)}, "takes no state"),
        ("centered_clipping", {"server": update(0)}, "takes no server"),
        ("fltrust", {}, "needs server="),
    ):
        with pytest.raises(ArgumentError, match=says):
            ts.Round("cards", number=0, rule=rule, ledger="memory://", **inputs)
    with pytest.raises(SchemaError, match="'state'"):
        close(tmp_path, "centered_clipping", state={"v": np.zeros(3, np.float32)})


def test_the_command_line_takes_compositions_and_inputs(tmp_path):
    files = []
    for i in range(9):
        files.append(tmp_path / f"u{i}.safetensors")
        write_safetensors(files[-1], update(i))
    server = tmp_path / "server-update.safetensors"
    write_safetensors(server, update(99))
    url, runner = f"sqlite:///{tmp_path}/rounds.db", CliRunner()
    for number, options in enumerate(
        (
            ["--rule", "nnm(f=2) | trimmed_mean(f=2)"],
            ["--rule", "fltrust", "--server", str(server)],
            ["--rule", "centered_clipping(tau=3)", "--state", str(tmp_path / "out0.safetensors")],
        )
    ):
        target = tmp_path / f"out{number}.safetensors"
        arguments = ["aggregate", *map(str, files), *options, "--out", str(target), "--json"]
        arguments += ["--namespace", "cards", "--round", str(number), "--ledger", url]
        arguments += ["--keep", f"{tmp_path}/kept"]
        made = runner.invoke(app, arguments)
        assert made.exit_code == 0, made.output
        assert json.loads(made.stdout)["rule"].startswith(options[1].split("(")[0])
    expected = ts.aggregate.fltrust([update(i) for i in range(9)], update(99))["w"]
    np.testing.assert_array_equal(open_update(tmp_path / "out1.safetensors").array("w"), expected)
    checked = runner.invoke(app, ["verify", url, "--updates", f"{tmp_path}/kept"])
    assert checked.exit_code == 0, checked.output
    assert "input state" in checked.stdout
    assert "input server" in checked.stdout
    refused = runner.invoke(
        app, ["aggregate", *map(str, files), "--rule", "mean", "--server", str(server), "--out", "x"]
    )
    assert refused.exit_code != 0


def test_the_command_line_says_why_a_client_was_left_out_and_how_much_each_counts(tmp_path):
    files = []
    for i in range(7):
        files.append(tmp_path / f"u{i}.safetensors")
        write_safetensors(files[-1], {"w": update(i)["w"] * (1 if i else 50)})
    arguments = ["aggregate", *map(str, files), "--out", str(tmp_path / "out.safetensors"), "--rule"]
    for text in ("multi_krum(f=1)", "norm_clipping", "median"):
        outcome = ts.aggregate.rule(text)(files, client_ids=[f.stem for f in files])
        made = CliRunner().invoke(app, [*arguments, text, "--json"])
        assert made.exit_code == 0, made.output
        said = json.loads(made.stdout)
        assert said["weights"] == outcome.weights
        assert said["scores"] == outcome.scores
        shown = CliRunner().invoke(app, [*arguments, text]).stdout
        if text == "multi_krum(f=1)":
            assert f"left out: u0 (Krum score too high, score {outcome.scores['u0']:.6g})" in shown
        if text == "norm_clipping":
            assert f"u0 {outcome.weights['u0']:.4g}  u1 {outcome.weights['u1']:.4g}" in shown
