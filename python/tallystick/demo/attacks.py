"""What hostile clients send: the attacks that robust aggregation is judged by.

Every attack knows all honest updates of the round (the strongest position) and is a function

    attack(honest, f, *, strength=..., rng=...) -> (f, parameters) float64

    honest    (clients, parameters), the updates of the honest clients, finite, at least one
    f         number of hostile clients, 0 or more
    strength  one number, with the meaning the function gives it; its default is the one the demo uses
    rng       only gaussian draws from it

No attack writes into `honest`. label_flip alone works on labels: the client then trains as told, on wrong
classes. ATTACKS holds them by name; forge(name, ...) calls one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tallystick.errors import ArgumentError

__all__ = [
    "ATTACKS",
    "Attack",
    "alie",
    "alie_minus",
    "attack",
    "flip_labels",
    "foe",
    "forge",
    "gaussian",
    "inf",
    "ipm",
    "mimic",
    "min_max",
    "min_sum",
    "nan",
    "sign_flip",
    "zero",
]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Rng = np.random.Generator


def sign_flip(honest: Floats, f: int, *, strength: float = 10.0, rng: Rng | None = None) -> Floats:
    """-strength times the mean of the honest updates: the way back, boosted.

    strength 1 is the bare flip, which a weighted mean over 10 clients of which 2 attack survives, as
    0.8 - 0.2 > 0. An attacker who wants to turn the model round boosts it, by the number of clients say
    (explicit boosting, Bhagoji et al., ICML 2019): hence 10. At 1 or 2 it does less, but passes for one of
    several unlike hospitals, so that distance rules keep it.
    """
    return _all(-strength * honest.mean(axis=0), f)


def ipm(honest: Floats, f: int, *, strength: float = 0.5, rng: Rng | None = None) -> Floats:
    """Inner product manipulation: -strength times the mean, small enough to hide (Xie et al., UAI 2019)."""
    return _all(-strength * honest.mean(axis=0), f)


def foe(honest: Floats, f: int, *, strength: float = 100.0, rng: Rng | None = None) -> Floats:
    """Fall of empires: inner product manipulation with a large factor (Xie et al., UAI 2019)."""
    return _all(-strength * honest.mean(axis=0), f)


def alie(honest: Floats, f: int, *, strength: float = 1.5, rng: Rng | None = None) -> Floats:
    """A little is enough: honest mean + strength standard deviations, per parameter (Baruch et al., NeurIPS
    2019).

    The paper derives the factor from the number of clients; for 10 with 2 hostile that gives 0, hence ByzFL's
    1.5.
    """
    return _all(honest.mean(axis=0) + strength * honest.std(axis=0), f)


def alie_minus(honest: Floats, f: int, *, strength: float = 1.5, rng: Rng | None = None) -> Floats:
    """A little is enough with the other sign: mean - strength standard deviations (as in Blades)."""
    return _all(honest.mean(axis=0) - strength * honest.std(axis=0), f)


def min_max(honest: Floats, f: int, *, strength: float = 1.0, rng: Rng | None = None) -> Floats:
    """Mean - gamma standard deviations, with the largest gamma that keeps the farthest honest update no
    farther than two honest updates are apart (Shejwalkar and Houmansadr, NDSS 2021, direction "inverse
    standard deviation").

    Their search over gamma is a quadratic per client, |c_i - gamma s|^2 = most with c_i = mean - x_i.
    `strength` multiplies gamma: above 1 the promise is broken.
    """
    center, s = honest.mean(axis=0), honest.std(axis=0)
    most = _squared_distances(honest).max()
    c = center - honest
    a, b = float(s @ s), c @ s
    if a == 0:  # all honest updates are the same: nowhere to hide
        return _all(center, f)
    room = np.maximum(most - (c * c).sum(axis=1), 0.0)
    gamma = ((b + np.sqrt(b * b + a * room)) / a).min()
    return _all(center - strength * gamma * s, f)


def min_sum(honest: Floats, f: int, *, strength: float = 1.0, rng: Rng | None = None) -> Floats:
    """As min_max, but the sum of squared distances to the honest updates stays within the largest such sum of
    an honest update (Shejwalkar and Houmansadr, NDSS 2021). About the mean the sum is S + m gamma^2 |s|^2, so
    gamma is a square root.
    """
    center, s = honest.mean(axis=0), honest.std(axis=0)
    most = _squared_distances(honest).sum(axis=1).max()
    a = len(honest) * float(s @ s)
    if a == 0:
        return _all(center, f)
    spread = float(((honest - center) ** 2).sum())
    gamma = math.sqrt(max(most - spread, 0.0) / a)
    return _all(center - strength * gamma * s, f)


def mimic(honest: Floats, f: int, *, strength: float = 0.0, rng: Rng | None = None) -> Floats:
    """All send what one honest client sends, so that it counts f + 1 times (Karimireddy et al., ICLR 2022).

    strength is the index of that client, as in ByzFL (epsilon).
    """
    if strength != int(strength) or not 0 <= strength < len(honest):
        raise ArgumentError(
            f"mimic: client {strength:g} cannot be copied; strength is an index from 0 to {len(honest) - 1}"
        )
    return _all(honest[int(strength)], f)


def gaussian(honest: Floats, f: int, *, strength: float = 1.0, rng: Rng | None = None) -> Floats:
    """Independent normal noise with standard deviation `strength`, other noise for every attacker."""
    if rng is None:
        rng = np.random.default_rng(0)
    return strength * rng.standard_normal((f, honest.shape[1]))


def zero(honest: Floats, f: int, *, strength: float = 0.0, rng: Rng | None = None) -> Floats:
    """Nothing learnt: zeros. A free rider more than an attacker. strength is the constant that is sent."""
    return np.full((f, honest.shape[1]), float(strength))


def nan(honest: Floats, f: int, *, strength: float = 0.0, rng: Rng | None = None) -> Floats:
    """Not a number in every parameter. strength means nothing."""
    return np.full((f, honest.shape[1]), np.nan)


def inf(honest: Floats, f: int, *, strength: float = 1.0, rng: Rng | None = None) -> Floats:
    """Infinity in every parameter, with the sign of strength."""
    return np.full((f, honest.shape[1]), math.copysign(math.inf, strength))


def flip_labels(y: Labels, classes: int) -> Labels:
    """Class c becomes classes - 1 - c (Tolpegin et al., ESORICS 2020; pairs as in ByzFL, Blades)."""
    return classes - 1 - y


def _label_flip(honest: Floats, f: int, *, strength: float = 1.0, rng: Rng | None = None) -> Floats:
    raise ArgumentError("label_flip acts on labels: use flip_labels(y, classes) and train on the result")


@dataclass(frozen=True)
class Attack:
    """An attack by name. strength: the one the demo uses; summary: what is sent, {s} for the strength."""

    name: str
    function: Callable[..., Floats]
    strength: float
    summary: str
    on_labels: bool = False


ATTACKS: dict[str, Attack] = {
    a.name: a
    for a in (
        Attack("sign_flip", sign_flip, 10.0, "minus {s:g} x the honest mean"),
        Attack("ipm", ipm, 0.5, "minus {s:g} x the honest mean, hidden among honest updates"),
        Attack("foe", foe, 100.0, "minus {s:g} x the honest mean"),
        Attack("alie", alie, 1.5, "honest mean + {s:g} standard deviations"),
        Attack("alie_minus", alie_minus, 1.5, "honest mean - {s:g} standard deviations"),
        Attack("min_max", min_max, 1.0, "{s:g} x as far out as the two farthest honest updates are apart"),
        Attack("min_sum", min_sum, 1.0, "{s:g} x as far out as the sum of honest distances allows"),
        Attack("mimic", mimic, 0.0, "a copy of honest client {s:g}"),
        Attack("gaussian", gaussian, 1.0, "normal noise of standard deviation {s:g}"),
        Attack("label_flip", _label_flip, 1.0, "honest training on wrong labels", on_labels=True),
        Attack("zero", zero, 0.0, "{s:g} in every parameter: a free rider"),
        Attack("nan", nan, 0.0, "not a number"),
        Attack("inf", inf, 1.0, "infinity"),
    )
}


def attack(name: str) -> Attack:
    """The attack called `name`; ArgumentError with the list of names otherwise."""
    if name not in ATTACKS:
        raise ArgumentError(f"attack {name!r} is not known; allowed: {', '.join(ATTACKS)}")
    return ATTACKS[name]


def forge(
    name: str, honest: Floats, f: int, *, strength: float | None = None, rng: Rng | None = None
) -> Floats:
    """What f hostile clients send under the attack `name`, shape (f, parameters). strength None: its own."""
    chosen = attack(name)
    value = chosen.strength if strength is None else strength
    if f < 0:
        raise ArgumentError(f"{f} hostile clients: 0 or more")
    if honest.ndim != 2 or not len(honest):
        raise ArgumentError(
            f"honest updates of shape {honest.shape}: at least one row of parameters is needed"
        )
    if not math.isfinite(value):
        raise ArgumentError(f"strength {value}: a finite number")
    return chosen.function(honest, f, strength=value, rng=rng)


def _all(vector: Floats, f: int) -> Floats:
    """The same vector from every attacker."""
    return np.tile(vector, (f, 1))


def _squared_distances(x: Floats) -> Floats:
    """Between all rows, without forming all differences at once."""
    return np.stack([((x - row) ** 2).sum(axis=1) for row in x])
