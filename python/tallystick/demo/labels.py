"""Short wordings that the table and the picture share."""

from __future__ import annotations

from collections.abc import Sequence

from . import attacks
from .federation import Result

__all__ = ["attack_in_words", "headline", "listed", "short_ids", "short_rule"]

TITLES = {"breast_cancer": "Breast cancer", "digits": "Digits"}


def headline(result: Result) -> str:
    config = result.config
    return (
        f"{TITLES[config.data]}, {config.hospitals} hospitals, {config.attackers} hostile ({config.attack})"
    )


def attack_in_words(result: Result) -> str:
    """What the attackers send."""
    chosen, strength = attacks.attack(result.config.attack), result.config.strength
    return chosen.summary.format(s=chosen.strength if strength is None else strength)


def short_rule(text: str) -> str:
    """The rule's name with f, without the parameters that were left at their defaults."""
    name, _, rest = text.partition("(")
    f = next((p.strip() for p in rest.rstrip(")").split(",") if p.strip().startswith("f=")), "")
    return f"{name}({f})" if f else name


def short_ids(ids: Sequence[str]) -> list[str]:
    """hospital-03 -> 03."""
    return [i.rpartition("-")[2] for i in ids]


def listed(ids: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(ids[:-1])] * (len(ids) > 1) + list(ids[-1:]))
