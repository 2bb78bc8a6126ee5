"""Which rule holds against which attack: one federation trained under every pair of them.

Every cell of the table trains the demo's model on the same split, the same start and the same batches; it
differs from its neighbours by the rule or the attack alone. Updates count alike (no weights), so that all
rules answer the same question. Numbers depend on the settings, not on how many processes share the work.

What some rules want beyond the updates is there for all of them: the server has SERVER records of its own, a
seed in a rule's text is raised by one every round, and the first client, whom monna trusts, is honest.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tallystick import _backend, _engine, aggregate
from tallystick.demo import attacks, data, training
from tallystick.demo.clients import Clients, choose
from tallystick.demo.config import complete
from tallystick.errors import ArgumentError, NonFiniteError, RuleError

__all__ = ["ATTACKS", "MARGIN", "RULES", "Heterogeneity", "Settings", "Table", "default_rules", "run"]

NONE = "none"  # the column without an attack
MARGIN = 0.10  # below the mean without an attack by more than this: not defended
TRAINING = training.Training(epochs=1, batch=32, rate=0.1)
MOST_ROUNDS = 1000
SERVER = 96  # records that the server holds: as many as a client has on average by default

ATTACKS = (
    NONE,
    "sign_flip",
    "ipm",
    "foe",
    "alie",
    "alie_minus",
    "optimal_alie",
    "optimal_ipm",
    "min_max",
    "min_sum",
    "mimic",
    "gaussian",
    "label_flip",
    "nan",
    "scaling",
)
# The demo boosts its flip to be seen; here foe is the boosted one.
STRENGTHS: Mapping[str, float] = {"sign_flip": 1.0}

# centered_clipping wants a radius that fits the updates: their lengths are about 0.9 at first, 0.2 at last.
RULES = (
    "mean",
    "median",
    "trimmed_mean",
    "meamed",
    "phocas",
    "krum",
    "multi_krum",
    "bulyan",
    "mda",
    "monna",
    "cge",
    "smea",
    "dnc",
    "geometric_median",
    "centered_clipping(tau=0.3)",
    "norm_clipping",
    "caf",
    "foolsgold",
    "fltrust",
    "flame",
    "nnm | trimmed_mean",
    "nnm | krum",
    "nnm | geometric_median",
    "arc | nnm | trimmed_mean",
    "bucketing(s=2) | median",
)
LEFT_OUT = {"majority"}  # it returns signs, not an update

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What is run. alpha: Dirichlet parameter of the split, math.inf for IID. rules: their texts; stages
    without parameters get f = attackers where they take an f. jobs: processes, 0 for one per core.
    """

    data: str = "digits"
    clients: int = 15
    attackers: int = 3
    rounds: int = 40
    alpha: float = 0.5
    seeds: tuple[int, ...] = (0, 1)
    rules: tuple[str, ...] = ()  # empty: all of default_rules()
    attacks: tuple[str, ...] = ATTACKS
    jobs: int = 0


@dataclass(frozen=True)
class Heterogeneity:
    """How unlike the clients are, mean over seeds.

    classes: total variation distance between a client's mix of classes and that of all records, 0 to 1, mean
    over clients. updates: mean squared distance of their first updates from the mean update, over its
    squared length.
    """

    classes: float
    updates: float


@dataclass
class Table:
    """What came of it. accuracy[rule][attack]: one share of held-out records per seed; 0 where the model
    was lost to NaN or infinity. texts: canonical text by rule. attack_free: of the plain mean.
    """

    settings: Settings
    texts: dict[str, str]
    accuracy: dict[str, dict[str, tuple[float, ...]]]
    attack_free: float
    heterogeneity: Heterogeneity
    seconds: float = field(default=0.0, compare=False)

    def mean(self, rule: str, attack: str) -> float:
        """Over seeds."""
        values = self.accuracy[rule][attack]
        return math.fsum(values) / len(values)

    def worst(self, rule: str) -> str:
        """The attack under which accuracy is lowest; the first of equal ones."""
        return min(self.settings.attacks, key=lambda attack: self.mean(rule, attack))

    def defended(self, rule: str, attack: str) -> bool:
        return self.mean(rule, attack) >= self.attack_free - MARGIN

    def not_defended(self, rule: str) -> list[str]:
        """The attacks that cost more than MARGIN, "none" among them if the rule itself does."""
        return [attack for attack in self.settings.attacks if not self.defended(rule, attack)]


