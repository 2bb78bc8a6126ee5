"""The commands under `tallystick bench`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from tallystick.errors import ArgumentError

__all__ = ["bench"]

bench = typer.Typer(
    help="Measure rules on this machine.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@bench.callback()
def _group() -> None:
    """Measure rules on this machine."""


@bench.command(
    epilog="Example: tallystick bench robustness --rule median --rule krum --attack none --attack foe "
    "--seed 0 --seed 1 --picture robustness.png"
)
def robustness(
    data: Annotated[str, typer.Option(help="Data set: digits or breast_cancer.")] = "digits",
    clients: Annotated[int, typer.Option("--clients", "-n", help="Clients, hostile ones included.")] = 15,
    attackers: Annotated[
        int, typer.Option("--attackers", "-f", help="Hostile ones among them; also the f of every rule.")
    ] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of training.")] = 40,
    alpha: Annotated[
        float, typer.Option(help="Dirichlet parameter of the split: small is unlike, large is alike.")
    ] = 0.5,
    iid: Annotated[bool, typer.Option("--iid", help="Split classes evenly, in place of --alpha.")] = False,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Of split, model, batches (repeatable). Without: 0 and 1."),
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rule", help="Rule, as a name or text (repeatable). Without: all.")
    ] = None,
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", help="Attack, or none (repeatable). Without: all.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG file to draw the table into.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes; 0: one per core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train under every attack with every rule, and print how accurate the model gets.

    The data set is split over the clients, unevenly by class, because
    rules differ only where honest clients do. A rule's worst column is
    what an attacker would choose; a star marks what it does not defend.
    Settings fix the numbers; the number of processes does not matter.

    Exit codes: 0 fine, 2 bad input.
    """
    from rich.console import Console

    from .picture import draw, require
    from .report import as_object, show
    from .robustness import ATTACKS, Settings, run

    if picture is not None:
        if picture.is_dir() or not picture.parent.is_dir():
            raise ArgumentError(f"--picture {picture}: a file in a folder that exists expected")
        require()
    settings = Settings(
        data=data,
        clients=clients,
        attackers=attackers,
        rounds=rounds,
        alpha=math.inf if iid else alpha,
        seeds=tuple(seeds or Settings.seeds),
        rules=tuple(rules or ()),
        attacks=tuple(attacks or ATTACKS),
        jobs=jobs,
    )
    with _Progress(quiet=as_json) as progress:
        table = run(settings, on_cell=progress.show)
    if picture is not None:
        draw(table, picture)
    if as_json:
        found = {**as_object(table), "picture": None if picture is None else str(picture)}
        print(json.dumps(found, allow_nan=False, ensure_ascii=False))
        return
    console = Console()
    console.print(show(table, console.width))
    console.print(f"\n{table.seconds:.1f} s", end="")
    console.print("" if picture is None else f", [bold]{picture}[/bold]", soft_wrap=True)


class _Progress:
    """A bar on stderr when a person is looking."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("training")

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
