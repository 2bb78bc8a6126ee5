"""The command `tallystick`. Exit codes: 0 fine, 1 a check failed, 2 bad input."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__
from .bench.command import bench
from .demo.command import demo
from .errors import ArgumentError, TallystickError
from .ledger.base import Head
from .verify import Report, verify_ledger, verify_proof_file

__all__ = ["app", "main"]

app = typer.Typer(
    name="tallystick",
    help="Aggregation engine for federated learning among parties that do not trust one another.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Namespace = Annotated[str | None, typer.Option(help="Name of the federation in the ledger.")]
RoundNumber = Annotated[int | None, typer.Option("--round", min=0, help="Round number.")]


@app.command(
    epilog='Example: tallystick aggregate u*.safetensors --rule "trimmed_mean(f=1)" --namespace cards '
    "--round 17 --ledger sqlite:///rounds.db --out global.safetensors"
)
def aggregate(
    files: Annotated[list[Path], typer.Argument(help="Updates; the client id is the file's stem.")],
    target: Annotated[Path, typer.Option("--out", help="Where the aggregate (or the new model) is written.")],
    rule: Annotated[
        str, typer.Option(help="Rule text: mean, trimmed_mean(f=1), 'nnm(f=2) | multi_krum(f=2)', ...")
    ] = "mean",
    state: Annotated[
        Path | None, typer.Option(help="For centered_clipping: the last round's aggregate.")
    ] = None,
    server: Annotated[Path | None, typer.Option(help="For fltrust: the server's own update.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="JSON object: client id to positive number (default 1).")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Base model; the output is base + aggregate.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Tensor to leave out (repeatable).")] = None,
    namespace: Namespace = None,
    number: RoundNumber = None,
    ledger: Annotated[str | None, typer.Option(help="Ledger URL; the round is recorded there.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep the payloads in.")] = None,
    as_json: Json = False,
) -> None:
    """Combine update files with a robust rule, and record the round."""
    from .round import Round
    from .update import write_safetensors

    if ledger is not None and (namespace is None or number is None):
        raise ArgumentError("--ledger records a round: --namespace and --round expected with it")
    clients = _clients(files)
    given = _weights(weights, clients)
    _check_writable(target)
    start = time.perf_counter()
    with Round(
        namespace or "unrecorded",
        number=number or 0,
        rule=rule,
        ledger=ledger or "memory://",
        base=base,
        keep=keep,
        exclude=tuple(exclude or ()),
        state=state,
        server=server,
    ) as r:
        for client, file in _progress(clients.items(), "reading and hashing", as_json):
            r.submit(client, file, weight=given.get(client, 1.0))
        writing = 0.0

        def write(outcome: Any) -> None:
            nonlocal writing
            began = time.perf_counter()
            write_safetensors(target, outcome.model if base is not None else outcome.value)
            writing = time.perf_counter() - began

        outcome = r.close(before_commit=write)
    seconds = {**outcome.times, "writing": writing, "total": time.perf_counter() - start}
    recorded = ledger is not None
    if as_json:
        _print_json(
            rule=outcome.rule,
            clients=list(clients),
            selected=list(outcome.selected),
            rejected=outcome.rejected,
            scores={c: s if math.isfinite(s) else str(s) for c, s in outcome.scores.items()},
            weights=outcome.weights,
            out=str(target),
            aggregate_hash=outcome.record.aggregate_hash,
            record_hash=outcome.record.hash.hex() if recorded else None,
            log_index=outcome.record.log_index if recorded else None,
            seconds=seconds,
        )
        return
    out.print(f"{len(clients)} clients, {escape(outcome.rule)} -> [bold]{escape(str(target))}[/bold]")
    for client, reason in outcome.rejected.items():
        judged = f", score {outcome.scores[client]:.6g}" if client in outcome.scores else ""
        out.print(f"  left out: {escape(str(client))} ({escape(reason)}{judged})")
    if len(set(outcome.weights.values())) > 1:
        shown = "  ".join(f"{escape(str(c))} {w:.4g}" for c, w in outcome.weights.items())
        out.print(f"  weights: {shown}")
    if recorded:
        out.print(f"recorded as entry {outcome.record.log_index}: {outcome.record.hash.hex()}")
    out.print("  ".join(f"{stage} {value:.3f} s" for stage, value in seconds.items()))


@app.command(
    epilog="Example: tallystick verify sqlite:///rounds.db --namespace cards --round 17 --updates ./updates"
)
def verify(
    target: Annotated[str, typer.Argument(help="Ledger URL, or a proof file written by `tallystick prove`.")],
    namespace: Namespace = None,
    number: RoundNumber = None,
    updates: Annotated[
        Path | None, typer.Option(help="Folder with the clients' files: everything is re-run.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="With a proof: the client's file.")] = None,
    trusted: Annotated[
        str | None, typer.Option(help="Log root kept elsewhere: SIZE:HEX with a ledger, HEX with a proof.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Re-check a ledger (with the files: everything, the rule included) or a proof, offline."""
    show = None if as_json else _show
    if "://" in target:
        if file is not None:
            raise ArgumentError("--file goes with a proof file; with a ledger give --updates DIR")
        name = namespace if namespace is not None else _only_namespace(target)
        report = verify_ledger(
            target, name, round=number, updates=updates, trusted=_head(trusted), on_check=show
        )
    else:
        if namespace is not None or number is not None or updates is not None:
            raise ArgumentError(f"{target} is taken as a proof file: only --file goes with it")
        root = None if trusted is None else _hex(trusted)
        report = verify_proof_file(target, file, log_root=root, on_check=show)
    _finish(report, as_json)


