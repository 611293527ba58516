"""SIGTERM, SIGINT and SIGHUP as a question that the loop asks between two updates, instead of an end at any place."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType

from trivium.learner import Abandoned


class Asked:
    """Which signal has asked the run to stop, if any."""

    signal: int | None = None
    _may_leave = False

    def __call__(self) -> int | None:
        return self.signal

    def note(self, number: int) -> None:
        """A signal came."""
        self.signal = number
        if self._may_leave:
            self._may_leave = False
            raise Abandoned

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """What is done within is left by `Abandoned` when a signal comes, or not begun if one has come."""
        if self.signal:
            raise Abandoned
        self._may_leave = True
        try:
            yield
        finally:
            self._may_leave = False


_listening: ContextVar[Asked | None] = ContextVar("listening", default=None)


def ask(number: int) -> None:
    """Ask the run that trains in this thread to stop, as a signal would; nothing happens if there is none."""
    if asked := _listening.get():
        asked.signal = number


@contextlib.contextmanager
def listen() -> Iterator[Asked]:
    """Note SIGTERM, SIGINT and SIGHUP (a closed terminal) instead of dying of them; a second SIGINT leaves at once with
    the usual exit code. A SIGHUP that is ignored, as under `nohup`, stays so.

    Outside the main thread, which alone gets signals, nothing changes.
    """
    asked = Asked()
    token = _listening.set(asked)
    try:
        with _noting(asked):
            yield asked
    finally:
        _listening.reset(token)


@contextlib.contextmanager
def _noting(asked: Asked) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and asked.signal == signal.SIGINT:
            os._exit(128 + number)
        if number == signal.SIGINT:  # not by a stream's own write, in the middle of which the signal may have come
            with contextlib.suppress(OSError):  # nobody reads: Ctrl-C has ended the `tee` behind us first
                os.write(2, b"\ntrivium: stopping with a checkpoint; Ctrl-C again leaves at once\n")
        asked.note(number)

    noted = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        noted.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in noted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
