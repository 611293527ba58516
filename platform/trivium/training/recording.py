"""What a run shows of itself: rows of metrics, progress, pictures. Nothing here decides anything."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from trivium.checkpoints.folder import rng_state, set_rng_state
from trivium.learner import Draws, Learner, Run
from trivium.tracking.progress import Status
from trivium.tracking.tracker import Row, Tracker
from trivium.training.position import Position
from trivium.training.window import Window

SHOW_S = 0.5  # how often the user is shown where the run is
FIGURES_SHARE = 0.02  # of the run's time that pictures drawn while training may take


@contextlib.contextmanager
def rng_untouched(run: Run) -> Iterator[None]:
    """What is drawn within from the global generators is undone."""
    state = rng_state(run.device)
    try:
        yield
    finally:
        set_rng_state(state, run.device)


class Recorder:
    """Makes the rows of a run and hands them to its tracker.

    Args:
        run: where.
        name: the experiment's.
        learner: whose figures are drawn, if it `Draws`.
        position: how far the run is.
        tracker: where rows go; does nothing on ranks other than 0.

    Attributes:
        window: the metrics of the updates since the last row.
        metrics: the last value of every metric.
    """

    def __init__(self, run: Run, name: str, learner: Learner, position: Position, tracker: Tracker) -> None:
        self._run, self._name, self._learner, self._at = run, name, learner, position
        self.tracker = tracker
        self.window = Window(run)
        self.metrics: dict[str, float] = {}
        self._drawing_s = 0.5  # a guess before anything was drawn, so that a short run draws at its end only
        self.restart()

    def restart(self) -> None:
        """The training goes on now."""
        now, at = time.monotonic(), self._at
        self.begin_row()
        self._shown, self._first_step, self._first_fraction = now, (now, at.step), at.fraction

    # ------------------------------------------------------------------------------------------- rows

    def begin_row(self) -> None:
        """What comes now is the next row's."""
        self._row_start = (time.monotonic(), self._at.step, self._at.updates)

    @property
    def row_step(self) -> int:
        """The step that the present row begins with."""
        return self._row_start[1]

    def row(self) -> Row:
        """The mean of each metric over the window, which is empty afterwards, with the counters and the speed."""
        at = self._at
        row: Row = {"step": at.step, "updates": at.updates, **dict(list(self._learner.counters().items())[1:])}
        row.update({f"train/{name}": value for name, value in self.window.means().items()})
        since, step, updates = self._row_start
        passed, made = time.monotonic() - since, at.updates - updates
        if made:
            row |= {
                "time/elapsed_s": at.elapsed_s,
                "time/step_ms": 1e3 * passed / made,
                f"time/{at.axis}_per_s": (at.step - step) / passed,
                **self.tracker.system(),
            }
        return row

    def log(self, row: Row) -> None:
        """Keep a row."""
        self.metrics.update({name: value for name, value in row.items() if "/" in name and value is not None})
        self.tracker.log(row)
        self.show(is_row=True, evaluated=any(name.startswith("eval/") for name in row))

    # ------------------------------------------------------------------------------------------- progress

    def show_if_due(self) -> None:
        """Show where the run is, twice a second; quick, to be called after every update."""
        if time.monotonic() - self._shown >= SHOW_S:
            self.show()

    def show(self, doing: str = "", *, is_row: bool = False, evaluated: bool = False) -> None:
        """Show where the run is.

        Args:
            doing: what the present step or evaluation is at.
            is_row: whether it is at a row.
            evaluated: whether that row holds an evaluation.
        """
        self._shown, at = time.monotonic(), self._at
        since, first = self._first_step
        passed = self._shown - since
        self.tracker.show(
            Status(
                name=self._name,
                fraction=at.fraction,
                axis=at.axis,
                step=at.step,
                per_s=(at.step - first) / max(passed, 1e-9),
                elapsed_s=at.elapsed_s,
                left_s=self._left_s(passed),
                metrics={k: v for k, v in self.metrics.items() if not k.startswith(("time/", "system/"))},
                is_row=is_row,
                evaluated=evaluated,
                doing=doing,
            )
        )

    def _left_s(self, passed_s: float) -> float | None:
        fraction = self._at.fraction
        made = fraction - self._first_fraction
        return passed_s * (1 - fraction) / made if made > 0 else None

    # ------------------------------------------------------------------------------------------- figures

    def draw(self, *, always: bool = False) -> None:
        """Draw the learner's figures on rank 0; unless `always` only as long as all drawing takes under
        `FIGURES_SHARE` of the run's time."""
        if not isinstance(self._learner, Draws) or self._run.rank:
            return
        if not (always or self._drawing_s <= FIGURES_SHARE * self._at.elapsed_s):
            return
        began = time.monotonic()
        with rng_untouched(self._run):
            self.tracker.figures(self._at.step, self._learner.figures())
        self._drawing_s += time.monotonic() - began
