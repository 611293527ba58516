"""What the driver and the workers of a run on Ray tell each other, through an actor that stands beside the driver."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from trivium.loop import Outcome
from trivium.progress import Status

log = logging.getLogger("trivium")

SILENT_S = 10.0  # how long the mailbox, which stands beside the driver, may be silent once a signal has come
UNHEARD_S = 5.0  # how long a signal may go unheard by workers that were not placed or are not that far yet


@ray.remote(num_cpus=0)
class Mailbox:
    """Between the driver and the workers: statuses, sentences and the end one way, the signal to stop the other."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.answer: Outcome | Exception | None = None
        self.sentences: list[str] = []
        self.news = asyncio.Event()
        self.over = False
        self.signal = 0
        self.signalled = asyncio.Event()
        self.heard_at = -math.inf  # when a worker last said that it knows of the signal
        self.controller: Any = None

    def show(self, status: Status) -> None:
        self.status = status
        self.news.set()

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)
        self.news.set()

    def stop(self, signal: int) -> None:
        self.signal = signal
        self.signalled.set()

    async def asked_to_stop(self) -> int:
        """The signal, once it has come."""
        await self.signalled.wait()
        return self.signal

    def hear(self) -> None:
        self.heard_at = time.monotonic()

    def heard_the_signal(self) -> bool:
        """Whether a worker that is still there knows of it."""
        return time.monotonic() - self.heard_at < UNHEARD_S

    def introduce(self, controller: Any) -> None:
        self.controller = controller

    def known_controller(self) -> Any:
        return self.controller

    def end(self, answer: Outcome | Exception) -> None:
        """How it ended; of several the first: from rank 0, or from a worker whose error a restart would not mend."""
        self.answer = self.answer or answer
        self.news.set()

    def ended(self) -> bool:
        return self.answer is not None

    async def take(self) -> tuple[Status | None, list[str], Outcome | Exception | None]:
        """What has come since the last time, and how it ended if it has: once there is something, or at once if nobody
        will say more."""
        if not self.over:
            await self.news.wait()
        self.news.clear()
        taken = self.status, self.sentences, self.answer
        self.status, self.sentences = None, []
        return taken

    def wait_no_more(self) -> None:
        self.over = True
        self.news.set()


def answer_to(question: Any, stop_requested: Callable[[], int | None]) -> Any:
    """The mailbox's answer, however long it takes to start; once a signal has come, only `SILENT_S`.

    Raises:
        ray.exceptions.RayError: there is no mailbox any more, or it is silent.
    """
    silent_from = math.inf
    while True:
        try:
            return ray.get(question, timeout=1.0)
        except ray.exceptions.GetTimeoutError:
            silent_from = min(silent_from, time.monotonic()) if stop_requested() else math.inf
            if time.monotonic() > silent_from + SILENT_S:
                raise


@contextlib.contextmanager
def printing_to(mailbox: Any, rank: int) -> Iterator[None]:
    """Send what this worker prints and logs to the user, line by line, with the rank before it."""

    class Lines(io.TextIOBase):
        waiting = ""
        last: Any = None

        def write(self, text: str) -> int:
            *lines, self.waiting = (self.waiting + text).split("\n")
            for line in lines:
                self.last = mailbox.say.remote(f"[rank {rank}] {line}")
            return len(text)

    lines = Lines()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("trivium: %(message)s"))
    log.addHandler(handler)
    try:
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            yield
    finally:
        log.removeHandler(handler)
        if lines.last is not None:  # the end must not overtake it
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(lines.last, timeout=SILENT_S)


class AskedToStop:
    """The signal that asks to stop, 0 before it has come. A thread waits for it: to ask between updates would cost each
    time 2 to 4 ms."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox, self._signal = mailbox, 0
        self._lost: ray.exceptions.RayError | None = None
        threading.Thread(target=self._wait, name="asked-to-stop", daemon=True).start()

    def _wait(self) -> None:
        try:
            self._signal = ray.get(self._mailbox.asked_to_stop.remote())
            while True:  # as long as this worker lives
                ray.get(self._mailbox.hear.remote())
                time.sleep(UNHEARD_S / 5)
        except ray.exceptions.RayError as error:  # there is no driver any more
            self._lost = error

    def __call__(self) -> int:
        if self._lost is not None and not self._signal:
            raise self._lost
        return self._signal
