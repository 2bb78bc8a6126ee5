"""Files that are read in pieces and must not change meanwhile."""

from __future__ import annotations

import ctypes
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path

from .errors import ArgumentError, FileChangedError, FormatError

__all__ = ["PIECE", "OpenFile", "memory"]

PIECE = 1 << 20  # bytes of a file handed out at once

_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.restype = ctypes.py_object
_memory_view.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
_WRITE = 0x200  # PyBUF_WRITE


def memory(address: int, length: int) -> memoryview:
    """Writable bytes at an address, length > 0; the caller keeps them valid."""
    view: memoryview = _memory_view(address, length, _WRITE)
    return view


class OpenFile:
    """A regular file held open for reading, with what it looked like when it was opened.

    Every read is a pread, so threads may share one OpenFile.  A rewrite is noticed by size, mtime, ctime and
    inode; one within the same tick of the kernel's clock (about 4 ms) that keeps the size can go unnoticed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ArgumentError(f"{self.path}: cannot be opened: {reason}") from None
        self._finalizer = weakref.finalize(self, os.close, self.fd)
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FormatError(f"{self.path}: not a regular file")
        self.size = status.st_size
        self._identity = _identity(status)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills target with the file's bytes from offset on; FileChangedError if they are not there."""
        done, length = 0, target.nbytes
        while done < length:
            try:
                count = os.preadv(self.fd, [target[done:]], offset + done)
            except OSError as error:
                raise FileChangedError(f"{self.path}: cannot be read any more: {error.strerror}") from None
            if count == 0:
                raise FileChangedError(
                    f"{self.path}: ends at byte {offset + done}; it had {self.size} bytes when it was opened"
                )
            done += count

    def read(self, offset: int, length: int) -> bytes:
        """length bytes from offset on, or FileChangedError."""
        buffer = bytearray(length)
        if length:
            self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Bytes start..stop (default: all) in pieces of at most 1 MiB; each is valid until the next."""
        end = self.size if stop is None else stop
        space = memoryview(bytearray(min(PIECE, max(end - start, 0))))
        for offset in range(start, end, PIECE):
            piece = space[: min(PIECE, end - offset)]
            self.read_into(piece, offset)
            yield piece.toreadonly()

    def close(self) -> None:
        """Closes the file; reads fail from now on."""
        self._finalizer()
        self.fd = -1

    def check_unchanged(self) -> None:
        """FileChangedError if the file, or what its path now leads to, is not what was opened."""
        try:
            now, there = os.fstat(self.fd), os.stat(self.path)
        except OSError as error:
            raise FileChangedError(f"{self.path}: changed since it was opened: {error.strerror}") from None
        for status in (now, there):
            if _identity(status) != self._identity:
                raise FileChangedError(
                    f"{self.path}: changed since it was opened: {self.size} bytes then, {status.st_size} now"
                )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
