"""What a process prints: shown as long as somebody reads it, and never a reason to fail."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)  # a reader that has ended, a terminal that was closed


class Lasting(io.TextIOBase):
    """A text stream in front of another, which may be missing, closed, full or read by nobody: writing never raises.

    Args:
        stream: where the text goes; None, as `sys.stderr` is in a process without one, shows it nowhere.
        keep: is given all that is written, shown or not.

    Attributes:
        problem: why something could not be shown though somebody may read, such as a full disk; None if nothing.
    """

    def __init__(self, stream: TextIO | None, keep: Callable[[str], object] = lambda text: None) -> None:
        self._stream = stream
        self._keep = keep
        self.problem: OSError | None = None

    def write(self, text: str) -> int:
        self._keep(text)
        self._show(text)
        return len(text)

    def show(self, text: str) -> None:
        """Write without keeping."""
        self._show(text)
        self.flush()

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return bool(self._attempt(lambda stream: stream.isatty()))

    def fileno(self) -> int:
        """Raises io.UnsupportedOperation where there is no stream, or one without a descriptor."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self._stream, "errors", None)

    def __getattr__(self, name: str) -> Any:
        """What else the stream has: `buffer`, `reconfigure`."""
        return getattr(self.__dict__.get("_stream"), name)

    def _show(self, text: str) -> None:
        try:
            self._attempt(lambda stream: stream.write(text))
        except UnicodeEncodeError as error:
            plain = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            self._attempt(lambda stream: stream.write(plain))

    def _attempt(self, what: Callable[[TextIO], object]) -> object:
        """The answer of the stream; None where it fails, for good if nobody can read it any more."""
        if self._stream is None:
            return None
        try:
            return what(self._stream)
        except OSError as error:
            if error.errno in GONE:
                self._stream = None
            else:
                self.problem = self.problem or error
        except UnicodeEncodeError:
            raise
        except ValueError:  # it was closed
            self._stream = None
        return None


def open_missing() -> None:
    """Give a process that was started without standard streams (cron, `2>&-`) ones that lead nowhere: else the next
    file that is opened has their numbers, and gets what is printed to them."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != number:  # the smallest number that is free
                continue
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def lasting_streams() -> None:
    """Make `print` safe for the rest of this process, whatever happens to what reads it."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, cast(TextIO, Lasting(getattr(sys, name))))


def failure(stream: TextIO | None) -> OSError | None:
    """Why what was written to a stream can't reach its reader; None if it can. Afterwards the stream leads nowhere, so
    that the interpreter's own last flush does not fail again."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    except ValueError:  # it was closed
        pass
    return None
