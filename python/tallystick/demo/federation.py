"""The same federation three times, on the same seeds: in peace, and under attack with two aggregation rules.

attack_free   everybody honest, weighted mean: what the federation can reach
mean          the attackers attack, weighted mean
robust        the attackers attack, a robust rule, every round through tallystick.Round into an SQLite ledger

The three advance side by side, one round at a time. Batches, starting model and hospitals are the same; each
federation then goes its own way, because its model does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tallystick import aggregate, ledger
from tallystick.attacks import AnyRule
from tallystick.errors import NonFiniteError
from tallystick.round import Round

from . import data, training
from .clients import Clients, choose
from .config import Config, check
from .folder import Folder, prepare

__all__ = ["RUNS", "Result", "RoundReport", "run"]

RUNS = ("attack_free", "mean", "robust")


@dataclass(frozen=True)
class RoundReport:
    """One round of all three federations: accuracy on held-out records, and whom the robust rule left out."""

    number: int
    accuracy: dict[str, float]  # by run
    rejected: dict[str, str]  # client -> reason


@dataclass
class Result:
    """What came of it. times: seconds by stage, of all rounds together."""

    config: Config
    rule: str  # canonical text
    folder: Folder
    sizes: dict[str, int]  # records by hospital
    held_out: int  # records that accuracy is measured on
    attackers: tuple[str, ...]
    rounds: list[RoundReport] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    head: ledger.Head | None = None  # of the log after the last round: what an auditor would keep elsewhere

    def final(self, which: str) -> float:
        """Accuracy after the last round."""
        return self.rounds[-1].accuracy[which]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_time(stage, time.perf_counter() - start)

    def add_time(self, stage: str, seconds: float) -> None:
        self.times[stage] = self.times.get(stage, 0.0) + seconds


def run(
    config: Config,
    *,
    on_start: Callable[[Result], None] | None = None,
    on_round: Callable[[RoundReport], None] | None = None,
) -> Result:
    """Runs the three federations and returns what they reached.

    on_start sees the result before the first round, on_round each round when it is done. Everything about
    `config` is checked before anything is written. Raises ArgumentError, RuleError, MissingExtraError.
    """
    rule = check(config)
    federation = data.load(config.data, config.hospitals, config.seed)
    folder = prepare(config.out)
    sizes = {h.id: len(h.y) for h in federation.hospitals}
    hostile = choose(tuple(sizes), config.attackers, config.seed)
    clients = Clients(federation, hostile, config.attack, config.strength, config.seed)
    result = Result(config, rule.text, folder, sizes, len(federation.test_y), hostile)
    if on_start is not None:
        on_start(result)
    start = training.initial(federation.features, len(federation.classes), config.seed)
    models = dict.fromkeys(RUNS, start)
    with ledger.connect(folder.ledger) as book:
        for number in range(1, config.rounds + 1):
            trained = _Round(clients, number, result)
            with_mean = {name: _mean_step(models[name], trained, name == "mean") for name in RUNS[:2]}
            models["robust"], rejected = _robust_step(models["robust"], trained, rule, book)
            models.update(with_mean)
            accuracy = {
                name: training.accuracy(models[name], federation.test_x, federation.test_y) for name in RUNS
            }
            report = RoundReport(number, accuracy, rejected)
            result.rounds.append(report)
            if on_round is not None:
                on_round(report)
        result.head = book.head(folder.namespace)
    return result


@dataclass
class _Round:
    """What the hospitals send in one round, timed."""

    clients: Clients
    number: int
    result: Result

    @property
    def weights(self) -> list[float]:
        """Records held: what honest hospitals report, and hostile ones too (they could lie upwards)."""
        return [float(len(h.y)) for h in self.clients.federation.hospitals]

    def honest(self, model: training.Model) -> list[training.Model]:
        with self.result.timed("training"):
            return self.clients.honest(model, self.number)

    def attacked(self, model: training.Model, rule: AnyRule) -> list[training.Model]:
        with self.result.timed("training"):
            return self.clients.attacked(model, self.number, rule)


def _mean_step(model: training.Model, trained: _Round, attacked: bool) -> training.Model:
    """One round with the weighted mean; NaN or infinity from one client and the model is lost for good."""
    if not all(np.isfinite(value).all() for value in model.values()):
        return model
    updates = trained.attacked(model, "mean") if attacked else trained.honest(model)
    with trained.result.timed("mean"):
        try:
            step: training.Model = aggregate.mean(updates, trained.weights)
        except NonFiniteError:
            step = {name: np.full_like(value, np.nan) for name, value in model.items()}
    return training.add(model, step)


def _robust_step(
    model: training.Model, trained: _Round, rule: aggregate.Rule, book: ledger.Ledger
) -> tuple[training.Model, dict[str, str]]:
    """One round with the robust rule, on the record."""
    updates = trained.attacked(model, rule)
    folder = trained.result.folder
    with Round(
        folder.namespace, number=trained.number, rule=rule, ledger=book, base=model, keep=folder.updates
    ) as r:
        for hospital, update, weight in zip(
            trained.clients.federation.hospitals, updates, trained.weights, strict=True
        ):
            r.submit(hospital.id, update, weight=weight)
        outcome = r.close()
    for stage, seconds in outcome.times.items():
        trained.result.add_time(stage, seconds)
    rejected = {str(client): reason for client, reason in outcome.rejected.items()}
    return training.add(model, outcome.value), rejected
