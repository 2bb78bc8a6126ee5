"""What a rule is made of: parameters and their checks, what it sees of the updates, what it answers.

View     n rows (clients, or mixtures of them that pre-aggregators made) and squared distances between them
Choice   what a rule makes of a view: weights of whole rows, or a column rule over some of them
Plan     the same in terms of clients: all that is needed to compute the aggregate, or a part of it
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._rule_text import Value
from .errors import RuleError

__all__ = [
    "Choice",
    "Floats",
    "Parameter",
    "Parameters",
    "Plan",
    "Spec",
    "View",
    "choice",
    "count",
    "needs_at_least",
    "no_bounds",
    "real",
    "seed",
    "whole",
]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Parameters = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Parameter:
    """default None: required. check(rule, key, value) gives the canonical value or raises RuleError."""

    default: Value | None
    check: Callable[[str, str, Any], Value]


@dataclass(slots=True)
class View:
    """What a rule decides on.

    table: squared distances of the n rows and, after them, of the rows that `extra` names: "zero" (the
    origin), "state", "server". shares: reported weights of the rows. clients: the client that each row comes
    from. sample: distances over some columns only.
    """

    n: int
    size: int  # rows of the table: n, and the extra ones
    table: Floats
    extra: dict[str, int]
    shares: Floats
    clients: list[int]
    sample: Callable[[int, int, int], Floats] | None = None

    def to(self, name: str) -> list[float]:
        """Distance of every row to an extra one: norms for "zero"."""
        column = self.table[: self.n, self.extra[name]]
        return [math.sqrt(d) for d in column.tolist()]

    def pairs(self) -> Floats:
        """Squared distances between the n rows."""
        return np.ascontiguousarray(self.table[: self.n, : self.n])


@dataclass(slots=True)
class Choice:
    """kernel "mean": exact mean of rows with weights >= 0; "combine": sum of weights times rows; else the
    name of a column rule, with its argument, over the rows `selected`.

    weights: of all rows of the view, extra ones included. scores: one per row. reason: why the other rows
    were left out.
    """

    kernel: str
    selected: Sequence[int]
    weights: Floats | None = None
    argument: Any = None
    scores: Sequence[float] | Floats | None = None
    reason: str = "left out by the rule"
    noise: tuple[float, int] | None = None  # standard deviation, seed
    may_overflow: str = ""  # of a sum that is no mean of finite values: what to say if it leaves the dtype


@dataclass(frozen=True, slots=True)
class Plan:
    """kernel as in Choice, or "mixed": the column rule `column` over matrix times rows.

    rows: of the batch (clients, then the extra updates in `extra`), in ascending order.
    """

    kernel: str
    rows: tuple[int, ...]
    weights: Floats | None = None
    argument: Any = None
    column: str = ""
    matrix: Floats | None = None
    noise: tuple[float, int] | None = None
    extra: tuple[str, ...] = ()
    may_overflow: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A rule or a pre-aggregator.

    check(n, parameters) raises RuleError for bounds that n rows do not meet. needs: "distances", and the
    extra rows among "zero", "state", "server"; "sample" for distances over sampled columns.
    decide: of a rule; mix: of a pre-aggregator, an (m, size) matrix whose rows sum to 1, and for each of the
    n rows the new row that stands for it.
    """

    parameters: Mapping[str, Parameter]
    check: Callable[[int, Parameters], None]
    needs: frozenset[str] = field(default_factory=frozenset)
    decide: Callable[[View, Parameters], Choice] | None = None
    mix: Callable[[View, Parameters], tuple[Floats, list[int]]] | None = None
    keeps_clients: bool = False  # of a pre-aggregator: row i is still client i, scaled
    rows: Callable[[int, Parameters], int] = lambda n, parameters: n  # of a pre-aggregator: how many it makes


# ---- parameters ------------------------------------------------------------------------------------------


def _as_whole(rule: str, key: str, value: Any, what: str) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise RuleError(
            f"{rule}: {key} is {what}, a whole number >= 0 expected, got {value!r:.200}"
        ) from None


def count(default: Value | None = None, *words: str) -> Parameter:
    """A number of clients, or one of some words such as n-f."""

    def check(rule: str, key: str, value: Any) -> Value:
        if isinstance(value, str) and value in words:
            return value
        number = _as_whole(rule, key, value, "a number of clients")
        if number < 0:
            raise RuleError(f"{rule}: {key} >= 0 expected, got {number}")
        return number

    return Parameter(default, check)


def whole(default: int | None, low: int, high: int) -> Parameter:
    def check(rule: str, key: str, value: Any) -> Value:
        number = _as_whole(rule, key, value, "a number")
        if not low <= number <= high:
            raise RuleError(f"{rule}: {low} <= {key} <= {high} expected, got {number}")
        return number

    return Parameter(default, check)


def seed() -> Parameter:
    """What random choices are keyed by: published in the rule's text, so that others can repeat them."""
    return whole(0, 0, 2**53 - 1)


def real(default: Value | None, low: float, high: float, *words: str) -> Parameter:
    """A real number in [low, high], or one of some words."""

    def check(rule: str, key: str, value: Any) -> Value:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.integer, np.floating)):
            allowed = " or ".join([*words, f"a number in [{low!r}, {high!r}]"])
            raise RuleError(f"{rule}: {key}: {allowed} expected, got {value!r:.200}")
        number = _as_float(value) + 0.0  # -0.0 is 0.0
        if not low <= number <= high:
            raise RuleError(f"{rule}: {low!r} <= {key} <= {high!r} expected, got {number!r}")
        return number

    return Parameter(default, check)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def choice(default: str, *allowed: str) -> Parameter:
    def check(rule: str, key: str, value: Any) -> Value:
        if not isinstance(value, str) or value not in allowed:
            raise RuleError(f"{rule}: {key} is one of {', '.join(allowed)}, got {value!r:.200}")
        return value

    return Parameter(default, check)


# ---- bounds on n -----------------------------------------------------------------------------------------


def no_bounds(n: int, parameters: Parameters) -> None:
    """Any n >= 1 will do."""


def needs_at_least(name: str, times_f: int, more: int) -> Callable[[int, Parameters], None]:
    """n >= times_f * f + more."""
    times = "f" if times_f == 1 else f"{times_f}f"

    def check(n: int, parameters: Parameters) -> None:
        f = int(parameters["f"])
        if n < times_f * f + more:
            raise RuleError(f"{name} needs n >= {times} + {more}: got n={n}, f={f}")

    return check