def default_rules(f: int) -> tuple[str, ...]:
    """RULES, and every rule of this version that they do not name."""
    named = {stage for text in RULES for stage in re.findall(r"[a-z][a-z0-9_]*(?=\(|\s*\||\s*$)", text)}
    new = [name for name in sorted(_engine.RULES) if name not in named | LEFT_OUT]
    return (*RULES, *(text for text in new if _takes_only_f(text, f)))


def run(settings: Settings, *, on_cell: Callable[[int, int], None] | None = None) -> Table:
    """Trains all of it; on_cell(done, all) after every cell.

    Raises ArgumentError, RuleError for settings that are not allowed, MissingExtraError without scikit-learn,
    all before training.
    """
    start = time.perf_counter()
    settings, texts = _check(settings)
    pairs = [(rule, attack) for rule in settings.rules for attack in settings.attacks]
    mean = texts.get("mean", "mean")
    wanted = dict.fromkeys([(mean, NONE), *((texts[rule], attack) for rule, attack in pairs)])
    cells = [(settings, text, attack, seed) for text, attack in wanted for seed in settings.seeds]
    found: dict[tuple[str, str, int], float] = {}
    for cell, value in zip(cells, _results(cells, settings.jobs), strict=True):
        found[cell[1:]] = value
        if on_cell is not None:
            on_cell(len(found), len(cells))

    def by_seed(text: str, attack: str) -> tuple[float, ...]:
        return tuple(found[text, attack, seed] for seed in settings.seeds)

    accuracy: dict[str, dict[str, tuple[float, ...]]] = {rule: {} for rule in settings.rules}
    for rule, attack in pairs:
        accuracy[rule][attack] = by_seed(texts[rule], attack)
    base = by_seed(mean, NONE)
    return Table(
        settings,
        texts,
        accuracy,
        math.fsum(base) / len(base),
        _heterogeneity(settings),
        time.perf_counter() - start,
    )


# ---- settings --------------------------------------------------------------------------------------------


def _takes_only_f(name: str, f: int) -> bool:
    """Whether the rule runs without other parameters."""
    try:
        complete(name, f)
    except RuleError:
        return False
    return True


