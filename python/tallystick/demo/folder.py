"""The demo's output folder: what is written where, and what is never touched.

    tallystick-demo/
        tallystick-demo.json    marks the folder as ours
        rounds.db               one ledger for all runs
        accuracy.png            of the last run
        result.json             of the last run, what --json prints
        demo-1/updates/         the payloads that the rounds of namespace demo-1 received
        demo-1/tampered/        a copy of them with one byte changed

A second run appends to the ledger under the next namespace. Nothing is ever deleted, and a folder that holds
something else and has no marker is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tallystick.errors import ArgumentError

__all__ = ["Folder", "prepare", "write_whole"]

MARKER = "tallystick-demo.json"
FORMAT = "tallystick-demo-1"


@dataclass(frozen=True)
class Folder:
    """An output folder that is ours, and the namespace of this run in it."""

    path: Path
    namespace: str

    @property
    def ledger(self) -> str:
        return f"sqlite:///{self.path / 'rounds.db'}"

    @property
    def updates(self) -> Path:
        return self.path / self.namespace / "updates"

    @property
    def tampered(self) -> Path:
        return self.path / self.namespace / "tampered"

    @property
    def picture(self) -> Path:
        return self.path / "accuracy.png"

    @property
    def result(self) -> Path:
        return self.path / "result.json"


def prepare(path: Path) -> Folder:
    """Creates or reopens the output folder and takes the next free namespace, demo-1, demo-2, ...

    Raises ArgumentError for a file, for a folder with other things in it, and for one that cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(
            f"--out {path} is a file; allowed: a new folder, an empty one, or one made by the demo"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not _is_ours(path):
            if any(path.iterdir()):
                raise ArgumentError(
                    f"--out {path} holds other files; allowed: a new folder, an empty one, or one "
                    "made by the demo"
                )
            write_whole(path / MARKER, json.dumps({"format": FORMAT}).encode() + b"\n")
        return Folder(path, _take_namespace(path))
    except OSError as e:
        raise ArgumentError(f"--out {path} cannot be written: {e.strerror or e}") from e


def write_whole(path: Path, content: bytes) -> None:
    """Writes under a temporary name and renames, so that an old file survives a failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    try:
        marker = json.loads((path / MARKER).read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return False
    return isinstance(marker, dict) and marker.get("format") == FORMAT


def _take_namespace(path: Path) -> str:
    """Making the folder is what takes the number: two demos at once get two."""
    number = 1
    while True:
        try:
            (path / f"demo-{number}").mkdir()
            return f"demo-{number}"
        except FileExistsError:
            number += 1
