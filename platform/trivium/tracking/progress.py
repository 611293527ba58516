"""What a run looks like while it trains: a live line on a terminal, plain lines where there is none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from trivium.boundary.output import Lasting

DOING_S = 5.0  # what takes longer has plain lines of its own, further and further apart,
DOING_MOST_S = 60.0  # but no further than this


@dataclass(frozen=True)
class Status:
    """One moment of a run; small enough to be sent between processes.

    Attributes:
        fraction: of the budget that is spent, in [0, 1].
        per_s: units of the step axis a second, since this process started training.
        left_s: estimated seconds to the end; None while unknown.
        metrics: the last value of each.
        is_row: whether a row was logged at this moment.
        evaluated: whether that row holds an evaluation.
        doing: what takes long now, such as an evaluation; empty for updates.
    """

    name: str
    fraction: float
    axis: str
    step: int
    per_s: float
    elapsed_s: float
    left_s: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    is_row: bool = False
    evaluated: bool = False
    doing: str = ""

    def line(self, *, num_metrics: int = 4) -> str:
        """`mlp_digits  42% | 5,376 samples | 81.2k/s | 3 s left | eval/accuracy 0.961 ...`; while something takes long,
        that in place of the pace."""
        left = "" if self.left_s is None or self.fraction >= 1 else f" | {_duration(self.left_s)} left"
        order = sorted(
            self.metrics, key=lambda k: (not k.startswith("test/"), not k.startswith("eval/"), not _headline(k))
        )
        shown = "  ".join(f"{k} {self.metrics[k]:.4g}" for k in order[:num_metrics])
        axis = self.axis.replace("_", " ")
        pace = self.doing or f"{_short(self.per_s)}/s{left}"
        return f"{self.name} {self.fraction:4.0%} | {self.step:,} {axis} | {pace} | {shown}"


class Display:
    """Shows statuses on a stream (stderr, so that stdout holds results only), as long as it can be written.

    Args:
        stream: where to; a live line if it is a terminal.
        every_s: at least so many seconds between two plain lines.

    Attributes:
        keep: is given what is shown, quiet or not, for the run's log: what is said, and now and then a status, the less
            often the longer the run.
    """

    keep: Callable[[str], object] | None = None

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 2.0, quiet: bool = False) -> None:
        self.stream = Lasting(stream or sys.stderr)
        self.live = self.stream.isatty()
        self.every_s = every_s
        self.quiet = quiet
        self._last = -every_s
        self._doing_pause, self._doing_from = DOING_S, time.monotonic() + DOING_S
        self._waiting: Status | None = None
        self._kept = -every_s
        self._to_keep: Status | None = None

    def show(self, status: Status) -> None:
        """Show a status now, or keep it until a plain line is due."""
        if self.keep is not None and status.is_row:
            self._to_keep = status
            if time.monotonic() - self._kept >= max(self.every_s, status.elapsed_s / 500):
                self._keep_status()
        if self.quiet:
            return
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + status.line()[:width])
            self.stream.flush()
            return
        now = time.monotonic()
        if status.doing:
            if now >= self._doing_from:
                self._print_waiting()
                print(status.line(), file=self.stream, flush=True)
                self._doing_pause = min(2 * self._doing_pause, DOING_MOST_S)
                self._doing_from = now + self._doing_pause
            return
        self._busy(now)
        if status.is_row:
            self._waiting = status
            if now - self._last >= self.every_s:
                self._print_waiting()

    def _busy(self, now: float) -> None:
        """Updates are made: the first plain line on what takes long comes `DOING_S` after the last of them."""
        self._doing_pause, self._doing_from = DOING_S, now + DOING_S

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close()
        if self.keep is not None:
            self.keep(text)
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """End the live line, or print the last status that is still waiting."""
        if self.live and not self.quiet:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
        self._print_waiting()
        self._keep_status()

    def _keep_status(self) -> None:
        if self._to_keep is not None and self.keep is not None:
            self.keep(self._to_keep.line())
            self._to_keep, self._kept = None, time.monotonic()

    def _print_waiting(self) -> None:
        if self._waiting:
            print(self._waiting.line(), file=self.stream, flush=True)
            self._waiting, self._last = None, time.monotonic()


def _headline(key: str) -> bool:
    return key.endswith(("accuracy", "return_mean", "elbo", "/loss", "episode_return"))


def _short(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
