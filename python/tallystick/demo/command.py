"""The command `tallystick demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.errors import MissingExtraError

if TYPE_CHECKING:
    from .federation import Result

__all__ = ["demo"]


def demo(
    data: Annotated[str, typer.Option(help="Data set: breast_cancer or digits.")] = "breast_cancer",
    hospitals: Annotated[int, typer.Option(help="Clients that the data is split over.")] = 10,
    attackers: Annotated[int, typer.Option(help="Hostile ones among them, less than half.")] = 2,
    attack: Annotated[
        str,
        typer.Option(
            help="What they send: sign_flip, ipm, foe, alie, alie_minus, optimal_alie, optimal_ipm, min_max, "
            "min_sum, mimic, gaussian, label_flip, scaling, zero, nan or inf."
        ),
    ] = "sign_flip",
    strength: Annotated[float | None, typer.Option(help="Factor of the attack, in place of its own.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of training.")] = 20,
    rule: Annotated[
        str, typer.Option(help="Robust rule: a name, which gets f = attackers, or a rule's full text.")
    ] = "multi_krum",
    seed: Annotated[int, typer.Option(help="Fixes the split, the model, the batches and who attacks.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for ledger, updates and picture.")] = Path(
        "tallystick-demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result only, in a few lines.")
    ] = False,
) -> None:
    """Train on real data with attackers among the hospitals, and check the record of it.

    The same federation runs three times: without an attack, under attack
    with the weighted mean, and under attack with a robust rule. Every round
    of the last one is recorded in an SQLite ledger, which is then verified
    offline; then one byte of one update is changed in a copy, to show that
    it is noticed.

    Exit codes: 0 fine, 1 a check failed, 2 bad input.
    """
    from rich.console import Console

    from .audit import audit
    from .config import Config
    from .federation import run
    from .folder import write_whole
    from .report import Screen, as_object

    config = Config(data, hospitals, attackers, attack, strength, rounds, rule, seed, out)
    with Screen(Console(quiet=as_json), brief=quiet) as screen:
        result = run(config, on_start=screen.start, on_round=screen.show_round)
        screen.show_verifying()
        audited = audit(result)
    text = json.dumps(as_object(result, audited), allow_nan=False, ensure_ascii=False)
    write_whole(result.folder.result, text.encode() + b"\n")
    no_picture = _draw(result)
    if as_json:
        print(text)
    screen.finish(audited, no_picture)
    if not audited.ok:
        raise typer.Exit(1)


def _draw(result: Result) -> str:
    """Draws the picture; without matplotlib the demo goes on, and this is what to say about it."""
    from .picture import draw

    try:
        draw(result)
    except MissingExtraError as error:
        return str(error)
    return ""
