"""The text of a rule: `name(key=value, ...)`, read strictly and written in one canonical way.

Grammar: name [ "(" key "=" value { "," key "=" value } ")" ]; blanks between tokens are ignored; a
value is a whole number, a word such as n-f-2, or either of them in quotes. What parse() returns for a
text, write() turns into the canonical text with every parameter, which is what a record holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import RuleError

__all__ = ["Value", "parse", "write"]

Value = int | str

_NAME = re.compile(r"\s*([a-z][a-z0-9_]*)\s*")
_PAIR = re.compile(r"\s*([a-z][a-z0-9_]*)\s*=\s*(?:\"([^\"(),=|]*)\"|'([^'(),=|]*)'|([^\s\"'(),=|]+))\s*")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}\Z")
_LONGEST = 4096


def parse(text: str) -> tuple[str, dict[str, Value]]:
    """Name and parameters of a rule text; RuleError says where it stops being one."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise RuleError(f"a rule text of at most {_LONGEST} characters expected, got {text!r:.80}")
    if "|" in text:
        raise RuleError(
            f"rule {text!r}: pre-aggregators (a | b) are not part of this version; one rule expected"
        )
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
        value = next(group for group in pair.groups()[1:] if group is not None)
        parameters[pair[1]] = int(value) if _WHOLE.match(value) else value
    return name[1], parameters


def write(name: str, parameters: Mapping[str, Value]) -> str:
    """Canonical text: parameters in the order given, no blanks beyond one after each comma."""
    if not parameters:
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in parameters.items())})"
