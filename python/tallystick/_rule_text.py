"""The text of a rule: `stage | stage | rule`, each `name(key=value, ...)`, read strictly and written in one
canonical way.

Grammar of a stage: name [ "(" key "=" value { "," key "=" value } ")" ]; blanks between tokens are ignored; a
value is a whole number, a real number, a word such as n-f-2, or one of them in quotes. What parse() returns
for a text, write() turns into the canonical text with every parameter, which is what a record holds. Reals
are written with the fewest digits that give them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .errors import RuleError

__all__ = ["Value", "parse", "write"]

Value = int | float | str

_NAME = re.compile(r"\s*([a-z][a-z0-9_]*)\s*")
_PAIR = re.compile(r"\s*([a-z][a-z0-9_]*)\s*=\s*(?:\"([^\"(),=|]*)\"|'([^'(),=|]*)'|([^\s\"'(),=|]+))\s*")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}\Z")
_REAL = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?\Z")
_LONGEST, _MOST_STAGES = 4096, 16


def parse(text: str) -> list[tuple[str, dict[str, Value]]]:
    """Name and parameters of every stage of a rule text; RuleError says where it stops being one."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise RuleError(f"a rule text of at most {_LONGEST} characters expected, got {text!r:.80}")
    parts = text.split("|")
    if len(parts) > _MOST_STAGES:
        raise RuleError(f"rule {text!r:.80}: at most {_MOST_STAGES} stages expected, got {len(parts)}")
    return [_stage(part) for part in parts]


def _stage(text: str) -> tuple[str, dict[str, Value]]:
    name = _NAME.match(text)
    if not name:
        raise RuleError(f"rule {text!r}: a name in small letters expected, such as trimmed_mean(f=2)")
    parameters: dict[str, Value] = {}
    rest = text[name.end() :]
    if not rest:
        return name[1], parameters
    if not rest.startswith("(") or not rest.rstrip().endswith(")"):
        raise RuleError(f"rule {text!r}: (key=value, ...) expected after {name[1]}, got {rest!r}")
    inside = rest.rstrip()[1:-1]
    for part in inside.split(",") if inside.strip() else ():
        pair = _PAIR.fullmatch(part)
        if not pair:
            raise RuleError(f"rule {text!r}: key=value expected, got {part.strip()!r}")
        if pair[1] in parameters:
            raise RuleError(f"rule {text!r}: {pair[1]} is given twice")
        parameters[pair[1]] = _value(next(group for group in pair.groups()[1:] if group is not None))
    return name[1], parameters


def _value(word: str) -> Value:
    if _WHOLE.match(word):
        return int(word)
    return float(word) if _REAL.match(word) else word


def write(stages: Iterable[tuple[str, Mapping[str, Value]]]) -> str:
    """Canonical text: parameters in the order given, no blanks beyond one after each comma and beside |."""
    return " | ".join(
        f"{name}({', '.join(f'{key}={_shown(value)}' for key, value in parameters.items())})"
        if parameters
        else name
        for name, parameters in stages
    )


def _shown(value: Value) -> str:
    return repr(value) if isinstance(value, float) else str(value)
