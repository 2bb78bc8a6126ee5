"""The demo as a whole: robust rules hold where the mean fails, the record verifies, folders are safe."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tallystick.demo import attacks, data, folder
from tallystick.demo.audit import audit
from tallystick.demo.command import demo
from tallystick.demo.config import Config, check
from tallystick.demo.federation import RUNS, run
from tallystick.demo.labels import listed, short_rule
from tallystick.errors import ArgumentError, NonFiniteError, RuleError

# ---- federation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", data.DATASETS)
def test_under_attack_the_mean_fails_and_the_robust_rule_holds(tmp_path, name):
    seen = []
    result = run(Config(data=name, out=tmp_path / "out"), on_round=seen.append)
    assert [report.number for report in seen] == list(range(1, 21))
    assert seen == result.rounds
    assert result.final("attack_free") > 0.93
    assert result.final("robust") >= result.final("attack_free") - 0.02
    assert result.final("mean") < 0.5
    assert len(result.attackers) == 2
    assert all(set(report.rejected) == set(result.attackers) for report in result.rounds)
    assert {"training", "mean", "reading", "hashing", "aggregating", "committing"} <= set(result.times)


@pytest.mark.slow
@pytest.mark.parametrize("name", data.DATASETS)
@pytest.mark.parametrize("seed", range(1, 9))
def test_the_default_demo_holds_on_other_seeds(tmp_path, name, seed):
    result = run(Config(data=name, seed=seed, out=tmp_path / "out"))
    assert result.final("robust") >= result.final("attack_free") - 0.02
    assert result.final("mean") < 0.5


def test_the_same_config_gives_the_same_federation(tmp_path):
    first = run(Config(rounds=2, out=tmp_path / "a"))
    again = run(Config(rounds=2, out=tmp_path / "b"))
    other = run(Config(rounds=2, out=tmp_path / "c", seed=1))
    assert first.rounds == again.rounds
    assert first.rounds != other.rounds


def test_without_attackers_the_two_means_are_one(tmp_path):
    result = run(Config(attackers=0, rounds=2, out=tmp_path / "out"))
    assert result.attackers == ()
    for report in result.rounds:
        assert report.accuracy["mean"] == report.accuracy["attack_free"]
        assert report.rejected == {}


def test_nan_costs_the_mean_its_model_and_the_robust_rule_nothing(tmp_path):
    result = run(Config(attack="nan", rounds=3, out=tmp_path / "out"))
    assert [report.accuracy["mean"] for report in result.rounds] == [0, 0, 0]
    assert result.final("robust") > 0.9
    for report in result.rounds:
        assert set(report.rejected) >= set(result.attackers)
        assert all("NaN" in report.rejected[client] for client in result.attackers)


def test_more_nan_clients_than_f_are_an_error(tmp_path):
    with pytest.raises(NonFiniteError):
        run(Config(attack="nan", rule="multi_krum(f=1)", rounds=1, out=tmp_path / "out"))


@pytest.mark.parametrize("name", [name for name in attacks.ATTACKS if name not in ("sign_flip", "nan")])
def test_every_attack_runs_with_a_rule_that_needs_no_f(tmp_path, name):
    result = run(Config(attack=name, rule="median", rounds=1, out=tmp_path / "out"))
    assert result.rule.startswith("median")
    assert 0 <= result.final("robust") <= 1


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"data": "iris"}, ArgumentError, "breast_cancer, digits"),
        ({"attack": "flattery"}, ArgumentError, "sign_flip"),
        ({"hospitals": 2}, ArgumentError, "3 or more"),
        ({"attackers": -1}, ArgumentError, "0 to 4"),
        ({"attackers": 5}, ArgumentError, "less than half"),
        ({"attackers": 4}, RuleError, "2f .* 3: got n=10, f=4"),
        ({"rounds": 0}, ArgumentError, "1 to 1000"),
        ({"rounds": 1001}, ArgumentError, "1 to 1000"),
        ({"seed": -1}, ArgumentError, "0 or more"),
        ({"strength": float("nan")}, ArgumentError, "finite"),
        ({"rule": "plurality"}, RuleError, "multi_krum"),
        ({"rule": "multi_krum(f=4)"}, RuleError, "2f .* 3: got n=10, f=4"),
        ({"rule": "multi_krum(f=two)"}, RuleError, "whole number"),
        ({"hospitals": 100}, ArgumentError, "2 to 19"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(tmp_path, changed, error, message):
    with pytest.raises(error, match=message):
        run(Config(**changed, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rule", "attackers", "expected"),
    [
        ("multi_krum", 3, "multi_krum(f=3"),
        ("trimmed_mean", 1, "trimmed_mean(f=1"),
        ("multi_krum(f=1)", 3, "multi_krum(f=1"),
        ("median", 3, "median"),
        ("mean", 3, "mean"),
    ],
)
def test_a_bare_rule_name_gets_f_from_the_attackers(rule, attackers, expected):
    assert check(Config(rule=rule, attackers=attackers)).text.startswith(expected)


# ---- ledger ----------------------------------------------------------------------------------------------


def test_the_ledger_verifies_and_one_changed_byte_is_named(tmp_path):
    result = run(Config(rounds=3, out=tmp_path / "out"))
    kept = {path: path.read_bytes() for path in result.folder.updates.rglob("*") if path.is_file()}
    audited = audit(result)
    assert audited.ok
    assert audited.verified
    assert audited.report.complete  # nothing was left unchecked
    client = audited.tampering.file.stem
    assert audited.tampering.file.parent.parent.name == "round-000002"
    failed = audited.tampering.report.failed
    assert any("round 2" in c.detail and client in c.detail and "payload" in c.name for c in failed)
    assert all("round 2" in c.detail for c in failed)
    assert kept == {path: path.read_bytes() for path in result.folder.updates.rglob("*") if path.is_file()}
    original = result.folder.updates / audited.tampering.file.relative_to(result.folder.tampered)
    changed = np.frombuffer(original.read_bytes(), np.uint8) ^ np.frombuffer(
        audited.tampering.file.read_bytes(), np.uint8
    )
    assert np.flatnonzero(changed).tolist() == [audited.tampering.offset]


def test_what_is_kept_is_every_update_of_every_round(tmp_path):
    result = run(Config(rounds=2, hospitals=8, out=tmp_path / "out"))
    for number in (1, 2):
        files = (result.folder.updates / f"round-{number:06d}" / "updates").iterdir()
        assert sorted(path.stem for path in files) == sorted(result.sizes)


# ---- folder ----------------------------------------------------------------------------------------------


def test_a_second_run_takes_the_next_namespace_and_keeps_the_first(tmp_path):
    out = tmp_path / "out"
    first = run(Config(rounds=1, out=out))
    before = {path: path.read_bytes() for path in (out / "demo-1").rglob("*") if path.is_file()}
    second = run(Config(rounds=1, out=out))
    assert (first.folder.namespace, second.folder.namespace) == ("demo-1", "demo-2")
    assert before == {path: path.read_bytes() for path in (out / "demo-1").rglob("*") if path.is_file()}
    assert audit(first).ok
    assert audit(second).ok


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArgumentError, match="holds other files"):
        folder.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / folder.MARKER).write_text("{}")  # not what the demo writes
    with pytest.raises(ArgumentError, match="holds other files"):
        folder.prepare(tmp_path)


def test_files_that_a_user_puts_into_the_demo_folder_stay(tmp_path):
    folder.prepare(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert folder.prepare(tmp_path / "out").namespace == "demo-2"
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken_and_missing_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    assert folder.prepare(tmp_path / "empty").namespace == "demo-1"
    assert folder.prepare(tmp_path / "a" / "b").path.is_dir()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="is a file"):
        folder.prepare(tmp_path / "file")
    with pytest.raises(ArgumentError, match="cannot be written"):
        folder.prepare(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_old_file_survives_a_write_that_fails(tmp_path):
    target = tmp_path / "result.json"
    folder.write_whole(target, b"old")
    with pytest.raises(TypeError):
        folder.write_whole(target, "not bytes")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


# ---- command ---------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    app = typer.Typer(rich_markup_mode="rich")
    app.command()(demo)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["--rounds", "2", "--out", str(tmp_path / "out"), *arguments])

    return invoke


def test_json_is_one_object_with_the_promised_keys(call, tmp_path):
    called = call("--json")
    assert called.exit_code == 0
    found = json.loads(called.stdout)
    assert set(found["accuracy"]) == {"attack_free", "mean", "robust"}
    assert found["rounds"] == 2
    assert found["rejected"] == [found["attackers"]] * 2
    assert found["verified"] is True
    assert found["tamper_detected"] is True
    assert found["checks"]["failed"] == found["checks"]["not checked"] == 0
    assert found["checks"]["ok"] >= 20
    assert found["tampered"]["failed"]
    for name in RUNS:
        assert found["accuracy_by_round"][name][-1] == found["accuracy"][name]
        assert len(found["accuracy_by_round"][name]) == 2
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == found


def test_text_tells_accuracy_times_and_both_checks(call, tmp_path):
    called = call()
    assert called.exit_code == 0
    for words in (
        "Breast cancer, 10 hospitals, 2 hostile (sign_flip)",
        "minus 10 x the honest mean",
        "multi_krum(f=2)",
        "hostile updates 4 of 4, honest ones 0 of 16",
        "robust: committing to the ledger",
        "Ledger verified offline: 2 rounds re-run from 20 kept updates",
        " checks ok, 0 failed, 0 NOT CHECKED",
        "Tampering noticed",
        "payload failed: round 2",
        "--namespace demo-1",
        "--trusted 3:",
    ):
        assert words in called.stdout
    lines = called.stdout.splitlines()
    assert max(map(len, lines[:-3])) <= 80  # the last three are paths and a command, to be copied whole
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_quiet_prints_the_result_only(call):
    called = call("--quiet")
    assert called.exit_code == 0
    assert len(called.stdout.splitlines()) < 25  # the table of rounds and the times alone are more
    assert "Ledger verified offline" in called.stdout
    assert "round  " not in called.stdout


def test_without_matplotlib_everything_else_is_done(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    called = call()
    assert called.exit_code == 0
    assert 'pip install "tallystick[demo]"' in " ".join(called.stdout.split())
    assert not (tmp_path / "out" / "accuracy.png").exists()


@pytest.mark.parametrize("broken", ["record", "verifier"])
def test_a_check_that_fails_is_exit_code_1(call, monkeypatch, broken):
    """Either the kept updates are not those on record, or the verifier sees nothing where it should."""
    from tallystick.demo import audit as module

    real = module.verify_ledger

    def fake(ledger, namespace, *, updates, trusted):
        if broken == "record" and updates.name == "updates":
            victim = next(updates.glob("*/updates/*"))
            victim.write_bytes(victim.read_bytes() + b"\0")
        if broken == "verifier":
            updates = updates.with_name("updates")
        return real(ledger, namespace, updates=updates, trusted=trusted)

    monkeypatch.setattr(module, "verify_ledger", fake)
    called = call("--json")
    assert called.exit_code == 1
    found = json.loads(called.stdout)
    assert found["verified"] is (broken == "verifier")
    assert found["tamper_detected"] is (broken == "record")
    text = call("--quiet")
    assert text.exit_code == 1
    assert ("The ledger does not verify" if broken == "record" else "NOT noticed") in text.stdout


def test_bad_input_is_a_typed_error(call, tmp_path):
    called = call("--attackers", "5")
    assert isinstance(called.exception, ArgumentError)
    assert "less than half" in str(called.exception)
    assert not (tmp_path / "out").exists()
    assert call("--rounds", "many").exit_code == 2


def test_help_names_every_attack_and_the_exit_codes(call):
    called = call("--help")
    assert called.exit_code == 0
    words = " ".join(called.stdout.replace("│", " ").split())
    assert all(name in words for name in attacks.ATTACKS)
    assert "1 a check failed, 2 bad input" in words


def test_the_command_is_there_without_loading_what_it_runs():
    code = "import sys, tallystick.demo.command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"sklearn", "matplotlib", "tallystick.demo.federation"} & set(loaded.split())


def test_long_runs_are_thinned_to_a_screenful_with_the_last_round():
    from tallystick.demo.report import ROWS, _thinned

    for count in (1, 19, 20, 21, 40, 41, 100, 1000):
        shown = _thinned(list(range(1, count + 1)))
        assert shown[-1] == count
        assert len(shown) <= ROWS
        assert len(set(np.diff(shown))) <= 1


def test_labels():
    assert short_rule("multi_krum(f=2, m=n-f, neighbors=n-f-2)") == "multi_krum(f=2)"
    assert short_rule("median(kind=mid)") == "median"
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
