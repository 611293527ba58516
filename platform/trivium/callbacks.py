"""Callbacks: how a user's Python sees a run while it trains, and ends it. The same for every family."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trivium.learner import Learner, Run, UserCodeError

if TYPE_CHECKING:
    from trivium.run_folder.task import Outcome


class Callback:
    """Derive from this class and override what you need. A hook that returns True asks the run to stop: it then ends as
    with a spent budget, with an evaluation, a checkpoint and `test/...`.

    Hooks are called in the process that trains, between two updates. What they draw from the global random generators
    is undone, so that a run with callbacks comes to the same bits as without; an exception in one ends the run. After a
    resume the hooks go on with what comes then: rows that a kill had taken away come again.
    """

    def on_begin(self, learner: Learner, run: Run) -> bool | None:
        """The training begins or goes on; `run.dir` is the run folder."""

    def on_row(self, row: Mapping[str, float | None]) -> bool | None:
        """A row was logged: `step`, `updates` and metrics by name, as in metrics.jsonl."""

    def on_evaluation(self, values: Mapping[str, float], step: int) -> bool | None:
        """An evaluation was made at a step; `eval/...` by name."""

    def on_checkpoint(self, name: str) -> bool | None:
        """A checkpoint was written; its name, such as step-000000012800."""

    def on_end(self, outcome: Outcome) -> None:
        """The run has ended by itself: its metrics, counters and what ended it. Not called when it fails."""


class Callbacks:
    """The callbacks of a run, one after the other.

    Args:
        callbacks: the user's.
        untouched: a context that undoes what is drawn from global generators.

    Attributes:
        stopped: why a callback asked to stop, in words; None as long as none has.
    """

    def __init__(
        self, callbacks: Sequence[Callback], untouched: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._callbacks, self._untouched = callbacks, untouched
        self.stopped: str | None = None

    def begin(self, learner: Learner, run: Run) -> None:
        self._call("on_begin", learner, run)

    def row(self, row: Mapping[str, Any]) -> None:
        self._call("on_row", dict(row))

    def evaluation(self, values: Mapping[str, float], step: int) -> None:
        self._call("on_evaluation", dict(values), step)

    def checkpoint(self, name: str) -> None:
        self._call("on_checkpoint", name)

    def end(self, outcome: Outcome) -> None:
        self._call("on_end", outcome)

    def _call(self, hook: str, *given: Any) -> None:
        if not self._callbacks:
            return
        with self._untouched():
            for callback in self._callbacks:
                name = type(callback).__name__
                try:
                    asked = getattr(callback, hook)(*given)
                except Exception as error:
                    said = f"{type(error).__name__}: {error}".partition("\n")[0]
                    raise UserCodeError(f"callback {name}.{hook} raised {said}") from error
                if asked is True and self.stopped is None:
                    self.stopped = f"callback {name} asked to stop"
