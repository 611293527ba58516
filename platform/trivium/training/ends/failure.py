"""Why a run failed and where, as plain data that outlives the process in which it did."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

OURS = str(Path(__file__).parents[2])
LIBRARIES = ("site-packages", "dist-packages")
_MARK = "_trivium_failure"  # an attribute of an exception, which pickle takes along; its traceback it does not


@dataclass(frozen=True)
class Failure:
    """What an exception says.

    Attributes:
        error: its type and message.
        place: `file:line in function` of the code, no library's, that it came from.
        trace: as Python prints it.
        progress: how far the run was, see `mark`.
    """

    error: str
    place: str
    trace: str
    progress: dict[str, Any] = field(default_factory=dict)


def mark(error: BaseException, **progress: Any) -> None:
    """Note in an exception where it came from, before it goes to another process, and how far the run was.

    Args:
        progress: plain data: `updates`, `counters`, `elapsed_s`, `metrics`, `rank`.
    """
    known = of(error).progress
    failure = _described(error)
    setattr(error, _MARK, Failure(failure.error, failure.place, failure.trace, {**known, **progress}))


def pass_on(error: BaseException, another: BaseException) -> None:
    """Let an exception that is raised in another's place say what that one says."""
    setattr(another, _MARK, of(error))


def of(error: BaseException) -> Failure:
    """What an exception says; of one that was raised in consequence of another that is marked, what that one says of
    where and how far."""
    for origin in _origins(error):
        marked = getattr(origin, _MARK, None)
        if isinstance(marked, Failure):
            return Failure(_said(error), marked.place, marked.trace, marked.progress)
    return _described(error)


def _described(error: BaseException) -> Failure:
    return Failure(_said(error), _place(error), "".join(traceback.format_exception(error)).rstrip())


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _origins(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those that led to it."""
    seen: set[int] = set()
    origin: BaseException | None = error
    while origin is not None and id(origin) not in seen:
        yield origin
        seen.add(id(origin))
        # Ray's hold as `cause` what a worker raised.
        origin = origin.__cause__ or origin.__context__ or getattr(origin, "cause", None)


def _place(error: BaseException) -> str:
    """The innermost frame of the first exception that is of the user's code or Trivium's, not of a library."""
    for origin in reversed(list(_origins(error))):
        frames = list(_frames(origin.__traceback__))
        if frames:
            own = [frame for frame in frames if not _of_library(frame[0])]
            path, line, function = (own or frames)[-1]
            return f"{path}:{line} in {function}"
    return ""


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    while trace is not None:
        code = trace.tb_frame.f_code
        yield code.co_filename, trace.tb_lineno, code.co_name
        trace = trace.tb_next


def _of_library(path: str) -> bool:
    if path.startswith(OURS):
        return False
    parts = path.split(os.sep)
    return any(name in parts for name in LIBRARIES) or path.startswith(("<", sysconfig.get_path("stdlib") + os.sep))
