"""What a run folder must hold while its run trains: looked after, and written again when somebody has removed it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from trivium.boundary import untrusted

log = logging.getLogger("trivium")


class KeptFiles:
    """Small files that nobody but the run itself changes while it trains.

    Args:
        dir: the run folder.
        names: theirs; one that is not there is not missed.
    """

    def __init__(self, dir: Path, names: Sequence[str]) -> None:
        self._dir = dir
        self._names = names
        self.read()

    def read(self) -> None:
        """Remember what the files hold; after one was changed."""
        self._contents: dict[str, bytes] = {}
        for name in self._names:
            with contextlib.suppress(OSError, untrusted.Refused):
                self._contents[name] = untrusted.read_bytes(self._dir / name, untrusted.MAX_JSON_BYTES)

    def look(self) -> None:
        """Write again, with a warning, what is not there any more. Raises OSError if that can't be done."""
        for name, content in self._contents.items():
            path = self._dir / name
            if not os.path.lexists(path):
                log.warning("%s was removed while the run trains; it is written again", path)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content).close()


class GrowingFile:
    """A file that is only appended to, and read again when somebody removed it: an open file outlives its name.

    Nothing waits in a buffer: what is written is in the file at once, or writing has failed.

    Args:
        path: is made if it is not there.

    Attributes:
        lost: what could not be brought back, in sentences.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = io.FileIO(_open(path), "ab+")
        self._size = os.fstat(self._file.fileno()).st_size
        self.lost: list[str] = []

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._size

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)
        self._size = size

    def write(self, content: bytes) -> None:
        """Append all of it. Raises OSError."""
        left = content
        while left:
            written = self._file.write(left)
            left = left[written:]
            self._size += written

    def flush_to_disk(self) -> None:
        os.fsync(self._file.fileno())

    def look(self) -> None:
        """Write the file again, with a warning, if it was removed or replaced; note it, if it was changed."""
        held = os.fstat(self._file.fileno())
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(held, os.lstat(self._path)):
                if held.st_size != self._size:
                    self._note_change(held.st_size)
                return
        log.warning("%s was removed or replaced while the run trains; it is written again", self._path)
        if held.st_size != self._size:
            self._note_change(held.st_size)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        again = write_whole(self._path, os.pread(self._file.fileno(), held.st_size, 0))
        self._file.close()
        self._file = again

    def close(self) -> None:
        self._file.close()

    def _note_change(self, size: int) -> None:
        change = f"lacks {self._size - size:,}" if size < self._size else f"has {size - self._size:,} foreign"
        self.lost.append(f"{self._path} was changed by another program while the run trained: it {change} bytes")
        log.warning("%s", self.lost[-1])
        self._size = size


def write_whole(path: Path, content: bytes) -> io.FileIO:
    """Write a file whole or not at all, flushed to the disk; it stays open to append to. Raises OSError."""
    staged = path.with_name(f".{path.name}")
    staged.unlink(missing_ok=True)
    file = io.FileIO(_open(staged), "ab+")
    try:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        file.close()
        raise
    return file


def _open(path: Path) -> int:
    """For appending and reading; never through a link, never waiting as for the reader of a pipe."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
