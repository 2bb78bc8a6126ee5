"""How accurate a model gets under every attack with every rule, on scikit-learn's digits.

    python benchmarks/bench_robustness.py --picture robustness.png

is `tallystick bench robustness`: the whole table, a few minutes on two cores. Under pytest a small table is
asserted and then timed: without an attack the mean learns, a strong attack breaks it, robust rules hold.
"""

from __future__ import annotations

import pytest

from tallystick.bench.robustness import Settings, run

ROBUST = ("median", "trimmed_mean", "multi_krum")
SMALL = Settings("digits", 11, 2, 20, 0.5, (0,), ("mean", *ROBUST), ("none", "foe"))


@pytest.mark.parametrize("jobs", [1, 2])
def bench_small_table(benchmark, jobs):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    benchmark.group = "robustness: 4 rules, 2 attacks, 20 rounds of 11 clients"
    settings = Settings(**{**vars(SMALL), "jobs": jobs})
    table = benchmark.pedantic(run, args=(settings,), rounds=1)
    assert table.attack_free > 0.8
    assert table.mean("mean", "foe") < 0.2
    for rule in ROBUST:
        assert table.mean(rule, "foe") > 0.5


if __name__ == "__main__":
    import sys

    from tallystick.cli import main

    sys.argv[1:1] = ["bench", "robustness"]
    main()
