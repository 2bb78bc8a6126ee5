"""`tallystick bench robustness`: the table says what training found, in text, JSON and picture."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tallystick import _engine, aggregate
from tallystick.bench import picture, report, robustness
from tallystick.bench.robustness import Heterogeneity, Settings, Table
from tallystick.cli import app
from tallystick.demo import training
from tallystick.errors import ArgumentError, MissingExtraError, RuleError

SMALL = Settings("digits", 7, 1, 2, 0.5, (0,), ("mean", "median"), ("none", "foe"), 1)


def changed(**options):
    return dataclasses.replace(SMALL, **options)


# ---- the table -------------------------------------------------------------------------------------------


def test_a_strong_attack_breaks_the_mean_and_not_the_robust_rules():
    table = robustness.run(
        changed(rounds=20, clients=11, attackers=2, rules=("mean", "trimmed_mean", "multi_krum"))
    )
    assert table.attack_free == table.mean("mean", "none") > 0.85
    assert table.mean("mean", "foe") < 0.3
    assert table.not_defended("mean") == ["foe"]
    assert table.mean("multi_krum", "foe") > 0.85
    assert table.not_defended("multi_krum") == []
    assert table.worst("mean") == "foe"
    assert table.mean("trimmed_mean", "foe") > table.mean("mean", "foe") + 0.4


@pytest.mark.parametrize("attack", robustness.ATTACKS)
def test_every_attack_runs(attack):
    table = robustness.run(changed(rules=("median",), attacks=(attack,), rounds=1))
    assert 0 < table.mean("median", attack) < 1


def test_the_same_settings_give_the_same_table_in_one_process_or_two():
    first = robustness.run(SMALL)
    assert robustness.run(SMALL) == first
    two = robustness.run(changed(jobs=2))
    assert (two.accuracy, two.attack_free, two.heterogeneity) == (
        first.accuracy,
        first.attack_free,
        first.heterogeneity,
    )


def test_seeds_are_independent_runs_and_the_mean_over_them_is_shown():
    both = robustness.run(changed(seeds=(0, 3)))
    for i, seed in enumerate((0, 3)):
        alone = robustness.run(changed(seeds=(seed,)))
        for rule in SMALL.rules:
            for attack in SMALL.attacks:
                assert both.accuracy[rule][attack][i] == alone.accuracy[rule][attack][0]
    a, b = both.accuracy["mean"]["none"]
    assert a != b
    assert both.mean("mean", "none") == (a + b) / 2


def test_a_skewed_split_is_measurably_less_alike_than_an_even_one():
    skewed, even = (
        robustness.run(changed(alpha=alpha, attacks=("none",), rounds=1)).heterogeneity
        for alpha in (0.5, math.inf)
    )
    assert skewed.classes > 0.3 > 0.05 > even.classes >= 0
    assert skewed.updates > 2 * even.updates > 0


def test_a_rule_that_gives_up_on_nan_counts_as_nothing_right():
    more = changed(attackers=2, rules=("trimmed_mean(f=1)", "trimmed_mean"), attacks=("nan",))
    table = robustness.run(more)
    assert table.mean("trimmed_mean(f=1)", "nan") == 0  # two such clients, and f = 1
    assert table.mean("trimmed_mean", "nan") > 0


def test_progress_is_told_cell_by_cell_and_the_reference_is_one_of_them():
    told = []
    table = robustness.run(
        changed(rules=("median",), attacks=("foe",), rounds=1), on_cell=lambda *a: told.append(a)
    )
    assert told == [(1, 2), (2, 2)]
    assert table.attack_free > 0
    assert list(table.accuracy) == ["median"]


def test_bare_names_get_f_and_full_texts_keep_theirs():
    table = robustness.run(changed(rules=("krum", "trimmed_mean(f=2)"), attacks=("none",), rounds=1))
    assert table.texts["krum"].startswith("krum(f=1")
    assert table.texts["trimmed_mean(f=2)"] == "trimmed_mean(f=2)"


def test_default_rules_run_and_are_all_rules_of_this_version(monkeypatch):
    rules = robustness.default_rules(3)
    assert len(set(rules)) == len(rules)
    for text in rules:
        robustness.complete(text, 3).check(Settings().clients)
    named = {stage.split("(")[0] for text in rules for stage in text.split(" | ")}
    assert set(_engine.RULES) - named == robustness.LEFT_OUT
    monkeypatch.setitem(_engine.RULES, "newcomer", _engine.RULES["median"])
    assert robustness.default_rules(3) == (*rules, "newcomer")


@pytest.mark.parametrize("rule", robustness.default_rules(1))
def test_every_default_rule_trains(rule):
    table = robustness.run(changed(rules=(rule,), attacks=("sign_flip",), rounds=1))
    assert 0 < table.mean(rule, "sign_flip") < 1


def one_server(rule):
    federation = robustness._federation("digits", 7, 0.5, 0)
    return robustness._Server(robustness.complete(rule, 1).text, federation, 0), robustness._start(
        federation, 0
    )


def test_a_state_goes_from_round_to_round_and_trying_leaves_it_alone():
    server, model = one_server("centered_clipping(tau=0.5)")
    updates = [{name: np.ones_like(value) for name, value in model.items()}] * 7
    server.begin(model, 1)
    first = server.close(updates)
    server.begin(model, 2)
    tried = server.value(np.ones((7, first.size)))
    second = server.close(updates)
    np.testing.assert_array_equal(tried, second)
    assert np.linalg.norm(first) == pytest.approx(0.5, rel=1e-5)  # half a unit from 0, then from there
    assert np.linalg.norm(second) == pytest.approx(1.0, rel=1e-5)


def test_the_server_trains_on_records_of_its_own_every_round():
    server, model = one_server("fltrust")
    server.begin(model, 1)
    own = server.inputs["server"]
    assert len(server.federation.server.y) == robustness.SERVER
    assert np.linalg.norm(own) > 0
    same = [training.unflatten(own.astype(np.float64), model)] * 7
    np.testing.assert_allclose(server.close(same), own, rtol=1e-5, atol=1e-7)
    server.begin(model, 2)
    assert not np.array_equal(server.inputs["server"], own)  # other batches
    assert one_server("median")[0].inputs == {}


def test_random_rules_draw_anew_every_round():
    text = robustness.complete("bucketing(s=2, seed=5) | median", 1).text
    assert robustness._of_round(text, 1).text == text
    assert "seed=7" in robustness._of_round(text, 3).text
    assert robustness._of_round("median", 3).text == "median(kind=mid)"


def test_the_first_client_is_honest(monkeypatch):
    drawn = []
    monkeypatch.setattr(robustness, "choose", lambda ids, *a: drawn.append(ids) or tuple(ids[:1]))
    robustness.run(changed(rules=("median",), attacks=("foe",), rounds=1))
    assert all("hospital-01" not in ids and len(ids) == 6 for ids in drawn)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": "iris"}, ArgumentError, "digits"),
        ({"clients": 2}, ArgumentError, "3 or more"),
        ({"clients": 100}, ArgumentError, "2 to 58"),
        ({"attackers": 0}, ArgumentError, "1 to 3, less than half"),
        ({"attackers": 4}, ArgumentError, "1 to 3, less than half"),
        ({"rounds": 0}, ArgumentError, "1 to 1000"),
        ({"rounds": 1001}, ArgumentError, "1 to 1000"),
        ({"alpha": 0.0}, ArgumentError, "above 0"),
        ({"alpha": math.nan}, ArgumentError, "above 0"),
        ({"seeds": ()}, ArgumentError, "one or more"),
        ({"seeds": (-1,)}, ArgumentError, ">= 0"),
        ({"seeds": (1, 1)}, ArgumentError, "--seed: given twice: 1"),
        ({"rules": ("median", "median")}, ArgumentError, "--rule: given twice: median"),
        ({"attacks": ("foe", "foe")}, ArgumentError, "--attack: given twice: foe"),
        ({"attacks": ("flattery",)}, ArgumentError, "flattery is not known; allowed: none, sign_flip"),
        ({"attacks": ()}, ArgumentError, "allowed"),
        ({"jobs": -1}, ArgumentError, "1 or more"),
        ({"rules": ("majority_of_none",)}, RuleError, "unknown rule"),
        ({"rules": ("krum(f=3)",)}, RuleError, r"2f \+ 3: got n="),
        ({"rules": ("median(f=3)",)}, RuleError, "unknown parameter"),
    ],
)
def test_bad_settings_are_refused_before_any_training(monkeypatch, options, error, message):
    monkeypatch.setattr(robustness, "_results", lambda *_: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        robustness.run(changed(**options))


# ---- how it is shown -------------------------------------------------------------------------------------


def made(rules=("mean", "a_rule | with_quite_a_long_name"), attacks=robustness.ATTACKS, low="foe"):
    accuracy = {
        rule: {a: (0.13 if i == 0 and a == low else 0.9 - 0.01 * i,) for a in attacks}
        for i, rule in enumerate(rules)
    }
    settings = Settings(rules=rules, attacks=attacks)
    return Table(
        settings, dict(zip(rules, rules, strict=True)), accuracy, 0.92, Heterogeneity(0.5, 2.25), 1.5
    )


def shown(table, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.show(table, width))
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_table_fits_the_screen_and_loses_no_number(width):
    text = shown(made(), width)
    assert max(map(len, text.rstrip().splitlines())) <= width
    lines = text.splitlines()
    long = [line for line in lines if line.startswith("a_rule | with_quite_a_long_name ")]
    assert sum(line.split().count("89") for line in long) == len(robustness.ATTACKS) + len(long) - 1
    assert "…" not in text
    for word in (
        "worst",
        "sign",
        "flip",
        "ipm",
        "gauss",
        "mimic",
        "scale",
        "Dirichlet(0.5)",
        "50 %",
        "2.2 times",
    ):
        assert word in " ".join(text.split())
    assert (len(long) == 2) == (width >= 120)  # one block of numbers, one line below


def test_what_is_not_defended_is_marked_without_colour_too():
    text = shown(made(), 120)
    rows = [line for line in text.splitlines() if line.startswith("mean ")]
    assert rows[0].split()[1] == "13*"  # the worst
    assert rows[0].split().count("13*") == 2
    assert rows[1].split() == ["mean", "foe"]
    assert "nothing of these" in text
    hopeless = made()
    hopeless.attack_free = 1.0
    assert "all of these" in shown(hopeless, 120)
    assert "more than 10 points below 92" in text


def test_the_worst_case_is_the_lowest_and_the_margin_counts_from_the_mean_without_attack():
    table = made(low="nan")
    assert table.worst("mean") == "nan"
    assert table.not_defended("mean") == ["nan"]
    table.attack_free = 0.9901
    assert table.not_defended("a_rule | with_quite_a_long_name") == list(robustness.ATTACKS)
    assert table.not_defended("mean") == ["nan"]


def test_the_picture_is_a_png_with_all_rules_and_attacks(tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(made(), tmp_path / "r.png")
    content = (tmp_path / "r.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    small = made(attacks=("none", "foe"))
    picture.draw(small, tmp_path / "small.png")
    width, small_width = (
        int.from_bytes(path.read_bytes()[16:20], "big")
        for path in (tmp_path / "r.png", tmp_path / "small.png")
    )
    assert width > 2 * small_width
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["r.png", "small.png"]


# ---- the command -----------------------------------------------------------------------------------------


QUICK = ["bench", "robustness", "-n", "7", "-f", "1", "--rounds", "1", "--jobs", "1"]
QUICK += ["--rule", "mean", "--rule", "krum", "--attack", "none", "--attack", "foe"]


def call(*arguments, **environment):
    seed = [] if "--seed" in arguments else ["--seed", "0"]
    return CliRunner().invoke(
        app, [*QUICK, *seed, *map(str, arguments)], env={"COLUMNS": "100", **environment}
    )


def test_json_is_one_object_with_the_promised_keys(tmp_path):
    called = call("--json", "--seed", 0, "--seed", 1, "--picture", tmp_path / "r.png")
    assert called.exit_code == 0
    found = json.loads(called.stdout)
    assert set(found) == {
        *("accuracy", "worst", "not_defended", "attack_free", "margin", "heterogeneity", "by_seed", "rules"),
        *("attacks", "data", "clients", "attackers", "rounds", "alpha", "seeds", "seconds", "picture"),
    }
    assert list(found["accuracy"]) == ["mean", "krum"]
    assert list(found["accuracy"]["krum"]) == found["attacks"] == ["none", "foe"]
    assert found["rules"]["krum"] == aggregate.rule("krum(f=1)").text
    assert found["worst"]["mean"] == {"attack": "foe", "accuracy": found["accuracy"]["mean"]["foe"]}
    assert (
        found["attack_free"] == found["accuracy"]["mean"]["none"] == np.mean(found["by_seed"]["mean"]["none"])
    )
    assert len(found["by_seed"]["krum"]["foe"]) == 2
    assert (found["alpha"], found["seeds"], found["clients"], found["attackers"]) == (0.5, [0, 1], 7, 1)
    assert set(found["heterogeneity"]) == {"classes", "updates"}
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(call("--json", "--iid").stdout)["alpha"] == "iid"


def test_text_holds_the_table_and_what_is_not_defended(tmp_path):
    called = call("--picture", tmp_path / "r.png")
    assert called.exit_code == 0
    text = " ".join(called.stdout.split())
    assert "Digits, 7 clients, 1 hostile, 1 round, split by Dirichlet(0.5), seed 0" in text
    assert "rule worst none foe" in text
    assert "what is not defended" in text
    assert "r.png" in called.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--attack", "flattery"], ArgumentError, "flattery is not known"),
        (["--rule", "nothing_known"], RuleError, "unknown rule"),
        (["--alpha", "-1"], ArgumentError, "--alpha"),
        (["--picture", "/no/such/folder/r.png"], ArgumentError, "--picture"),
        (["--picture", "/"], ArgumentError, "--picture"),
    ],
)
def test_bad_input_is_a_typed_error(arguments, error, message):
    called = call(*arguments)
    assert isinstance(called.exception, error)
    assert message in str(called.exception)
    assert called.stdout == ""


def test_bad_input_is_one_line_and_exit_code_2():
    code = "from tallystick.cli import main; main()"
    command = [sys.executable, "-c", code, *QUICK, "--attackers", "4"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert "1 to 3, less than half" in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    assert call("--rounds", "many").exit_code == 2


def test_without_matplotlib_a_picture_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(robustness, "_results", lambda *_: pytest.fail("trained"))
    called = call("--picture", tmp_path / "r.png")
    assert isinstance(called.exception, MissingExtraError)
    assert 'pip install "tallystick[bench]"' in str(called.exception)


def test_the_command_is_there_without_loading_what_it_runs():
    code = "import sys, tallystick.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"sklearn", "matplotlib", "tallystick.attacks", "tallystick.bench.robustness"}
    assert not heavy & set(loaded.split())