def _check(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with their default rules, and every rule's canonical text; each rule is tried once."""
    if settings.data not in data.DATASETS:
        raise ArgumentError(f"--data {settings.data!r} is not known; allowed: {', '.join(data.DATASETS)}")
    if settings.clients < 3:
        raise ArgumentError(f"--clients {settings.clients}: 3 or more")
    most = (settings.clients - 1) // 2
    if not 1 <= settings.attackers <= most:
        raise ArgumentError(
            f"--attackers {settings.attackers} of {settings.clients} clients: 1 to {most}, less than half"
        )
    if not 1 <= settings.rounds <= MOST_ROUNDS:
        raise ArgumentError(f"--rounds {settings.rounds}: 1 to {MOST_ROUNDS}")
    if not settings.alpha > 0:
        raise ArgumentError(f"--alpha {settings.alpha}: a number above 0")
    if settings.jobs < 0:
        raise ArgumentError(f"--jobs {settings.jobs}: 1 or more, or 0 for one per core")
    if not settings.seeds or min(settings.seeds) < 0:
        raise ArgumentError(f"--seed: one or more whole numbers >= 0 expected, got {settings.seeds}")
    allowed = [NONE, *attacks.ATTACKS]
    if not settings.attacks or set(settings.attacks) - set(allowed):
        unknown = sorted(set(settings.attacks) - set(allowed))
        raise ArgumentError(f"--attack {', '.join(unknown)} is not known; allowed: {', '.join(allowed)}")
    for name in ("seeds", "rules", "attacks"):
        given = getattr(settings, name)
        if len(set(given)) < len(given):
            twice = sorted({str(v) for v in given if given.count(v) > 1})
            raise ArgumentError(f"--{name[:-1]}: given twice: {', '.join(twice)}")
    rules = settings.rules or default_rules(settings.attackers)
    texts = {text: complete(text, settings.attackers).text for text in rules}
    for rule in texts.values():
        aggregate.rule(rule).check(settings.clients)
    for seed in settings.seeds:
        _federation(settings.data, settings.clients, settings.alpha, seed)
    settings = Settings(**{**vars(settings), "rules": tuple(rules)})
    return settings, texts


# ---- cells -----------------------------------------------------------------------------------------------

Cell = tuple[Settings, str, str, int]  # settings, canonical rule, attack, seed


def _results(cells: Sequence[Cell], jobs: int) -> Iterator[float]:
    """Accuracy of every cell, in order, worked out by several processes."""
    jobs = min(jobs or _cores(), len(cells))
    if jobs == 1:
        yield from map(_accuracy, cells)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with (
        _one_blas_thread(),
        ProcessPoolExecutor(jobs, get_context("spawn"), _backend.set_num_threads, (1,)) as pool,
    ):
        try:
            yield from pool.map(_accuracy, cells)
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """For processes started inside: they share the cores already."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: value or "1" for name, value in before.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def _accuracy(cell: Cell) -> float:
    """After the last round, on held-out records; 0 if NaN or infinity ended the training."""
    settings, text, attack, seed = cell
    federation = _federation(settings.data, settings.clients, settings.alpha, seed)
    hostile = choose([h.id for h in federation.hospitals[1:]], settings.attackers, seed)
    clients = Clients(federation, hostile, attack, STRENGTHS.get(attack), seed, TRAINING)
    server = _Server(text, federation, seed)
    model = _start(federation, seed)
    with np.errstate(all="ignore"):  # a model under attack may leave float32
        for number in range(1, settings.rounds + 1):
            server.begin(model, number)
            try:
                updates = (
                    clients.honest(model, number)
                    if attack == NONE
                    else clients.attacked(model, number, server.value)
                )
                model = training.add(model, training.unflatten(server.close(updates), model))
            except NonFiniteError:
                return 0.0
        return training.accuracy(model, federation.test_x, federation.test_y)


class _Server:
    """Aggregates the rounds of one cell, and has what the rule wants beyond the updates."""

    def __init__(self, text: str, federation: data.Federation, seed: int) -> None:
        self.text, self.federation, self.seed = text, federation, seed
        self.rule = aggregate.rule(text)
        self.inputs: dict[str, Any] = {}

    def begin(self, model: training.Model, number: int) -> None:
        self.rule = _of_round(self.text, number)
        if "server" in self.rule.inputs:
            assert self.federation.server is not None
            own = training.train(model, self.federation.server, TRAINING, [self.seed, 6, number])
            self.inputs["server"] = training.flatten(own).astype(np.float32)

    def value(self, rows: Floats) -> Floats:
        """What the rule would make of these updates, one a row, in this round."""
        return np.asarray(self._outcome(rows).value, np.float64)

    def close(self, updates: Sequence[training.Model]) -> Floats:
        """The round's aggregate."""
        outcome = self._outcome(np.stack([training.flatten(update) for update in updates]))
        if "state" in self.rule.inputs:
            self.inputs["state"] = outcome.state
        return np.asarray(outcome.value, np.float64)

    def _outcome(self, rows: Floats) -> aggregate.Outcome:
        return self.rule(rows.astype(np.float32), **self.inputs)


def _of_round(text: str, number: int) -> aggregate.Rule:
    """The rule with other random choices than in the round before."""
    return aggregate.rule(re.sub(r"\bseed=(\d+)", lambda m: f"seed={int(m[1]) + number - 1}", text))


@lru_cache(maxsize=8)
def _federation(name: str, clients: int, alpha: float, seed: int) -> data.Federation:
    return data.load(name, clients, seed, skew=alpha, uneven=0.0, server=SERVER)


def _start(federation: data.Federation, seed: int) -> training.Model:
    return training.initial(federation.features, len(federation.classes), seed)


def _heterogeneity(settings: Settings) -> Heterogeneity:
    classes, spread = [], []
    for seed in settings.seeds:
        federation = _federation(settings.data, settings.clients, settings.alpha, seed)
        counts = np.array(
            [np.bincount(h.y, minlength=len(federation.classes)) for h in federation.hospitals], np.float64
        )
        mixes, overall = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
        classes.append(float(np.abs(mixes - overall).sum(axis=1).mean() / 2))
        honest = Clients(federation, (), "nan", None, seed, TRAINING).honest(_start(federation, seed), 1)
        rows = np.stack([training.flatten(update) for update in honest])
        mean = rows.mean(axis=0)
        spread.append(float(((rows - mean) ** 2).sum() / len(rows) / (mean**2).sum()))
    return Heterogeneity(*(math.fsum(values) / len(values) for values in (classes, spread)))
