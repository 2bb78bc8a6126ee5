"""What a person sees of the demo, and the object that --json prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tallystick.verify import Report

from .audit import Audit
from .federation import RUNS, Result, RoundReport
from .labels import attack_in_words, headline, listed, short_ids, short_rule

__all__ = ["Screen", "as_object"]

ROWS = 20  # rounds that the table shows; of more, every second, third, ...
LIVE_ROWS = 10  # while the demo runs
SHOWN = 3  # failed checks, and checks that could not be made
BAR = 40  # cells that 100 % takes
FAILS = 0.1  # accuracy below the attack-free run from which a value is shown as failed
STAGES = {
    "training": "local training, 3 federations",
    "mean": "weighted mean, 2 federations",
    "reading": "robust: reading updates",
    "hashing": "robust: hashing and keeping them",
    "aggregating": "robust: aggregating",
    "committing": "robust: committing to the ledger",
    "verifying": "verifying all rounds offline",
}


class Screen:
    """Shows a run: a headline, a table that grows while a person is looking, at the end what came of it."""

    def __init__(self, console: Console, *, brief: bool = False) -> None:
        self.console, self.brief = console, brief
        self.result: Result | None = None
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn()
        self._progress = Progress(*columns, console=console, expand=True)
        self._live = Live(console=console, transient=True)

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def start(self, result: Result) -> None:
        """Before the first round."""
        self.result = result
        if self.brief:
            return
        self.console.print(_headline(result))
        self.console.print()
        if self.console.is_terminal:
            self._task = self._progress.add_task("starting", total=result.config.rounds)
            self._live.start()

    def show_round(self, report: RoundReport) -> None:
        """When a round is done."""
        if self.result is not None and self._live.is_started:
            words = f"round {report.number} of {self.result.config.rounds}"
            self._progress.update(self._task, completed=report.number, description=words)
            self._live.update(
                Group(_rounds(self.result, self.result.rounds[-LIVE_ROWS:]), "", self._progress)
            )

    def show_verifying(self) -> None:
        """When the last round is done."""
        if self._live.is_started:
            self._progress.update(self._task, description="verifying the ledger")

    def finish(self, audit: Audit, no_picture: str = "") -> None:
        """When everything is checked. no_picture: why there is none."""
        result, show = self.result, self.console.print
        assert result is not None
        if not self.brief:
            show(_rounds(result, _thinned(result.rounds)))
            show()
        show(_bars(result))
        show(_caught(result))
        show()
        if not self.brief:
            show(_times(result))
            show()
        show(_checks(result, audit))
        if not self.brief:
            show()
            show(_files(result, no_picture), soft_wrap=True)


def as_object(result: Result, audit: Audit) -> dict[str, Any]:
    """The result for machines; `accuracy` holds the values after the last round."""
    config, folder, tampering = result.config, result.folder, audit.tampering
    return {
        "accuracy": {run: result.final(run) for run in RUNS},
        "rounds": config.rounds,
        "rejected": [list(report.rejected) for report in result.rounds],
        "verified": audit.verified,
        "tamper_detected": tampering.detected,
        "accuracy_by_round": {run: [report.accuracy[run] for report in result.rounds] for run in RUNS},
        "data": config.data,
        "hospitals": result.sizes,
        "held_out": result.held_out,
        "attackers": list(result.attackers),
        "attack": config.attack,
        "attack_sends": attack_in_words(result),
        "rule": result.rule,
        "seed": config.seed,
        "ledger": folder.ledger,
        "namespace": folder.namespace,
        "updates": str(folder.updates),
        "trusted": _trusted(result),
        "checks": _counts(audit.report),
        "tampered": {
            "file": str(tampering.file),
            "offset": tampering.offset,
            "failed": [{"name": c.name, "detail": c.detail} for c in tampering.report.failed],
        },
        "seconds": {stage: round(seconds, 6) for stage, seconds in result.times.items()},
    }


# ---- parts -----------------------------------------------------------------------------------------------


def _headline(result: Result) -> Text:
    sizes = sorted(result.sizes.values())
    text = Text.assemble((headline(result), "bold"), "\n")
    text.append(
        f"{sum(sizes)} records, {sizes[0]} to {sizes[-1]} per hospital, unlike mixes of classes; "
        f"{result.held_out} held out."
    )
    if result.attackers:
        text.append(f"\n{listed(result.attackers)} ", "red")
        text.append(f"{'send' if len(result.attackers) > 1 else 'sends'} {attack_in_words(result)}.")
    return text


def _rounds(result: Result, rounds: Sequence[RoundReport]) -> Table:
    table = _columns("", "no attack", "attack", "attack", "hospitals left out")
    for column, name in zip(
        table.columns, ["round", "mean", "mean", short_rule(result.rule), "by the rule"], strict=True
    ):
        column.header = Text(f"{column.header}\n{name}")
        column.justify = "right"
    table.columns[-1].justify = "left"
    for report in rounds:
        scores = [
            Text(f"{100 * report.accuracy[run]:.1f} %", "red" if _fails(report, run) else "") for run in RUNS
        ]
        table.add_row(str(report.number), *scores, _left_out(result, report))
    return table


def _left_out(result: Result, report: RoundReport) -> Text:
    """Hostile hospitals in red, honest ones in yellow."""
    if not report.rejected:
        return Text("none", "dim")
    ids = list(report.rejected)
    pieces = [
        (short, "red" if client in result.attackers else "yellow")
        for client, short in zip(ids, short_ids(ids), strict=True)
    ]
    return Text(" ").join(Text(short, style) for short, style in pieces)


def _bars(result: Result) -> Table:
    """Accuracy after the last round, to scale."""
    table, last = Table.grid(padding=(0, 2)), result.rounds[-1]
    names = ("no attack, mean", "attack, mean", f"attack, {short_rule(result.rule)}")
    for run, name in zip(RUNS, names, strict=True):
        value = last.accuracy[run]
        bar = Text("━" * max(1, round(BAR * value)), "red" if _fails(last, run) else "green")
        table.add_row(name, Text(f"{100 * value:5.1f} %", "bold"), bar)
    return table


def _caught(result: Result) -> Text:
    rounds, hostile = result.rounds, set(result.attackers)
    if not any(report.rejected for report in rounds):
        return Text("The rule left no hospital out as a whole; it may have dropped single values.", "dim")
    bad = sum(len(hostile & set(report.rejected)) for report in rounds)
    honest = sum(len(set(report.rejected) - hostile) for report in rounds)
    of_bad, of_honest = (len(rounds) * n for n in (len(hostile), len(result.sizes) - len(hostile)))
    return Text(
        f"Left out by the rule: hostile updates {bad} of {of_bad}, honest ones {honest} of {of_honest}."
    )


def _times(result: Result) -> Table:
    table = _columns("time", "total", "per round")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage, words in STAGES.items():
        if stage in result.times:
            seconds = result.times[stage]
            table.add_row(words, f"{seconds:.2f} s", f"{1000 * seconds / len(result.rounds):.1f} ms")
    return table


def _checks(result: Result, audit: Audit) -> Group:
    counts = _counts(audit.report)
    updates = len(result.rounds) * len(result.sizes)
    changed = audit.tampering.file.relative_to(result.folder.tampered)
    return Group(
        _verdict(
            audit.verified,
            f"Ledger verified offline: {len(result.rounds)} rounds re-run from {updates} kept updates."
            if audit.verified
            else "The ledger does not verify.",
            f"{counts['ok']} checks ok, {counts['failed']} failed, {counts['not checked']} NOT CHECKED",
        ),
        *_failures(audit.report),
        *_unchecked(audit.report),
        _verdict(
            audit.tampering.detected,
            "Tampering noticed." if audit.tampering.detected else "Tampering was NOT noticed.",
            f"In a copy, byte {audit.tampering.offset} of {changed} was changed:",
        ),
        *_failures(audit.tampering.report),
    )


def _files(result: Result, no_picture: str) -> Text:
    """Where things are; on lines of their own length, so that they can be copied."""
    folder = result.folder
    verify = ["tallystick", "verify", folder.ledger, "--namespace", folder.namespace]
    verify += ["--updates", str(folder.updates), "--trusted", _trusted(result)]
    return Text.assemble(
        (f"{'ledger':14}", "bold"),
        f"{folder.path / 'rounds.db'}, namespace {folder.namespace}\n",
        (f"{'picture':14}", "bold"),
        f"{no_picture or folder.picture}\n",
        (f"{'verify again':14}", "bold"),
        shlex.join(verify),
    )


# ---- small parts -----------------------------------------------------------------------------------------


def _columns(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _fails(report: RoundReport, run: str) -> bool:
    return report.accuracy[run] < report.accuracy["attack_free"] - FAILS


def _trusted(result: Result) -> str:
    """The log's head as `tallystick verify --trusted` takes it."""
    assert result.head is not None
    return f"{result.head.size}:{result.head.root.hex()}"