@app.command(
    epilog="Example: tallystick prove sqlite:///rounds.db --namespace cards --round 17 --client u2 "
    "--out proof.json"
)
def prove(
    ledger: Annotated[str, typer.Argument(help="Ledger URL.")],
    client: Annotated[str, typer.Option(help="Client id.")],
    number: Annotated[int, typer.Option("--round", min=0, help="Round number.")],
    target: Annotated[Path, typer.Option("--out", help="Where the proof is written.")],
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Write a proof that one client's update is in a round, its record and the log."""
    from . import canonical
    from .ledger import connect
    from .ledger.base import prove as make_proof
    from .round import Replacing

    _check_writable(target)
    with connect(ledger, read_only=True) as opened:
        name = namespace if namespace is not None else _only_namespace(ledger)
        proof = make_proof(opened, name, number, client)
    with Replacing(target) as written:
        written.write(canonical.dumps(proof))
    if as_json:
        _print_json(out=str(target), namespace=name, round=number, client=client)
    else:
        out.print(f"proof of {escape(client)} in round {number} -> [bold]{escape(str(target))}[/bold]")


@app.command(epilog="Example: tallystick log sqlite:///rounds.db --namespace cards")
def log(
    ledger: Annotated[str, typer.Argument(help="Ledger URL.")],
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """List the namespaces of a ledger and the rounds recorded in them."""
    from .ledger import connect

    with connect(ledger, read_only=True) as opened:
        names = opened.namespaces() if namespace is None else [namespace]
        listed = {name: (opened.head(name), list(opened.iter(name))) for name in names}
    if as_json:
        _print_json(
            namespaces={
                name: {
                    "size": head.size,
                    "root": head.root.hex(),
                    "rounds": [json.loads(entry.record.encode()) for entry in entries],
                }
                for name, (head, entries) in listed.items()
            }
        )
        return
    for name, (head, entries) in listed.items():
        table = Table(
            title=f"{escape(name)}: {len(entries)} rounds, head {head.size}:{head.root.hex()}",
            title_justify="left",
        )
        for column in ("entry", "round", "time (UTC)", "rule", "accepted", "rejected", "record"):
            table.add_column(column, overflow="fold")
        for entry in entries:
            made = entry.record
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(made.time))
            row = (
                made.log_index,
                made.round,
                when,
                escape(made.rule),
                made.accepted,
                made.rejected,
                made.hash.hex()[:16],
            )
            table.add_row(*map(str, row))
        out.print(table)


@app.command(epilog="Example: tallystick info --json")
def info(as_json: Json = False) -> None:
    """Show version, CPU level, threads and whether CUDA can be used."""
    from . import _backend

    count, why = _backend.cuda_status()
    facts = {
        "version": __version__,
        "python": sys.version.split()[0],
        "cpu_level": _backend.cpu_level(),
        "cpu_best": _backend.cpu_best(),
        "threads": _backend.num_threads(),
        "cuda_built": _backend.cuda_built(),
        "cuda_devices": count,
        "cuda": why or f"{count} device(s)",
    }
    if as_json:
        _print_json(**facts)
        return
    for key, value in facts.items():
        out.print(f"{key:13} {escape(str(value))}")


app.command(epilog="Example: tallystick demo --data digits --attack alie --rounds 10")(demo)
app.add_typer(bench, name="bench", epilog="Example: tallystick bench robustness --picture robustness.png")


# ---- parts -----------------------------------------------------------------------------------------------


def _clients(files: Sequence[Path]) -> dict[str, Path]:
    """Client id to file; the id is the stem, without .index for sharded models."""
    clients: dict[str, Path] = {}
    for file in files:
        name = file.name
        for suffix in (".safetensors.index.json", ".safetensors", ".tsf"):
            if name.endswith(suffix):
                name = name[: -len(suffix)]
                break
        else:
            raise ArgumentError(f"{file}: a .safetensors, .safetensors.index.json or .tsf file expected")
        if name in clients:
            raise ArgumentError(f"two files for client {name!r}: {clients[name]} and {file}")
        clients[name] = file
    return clients


def _weights(path: Path | None, clients: dict[str, Path]) -> dict[str, float]:
    if path is None:
        return {}
    try:
        given = json.loads(path.read_bytes())
    except OSError as error:
        raise ArgumentError(f"--weights: {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"--weights: {path} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ArgumentError(
            f"--weights: {path}: an object of client id to number expected, got {type(given).__name__}"
        )
    unknown = sorted(set(given) - set(clients))
    if unknown:
        raise ArgumentError(f"--weights: {path} names clients without a file: {', '.join(unknown[:8])}")
    for client, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ArgumentError(
                f"--weights: {path}: client {client!r}: a positive number expected, got {weight!r}"
            )
    return given


def _check_writable(target: Path) -> None:
    """Fails before the work is done, not after."""
    import os

    folder = target.parent
    if not folder.is_dir():
        raise ArgumentError(f"--out: {folder} is not a folder")
    if target.is_dir():
        raise ArgumentError(f"--out: {target} is a folder, a file name expected")
    if not os.access(folder, os.W_OK):
        raise ArgumentError(f"--out: {folder} is not writable")


def _head(text: str | None) -> Head | None:
    if text is None:
        return None
    size, _, root = text.partition(":")
    if not size.isdecimal() or len(size) > 15:
        raise ArgumentError(f"--trusted: SIZE:HEX expected, as `tallystick log` prints them, got {text!r}")
    return Head(int(size), _hex(root), b"")


def _hex(text: str) -> bytes:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ArgumentError(f"--trusted: a root of 64 lower-case hex digits expected, got {text!r}")
    return bytes.fromhex(text)


def _only_namespace(url: str) -> str:
    from .ledger import connect

    with connect(url, read_only=True) as opened:
        names = opened.namespaces()
    if len(names) != 1:
        raise ArgumentError(f"--namespace expected: the ledger has {', '.join(names[:8]) or 'none'}")
    return names[0]


_MARKS = {
    "ok": "[green]ok         [/green]",
    "failed": "[red bold]FAILED     [/red bold]",
    "not checked": "[yellow]NOT CHECKED[/yellow]",
}


def _show(check: Any) -> None:
    out.print(f"{_MARKS[check.status]} {escape(check.name)}: {escape(check.detail)}")


def _finish(report: Report, as_json: bool) -> None:
    if as_json:
        _print_json(
            ok=report.ok,
            complete=report.complete,
            checks=[{"name": c.name, "status": c.status, "detail": c.detail} for c in report.checks],
        )
    else:
        counts = {status: sum(c.status == status for c in report.checks) for status in _MARKS}
        verdict = "[green]verified[/green]" if report.ok else "[red bold]FAILED[/red bold]"
        out.print(
            f"{verdict}: {counts['ok']} ok, {counts['failed']} failed, {counts['not checked']} not checked"
        )
    if not report.ok:
        raise typer.Exit(1)


def _progress(items: Any, title: str, quiet: bool) -> Iterator[Any]:
    """The items, with a progress bar when a person is looking."""
    if quiet or not err.is_terminal:
        yield from items
        return
    from rich.progress import track

    yield from track(list(items), description=title, console=err, transient=True)


def _print_json(**fields: Any) -> None:
    print(json.dumps(fields, allow_nan=False, ensure_ascii=False, default=str))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except TallystickError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:  # a disk that is full, a file that cannot be read or written
        where = f"{error.filename}: " if error.filename else ""
        err.print(f"[red]error:[/red] {escape(where)}{escape(error.strerror or str(error))}")
        raise SystemExit(2) from None


def main() -> None:
    """Entry point of the command: typed errors become one line and exit code 2."""
    with _errors():
        app()
