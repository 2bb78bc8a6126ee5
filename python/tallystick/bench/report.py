"""The table of robustness for a terminal, and as one object."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from tallystick.demo.labels import TITLES

from .robustness import MARGIN, Settings, Table

__all__ = ["as_object", "heading", "headline", "heterogeneity", "show"]

HEADINGS = {
    "sign_flip": "sign flip",
    "alie": "alie +",
    "alie_minus": "alie -",
    "optimal_alie": "opt alie",
    "optimal_ipm": "opt ipm",
    "min_max": "min max",
    "min_sum": "min sum",
    "gaussian": "gauss",
    "label_flip": "label flip",
    "scaling": "scale",
}
MARK = "*"


def heading(attack: str) -> str:
    """Of one or two short words."""
    return HEADINGS.get(attack, attack)


def headline(settings: Settings) -> str:
    split = "IID split" if settings.alpha == math.inf else f"split by Dirichlet({settings.alpha:g})"
    seeds = f"seed{'s' * (len(settings.seeds) > 1)} {', '.join(map(str, settings.seeds))}"
    return (
        f"{TITLES[settings.data]}, {settings.clients} clients, {settings.attackers} hostile, "
        f"{settings.rounds} round{'s' * (settings.rounds > 1)}, {split}, {seeds}"
    )


def heterogeneity(table: Table) -> str:
    found = table.heterogeneity
    return (
        f"A client's mix of classes is {100 * found.classes:.0f} % off the mix of all; first updates scatter "
        f"about their mean by {found.updates:.1f} times its squared length."
    )


def show(table: Table, width: int) -> RenderableType:
    """All of it, `width` columns wide: attacks in as many blocks as that takes."""
    names = max(len("rule"), *map(len, table.settings.rules)) + 2
    cells = {attack: max(4, *map(len, heading(attack).split())) + 1 for attack in table.settings.attacks}
    blocks: list[list[str]] = [[]]
    room = width - names - len("worst ")
    left = room
    for attack, cell in cells.items():
        if left < cell and blocks[-1]:
            blocks.append([])
            left = room
        blocks[-1].append(attack)
        left -= cell
    parts: list[RenderableType] = [Text(headline(table.settings), "bold"), Text(heterogeneity(table)), ""]
    for block in blocks:
        parts += [_block(table, block, names), ""]
    return Group(*parts, _legend(table), "", *_undefended(table, names))


def as_object(table: Table) -> dict[str, Any]:
    """For machines. accuracy: mean over seeds; alpha "iid" for the even split."""
    settings, rules = table.settings, table.settings.rules
    return {
        "accuracy": {rule: {a: table.mean(rule, a) for a in settings.attacks} for rule in rules},
        "worst": {
            rule: {"attack": table.worst(rule), "accuracy": table.mean(rule, table.worst(rule))}
            for rule in rules
        },
        "not_defended": {rule: table.not_defended(rule) for rule in rules},
        "attack_free": table.attack_free,
        "margin": MARGIN,
        "heterogeneity": vars(table.heterogeneity),
        "by_seed": {rule: {a: list(v) for a, v in table.accuracy[rule].items()} for rule in rules},
        "rules": table.texts,
        "attacks": list(settings.attacks),
        "data": settings.data,
        "clients": settings.clients,
        "attackers": settings.attackers,
        "rounds": settings.rounds,
        "alpha": "iid" if settings.alpha == math.inf else settings.alpha,
        "seeds": list(settings.seeds),
        "seconds": round(table.seconds, 3),
    }


# ---- parts -----------------------------------------------------------------------------------------------


def _block(table: Table, attacks: list[str], names: int) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", collapse_padding=True)
    grid.add_column("rule", no_wrap=True, vertical="bottom", width=names - 1)
    for word in ("worst", *map(heading, attacks)):
        grid.add_column(
            word.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom", min_width=4
        )
    for rule in table.settings.rules:
        worst = table.worst(rule)
        row = [_cell(table, rule, worst, "bold"), *(_cell(table, rule, attack) for attack in attacks)]
        grid.add_row(Text(rule), *row)
    return grid


def _cell(table: Table, rule: str, attack: str, style: str = "") -> Text:
    held = table.defended(rule, attack)
    text = f"{100 * table.mean(rule, attack):.0f}{' ' if held else MARK}"
    return Text(text, f"{style} {'' if held else 'red'}".strip())


def _legend(table: Table) -> Text:
    base = 100 * table.attack_free
    return Text(
        f"Accuracy in % after the last round. {MARK} not defended: more than {100 * MARGIN:.0f} points below "
        f"{base:.0f}, the mean without an attack.",
        "dim",
    )


def _undefended(table: Table, names: int) -> list[RenderableType]:
    """By rule, what it does not defend against."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("rule", no_wrap=True, width=names - 1)
    grid.add_column("what is not defended")
    for rule in table.settings.rules:
        open_to = table.not_defended(rule)
        words = Text(", ".join(open_to), "red") if open_to else Text("nothing of these", "green")
        if len(open_to) == len(table.settings.attacks) > 1:
            words = Text("all of these", "red")
        grid.add_row(Text(rule), words)
    return [grid]
