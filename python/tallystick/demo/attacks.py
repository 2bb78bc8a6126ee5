"""The attacks of `tallystick.attacks` by name, each with one number, its strength, and label flipping.

ATTACKS holds them; forge(name, ...) calls one. label_flip and scaling want hostile clients that train on
wrong classes: flip_labels(y, classes) makes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tallystick import attacks
from tallystick.attacks import AnyRule
from tallystick.errors import ArgumentError

__all__ = ["ATTACKS", "Attack", "attack", "flip_labels", "forge"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def flip_labels(y: Labels, classes: int) -> Labels:
    """Class c becomes classes - 1 - c (Tolpegin et al., ESORICS 2020; pairs as in ByzFL, Blades)."""
    return classes - 1 - y


@dataclass(frozen=True)
class Attack:
    """An attack by name.

    function: what forges the updates; None where wrong labels are the whole attack. strength: the default;
    option: what of the function it sets ("": nothing), through `convert`. summary: what is sent, {s} for the
    strength. seeded: wants a seed; adapts: wants the rule in use; trains: the hostile clients train, on wrong
    labels.
    """

    name: str
    function: Callable[..., Floats] | None
    strength: float
    summary: str
    option: str = ""
    convert: Callable[[float], Any] = float
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = False
    adapts: bool = False
    trains: bool = False


def _index(strength: float) -> float | int:
    return int(strength) if strength == int(strength) else strength


def _sign(strength: float) -> int:
    return int(math.copysign(1, strength))


_BACK, _OUT = "minus {s:g} x the honest mean", "{s:g} x as far out as "
ATTACKS: dict[str, Attack] = {
    a.name: a
    for a in (
        Attack("sign_flip", attacks.sign_flip, 10.0, _BACK, "factor"),
        Attack("ipm", attacks.ipm, 0.5, _BACK + ", hidden among honest updates", "factor"),
        Attack("foe", attacks.foe, 100.0, _BACK, "factor"),
        Attack("alie", attacks.alie, 1.5, "honest mean + {s:g} standard deviations", "z"),
        Attack(
            "alie_minus",
            attacks.alie,
            1.5,
            "honest mean - {s:g} standard deviations",
            "z",
            fixed={"sign": -1},
        ),
        Attack(
            "optimal_alie",
            attacks.optimal_alie,
            10.0,
            "as many standard deviations as harm the rule most, searched in steps from {s:g}",
            "delta",
            adapts=True,
        ),
        Attack(
            "optimal_ipm",
            attacks.optimal_ipm,
            10.0,
            "the multiple of the honest mean that harms the rule most, searched in steps from {s:g}",
            "delta",
            adapts=True,
        ),
        Attack(
            "min_max",
            attacks.min_max,
            1.0,
            _OUT + "the two farthest honest updates are apart",
            "factor",
        ),
        Attack("min_sum", attacks.min_sum, 1.0, _OUT + "the sum of honest distances allows", "factor"),
        Attack("mimic", attacks.mimic, 0.0, "a copy of honest client {s:g}", "client", _index),
        Attack(
            "gaussian",
            attacks.gaussian,
            1.0,
            "normal noise of standard deviation {s:g}",
            "std",
            seeded=True,
        ),
        Attack("label_flip", None, 1.0, "honest training on wrong labels", trains=True),
        Attack(
            "scaling",
            attacks.scaling,
            1.0,
            "what replaces the mean by {s:g} x an update trained on wrong labels",
            "target",
            trains=True,
        ),
        Attack("zero", attacks.zero, 0.0, "{s:g} in every parameter: a free rider", "value"),
        Attack("nan", attacks.nan, 0.0, "not a number"),
        Attack("inf", attacks.inf, 1.0, "infinity", "sign", _sign),
    )
}


def attack(name: str) -> Attack:
    """The attack called `name`; ArgumentError with the list of names otherwise."""
    if name not in ATTACKS:
        raise ArgumentError(f"attack {name!r} is not known; allowed: {', '.join(ATTACKS)}")
    return ATTACKS[name]


def forge(
    name: str,
    honest: Floats,
    f: int,
    *,
    strength: float | None = None,
    seed: int | list[int] = 0,
    rule: AnyRule = "mean",
    trained: Floats | None = None,
) -> Floats:
    """What f hostile clients send under the attack `name`, shape (f, parameters). strength None: its own.

    honest: (clients, parameters). seed: of gaussian. rule: the one in use, for attacks that adapt to it.
    trained: for scaling, an update trained on wrong labels, which the attack makes the outcome of the mean.
    """
    chosen = attack(name)
    value = chosen.strength if strength is None else strength
    if not math.isfinite(value):
        raise ArgumentError(f"strength {value}: a finite number")
    if chosen.function is None:
        raise ArgumentError(f"{name} acts on labels: use flip_labels(y, classes) and train on the result")
    options = dict(chosen.fixed)
    if chosen.option == "target":
        if trained is None:
            raise ArgumentError(f"{name}: trained= expected, an update trained on wrong labels")
        options["target"] = value * trained
    elif chosen.option:
        options[chosen.option] = chosen.convert(value)
    if chosen.seeded:
        options["seed"] = seed
    if chosen.adapts:
        options["rule"] = rule
    return chosen.function(honest, f, **options)
