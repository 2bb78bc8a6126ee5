"""What the demo is asked to do, and what of it is allowed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallystick import aggregate
from tallystick.errors import ArgumentError, RuleError

from . import attacks, data

__all__ = ["Config", "check", "complete"]

MOST_ROUNDS = 1000


@dataclass(frozen=True)
class Config:
    """What is run. rule: a rule's text, or a name that gets f = attackers. strength None: the attack's."""

    data: str = "breast_cancer"
    hospitals: int = 10
    attackers: int = 2
    attack: str = "sign_flip"
    strength: float | None = None
    rounds: int = 20
    rule: str = "multi_krum"
    seed: int = 0
    out: Path = Path("tallystick-demo")


def check(config: Config) -> aggregate.Rule:
    """The rule of `config`, after everything in it has been found to be allowed."""
    if config.data not in data.DATASETS:
        raise ArgumentError(f"--data {config.data!r} is not known; allowed: {', '.join(data.DATASETS)}")
    attacks.attack(config.attack)
    if config.hospitals < 3:
        raise ArgumentError(f"--hospitals {config.hospitals}: 3 or more")
    most = (config.hospitals - 1) // 2
    if not 0 <= config.attackers <= most:
        raise ArgumentError(
            f"--attackers {config.attackers} of {config.hospitals} hospitals: 0 to {most}, less than half; "
            "no rule can tell a hostile majority from an honest one"
        )
    if not 1 <= config.rounds <= MOST_ROUNDS:
        raise ArgumentError(f"--rounds {config.rounds}: 1 to {MOST_ROUNDS}")
    if config.seed < 0:
        raise ArgumentError(f"--seed {config.seed}: 0 or more")
    if config.strength is not None and not math.isfinite(config.strength):
        raise ArgumentError(f"--strength {config.strength}: a finite number")
    return _rule(config)


def _rule(config: Config) -> aggregate.Rule:
    """The rule, tried on as many clients as there are."""
    rule = complete(config.rule, config.attackers)
    rule(np.zeros((config.hospitals, 1), np.float32))
    return rule


def complete(text: str, f: int) -> aggregate.Rule:
    """The rule of `text`, where every stage written without parameters gets f=... if it takes an f."""
    stages = [stage.strip() for stage in text.split("|")]
    choices = [(stage,) if "(" in stage else (f"{stage}(f={f})", stage) for stage in stages]
    for chosen in itertools.product(*choices):
        try:
            return aggregate.rule(" | ".join(chosen))
        except RuleError:
            continue
    return aggregate.rule(text)  # says what is wrong with it