def _thinned(rounds: Sequence[RoundReport]) -> list[RoundReport]:
    """At most ROWS of them, evenly, the last one among them."""
    step = -(-len(rounds) // ROWS)
    return [report for i, report in enumerate(rounds) if (len(rounds) - 1 - i) % step == 0]


def _counts(report: Report) -> dict[str, int]:
    found = [check.status for check in report.checks]
    return {status: found.count(status) for status in ("ok", "failed", "not checked")}


def _verdict(good: bool, words: str, detail: str) -> Table:
    mark = Text("ok", "bold green") if good else Text("FAILED", "bold red")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=6)
    table.add_row(mark, Text(words, "bold"))
    table.add_row("", Text(detail))
    return table


def _failures(report: Report) -> list[Padding]:
    failed = report.failed
    lines = [f"{check.name} failed: {check.detail}" for check in failed[:SHOWN]]
    if len(failed) > SHOWN:
        lines.append(f"and {len(failed) - SHOWN} more")
    return [Padding(Text(line, "red"), (0, 0, 0, 8)) for line in lines]


def _unchecked(report: Report) -> list[Padding]:
    """What nobody may take for checked."""
    left = [
        f"NOT CHECKED {check.name}: {check.detail}"
        for check in report.checks
        if check.status == "not checked"
    ]
    if len(left) > SHOWN:
        left[SHOWN:] = [f"and {len(left) - SHOWN} more NOT CHECKED"]
    return [Padding(Text(line, "yellow"), (0, 0, 0, 8)) for line in left]
