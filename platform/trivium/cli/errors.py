"""Errors of a command: which are known, what is printed about them, and their exit codes."""

from __future__ import annotations

import contextlib
import errno
import logging
import shlex
import sys
import traceback

from trivium.boundary import output, strict_json

OF_THE_DISK = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
)
MOST_LINES = 30  # of errors that are shown
# Errors that explain themselves: one line without a trace, exit code 1.
KNOWN = ("NonFiniteLoss", "CheckpointError", "Refused", "UserCodeError", "WorkersLost")


class UsageError(Exception):
    """The command line is not one of trivium's.

    Args:
        lines: each says what was typed and what is valid.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = list(lines)


def report(error: BaseException, *, trace: bool, as_json: bool) -> int:
    """Print what went wrong, a line each, on stderr; a trace only when asked for, or for a fault of Trivium's own.

    Args:
        trace: whether the user asked for one.
        as_json: on stdout too, as `{"error": {"kind", "lines", "exit_code"}}`.

    Returns:
        The exit code.
    """
    from trivium.boundary.credentials import mask

    kind, lines, code, known = described(error, trace=trace)
    if trace or not known:
        print(mask("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
    lines = [printable(mask(line)) for line in lines]
    for line in lines:
        prefix = "trivium: " if kind in ("Interrupted", "Stopped") else "trivium: error: "
        print(prefix + line, file=sys.stderr)
    if as_json:
        with contextlib.suppress(OSError):  # nobody reads; the exit code says it all the same
            print(strict_json.dumps({"error": {"kind": kind, "lines": lines, "exit_code": code}}), flush=True)
    return code


def described(error: BaseException, *, trace: bool) -> tuple[str, list[str], int, bool]:
    """The kind of an error, its lines, the exit code, and whether it is reported without a trace."""
    kind = type(error).__name__  # errors are recognised by name, so that nothing that defines them is imported here
    if isinstance(error, KeyboardInterrupt):
        return kind, [], 130, True
    if isinstance(error, UsageError):
        return kind, error.lines, 2, True
    if kind == "ConfigError":
        return kind, list(getattr(error, "errors", [])), 2, True
    if kind == "Interrupted":
        number, checkpoint, arguments = (getattr(error, name) for name in ("signal", "checkpoint", "arguments"))
        line = f"stopped by signal {number}; to continue from {checkpoint}: {shlex.join(['trivium', *arguments])}"
        return kind, [line], 128 + number, True
    if kind == "Stopped":  # a search
        return kind, [str(error)], 128 + getattr(error, "signal", 0), True
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return kind, [f"{error.filename or 'the run folder'}: {error.strerror}"], 1, True
    kinds = {one.__name__ for one in type(error).__mro__}
    if not kinds.isdisjoint(KNOWN):
        where = " (--trace shows where)" if "UserCodeError" in kinds and error.__cause__ and not trace else ""
        return kind, [f"{error}{where}"], 1, True
    return kind, [f"{kind}: {' '.join(str(error).split())}" if str(error) else kind], 1, False


def unread(error: BaseException) -> OSError | None:
    """The failure of standard output that explains this error; None if the error has another cause."""
    found = output.failure(sys.stdout) if isinstance(error, OSError) else None
    if found is None and isinstance(error, BrokenPipeError):
        return error  # raised by `print`, which has left nothing in the buffer for a flush to fail on
    return found


def one_line_handler() -> logging.Handler:
    """Shows what is logged on stderr, a line each."""

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            from trivium.boundary.credentials import mask

            return printable(mask(super().format(record)))

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("trivium: %(message)s"))
    return handler


def printable(line: str) -> str:
    """A line in which nothing moves the cursor or changes the terminal: it may quote a stranger's file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
