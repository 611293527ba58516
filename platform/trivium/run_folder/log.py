"""log.txt in a run folder: what the run printed and warned, each line with its time, over all resumes.

What is said before the folder is there waits in memory. Nothing here is a reason for a run to fail.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, cast

from trivium.boundary.credentials import mask
from trivium.boundary.output import Lasting

NAME = "log.txt"
WARNED = "warning: "  # what a warning's line begins with, after its time
MAX_BYTES = 16_000_000  # of one process: what an env prints at every step must not fill the disk
MAX_EARLY = 10_000  # lines before the folder is there


class RunLog:
    """Lines on their way to log.txt."""

    def __init__(self) -> None:
        self._busy = threading.RLock()  # a signal's handler may print while its thread does
        self._file: io.FileIO | None = None
        self._room = MAX_BYTES
        self._early: list[str] = []
        self._crashes = False

    def open(self, dir: Path) -> None:
        """Write into the folder from now on; should Python itself crash, then where it was."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with self._busy, contextlib.suppress(OSError):
            file = io.FileIO(os.open(dir / NAME, flags, 0o666), "ab")
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                return
            self._file = file
            self._write("".join(self._early))
            if not faulthandler.is_enabled():
                faulthandler.enable(file)
                self._crashes = True

    def line(self, text: str, *, last: bool = False) -> None:
        """Keep a line, or several.

        Args:
            last: keep it however much was kept before.
        """
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        size = len(text) + (text.count("\n") + 1) * (len(now) + 2)
        with self._busy:
            if self._room < size and not last:
                if self._room < 0:
                    return
                text, self._room = "what follows is not kept, but how the run ends", -1
            elif self._room >= 0:
                self._room -= size
            lines = "".join(f"{now} {line}\n" for line in mask(text).split("\n"))
            if self._file is not None:
                self._write(lines)
            elif len(self._early) < MAX_EARLY:
                self._early.append(lines)

    def close(self) -> None:
        """End the file."""
        with self._busy:
            if self._crashes:
                faulthandler.disable()
            if self._file is not None:
                self._file.close()
            self._file, self._crashes = None, False

    @contextlib.contextmanager
    def streams(self) -> Iterator[None]:
        """Keep what is printed within, and let no print fail. One thread at a time: there is one stdout."""
        out, err = Lines(self.line), Lines(self.line)
        stdout, stderr = Lasting(sys.stdout, out.write), Lasting(sys.stderr, err.write)
        with contextlib.redirect_stdout(cast(TextIO, stdout)), contextlib.redirect_stderr(cast(TextIO, stderr)):
            try:
                yield
            finally:
                out.end()
                err.end()

    def _write(self, lines: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(lines.encode(errors="backslashreplace"))  # type: ignore[union-attr]


class Lines:
    """Puts lines together from what is written piece by piece; of one that is written over and over, as a progress bar
    is, the last state."""

    def __init__(self, line: Callable[[str], object]) -> None:
        self._line = line
        self._begun = ""

    def write(self, text: str) -> None:
        *whole, begun = (self._begun + text).split("\n")
        for line in whole:
            self._line(line.rstrip("\r").rpartition("\r")[2])
        self._begun = begun[-10_000:].rpartition("\r")[2] if "\r" in begun.rstrip("\r") else begun[-10_000:]

    def end(self) -> None:
        """What was begun is a line too."""
        if self._begun:
            self.write("\n")


class _Handler(logging.Handler):
    """Keeps warnings, and shows them on a stream if there is one."""

    def __init__(self, run_log: RunLog, stream: Lasting | None) -> None:
        super().__init__(logging.WARNING)
        self._log = run_log
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._log.line(WARNED + text)
        if self._stream is not None:
            self._stream.write(text + "\n")


@contextlib.contextmanager
def recording() -> Iterator[RunLog]:
    """A log of the warnings within, which are shown as before."""
    run_log, root = RunLog(), logging.getLogger()
    # Where nothing handles warnings Python shows them on stderr; with a handler of ours it does not.
    handler = _Handler(run_log, None if root.handlers else Lasting(sys.stderr))
    root.addHandler(handler)
    try:
        yield run_log
    finally:
        root.removeHandler(handler)
        run_log.close()
