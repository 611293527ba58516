"""The one training loop.

It owns the budget, evaluation, checkpoints, early stopping, the guard against NaN, signals and resuming; what a step
is, the learner knows, and what the user gets to see, `trivium.training.recording`. Between two log rows it never waits
for the device: metrics stay tensors until due.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from trivium import declared
from trivium.boundary.untrusted import Refused, require
from trivium.callbacks import Callback, Callbacks
from trivium.checkpoints.folder import Checkpoints, rng_state, set_rng_state
from trivium.checkpoints.storage import checkpoint_name
from trivium.config.errors import Config
from trivium.learner import Abandoned, Adapts, Learner, Run, evaluates_of
from trivium.parallel.averaging import make_buffers_first
from trivium.run_folder.task import Outcome
from trivium.tracking.tracker import Row, Tracker
from trivium.training.agreement import Agreement
from trivium.training.budget import Budget, Cadence
from trivium.training.ends import failure
from trivium.training.loop_state import SHAPE, compute_as, computed_by, counters_problem, weights_finite
from trivium.training.machine import threads
from trivium.training.monitor import Monitor
from trivium.training.position import Position
from trivium.training.recording import Recorder, rng_untouched


class NonFiniteLoss(Exception):
    """The loss, or a weight, became NaN or Inf; the message names the update and the last good checkpoint."""


class Interrupted(Exception):
    """The run was told to stop, wrote a checkpoint and did.

    Args:
        signal: the number of the signal.
        checkpoint: the name of the checkpoint.

    Attributes:
        arguments: of the command `trivium` that goes on.
    """

    def __init__(self, signal: int, checkpoint: str) -> None:
        super().__init__(signal, checkpoint)
        self.signal = signal
        self.checkpoint = checkpoint
        self.arguments: list[str] = []

    def __str__(self) -> str:
        return f"stopped by signal {self.signal}; trivium resume continues from {self.checkpoint}"


@dataclass
class Loop:
    """Trains a learner until its budget is spent. Each worker runs its own loop; they decide alike.

    Args:
        learner: what is trained.
        run: where.
        config: the checked config; the loop reads budget, log, evaluation, checkpoint, monitor.
        checkpoints: where states go.
        tracker: where rows go; does nothing on ranks other than 0.
        stop_requested: asked between updates on rank 0 for the signal that asks the run to stop, if any.
        leaving: around evaluations, which a signal ends by `Abandoned`; does nothing where signals come otherwise.
        first_update_tells: is told how large the products of the first update are, see `machine.threads`.
        callbacks: the user's, of a run with one worker.
    """

    learner: Learner
    run: Run
    config: Config
    checkpoints: Checkpoints
    tracker: Tracker
    stop_requested: Callable[[], int | None] = lambda: None
    leaving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    first_update_tells: Callable[[float], None] | None = None
    callbacks: Sequence[Callback] = ()

    _evaluated_at: int = -1
    _saved_at: int = -1
    _minutes_spent: bool = False
    _pending: Row | None = None  # a row whose evaluation was abandoned

    def __post_init__(self) -> None:
        self._budget = Budget(self.config["budget"], self.learner.counters())
        self.position = Position(self.learner, self._budget)
        self.recorder = Recorder(self.run, self.config["name"], self.learner, self.position, self.tracker)
        self._callbacks = Callbacks(self.callbacks, lambda: rng_untouched(self.run))
        self._monitor = Monitor(self.config["monitor"], self._budget, evaluates_of(self.learner))
        self._agreement = Agreement(self.run)
        self._log_cadence = Cadence(**self.config["log"])
        self._evaluation = Cadence(**self.config["evaluation"])
        checkpoint = self.config["checkpoint"]
        self._checkpoint = Cadence(every_updates=checkpoint["every_updates"], every_s=checkpoint["every_s"])
        self._cadences = (self._log_cadence, self._evaluation, self._checkpoint)

    @property
    def updates(self) -> int:
        """How many were made, over all resumes."""
        return self.position.updates

    @property
    def step(self) -> int:
        """The step axis: samples or env steps, over all workers."""
        return self.position.step

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return self.recorder.metrics

    def train(self) -> Outcome:
        """Train until the budget is spent, evaluate, and measure what one would publish.

        Raises:
            NonFiniteLoss, Interrupted, CheckpointError: as they say.
            UserCodeError: a callback failed.
        """
        with self._under_way(), contextlib.ExitStack() as first_update:
            if self._pending is not None:
                self._end_row(self._pending, evaluate=True)
            reason = self._spent() or self._monitor.satisfied()
            position, window, first, work = self.position, self.recorder.window, self.updates + 1, None
            if first == 1 and reason is None and self.first_update_tells:
                work = first_update.enter_context(threads.counted(compile=self.run.compile))
            while reason is None:
                window.append(self.learner.step())
                position.updates += 1
                if position.updates == first:
                    # What is there by now, torch and its compiler included, stays: Python's garbage collector would
                    # look through all of it every few hundred updates, a tenth of the time of small ones.
                    gc.freeze()
                    first_update.close()
                    if work and self.first_update_tells:
                        self.first_update_tells(work.typical_flop)
                log, evaluate, checkpoint, signal = self._due()
                reason = self._spent()
                if log or evaluate or reason:
                    self._write_row(evaluate=bool(evaluate or reason))
                    reason = reason or self._monitor.satisfied()
                if checkpoint or signal:
                    self._save()
                if signal:
                    raise Interrupted(signal, self.checkpoints.names()[-1])
                reason = reason or self._callbacks.stopped
                self.recorder.show_if_due()
            return self._finish(reason)

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """The run's clocks run within; what ends it says how far it was, and a signal leaves a checkpoint."""
        self._reset_clocks()
        doing = self.run.doing
        doing.stop_requested = self.stop_requested
        if self.run.rank == 0:
            doing.show = self.recorder.show
        self._callbacks.begin(self.learner, self.run)
        try:
            try:
                yield
            except Abandoned:
                self._save()
                raise Interrupted(self.stop_requested() or 0, self.checkpoints.names()[-1]) from None
        except BaseException as error:
            failure.mark(error, **self._progress())
            error.add_note(f"after {self.updates} updates")
            raise
        finally:
            doing.show, doing.stop_requested = None, lambda: None
            gc.unfreeze()

    def _reset_clocks(self) -> None:
        self.position.restart()
        for cadence in self._cadences:
            cadence.restart()
        self._agreement.restart(self.updates)
        self.recorder.restart()

    def _progress(self) -> dict[str, Any]:
        """How far the run is, as plain data."""
        with contextlib.suppress(Exception):  # of a learner that has just failed
            return {
                "updates": self.updates,
                "step": self.step,
                "counters": self.learner.counters(),
                "elapsed_s": self.position.elapsed_s,
                "metrics": dict(self.metrics),
            }
        return {"updates": self.updates}

    # ------------------------------------------------------------------------------------------- deciding

    def _spent(self) -> str | None:
        return self.position.spent(time_over=self._minutes_spent)

    def _due(self) -> tuple[bool, bool, bool, int]:
        """Whether a row, an evaluation, a checkpoint is due, and which signal asks to stop (0: none)."""
        updates = self.position.updates
        log, evaluation, checkpoint = (cadence.by_updates(updates) for cadence in self._cadences)
        if not self._agreement.due(updates):
            return log, evaluation, checkpoint, 0
        now = time.monotonic()
        decided: list[int] = [cadence.by_clock(now) for cadence in self._cadences]
        decided += [now >= self.position.time_over_at, self.stop_requested() or 0]
        decided = self._agreement.reach(decided, updates)
        self._minutes_spent = bool(decided[3])
        return bool(log or decided[0]), bool(evaluation or decided[1]), bool(checkpoint or decided[2]), decided[4]

    def _guard(self) -> None:
        """Stop all workers if the loss of any has been NaN or Inf since the last row."""
        found = self.recorder.window.non_finite_loss()
        if found is not None:
            ago, what = found
            since, update = self.recorder.row_step, self.updates - ago
            self._not_finite(f"{what} at update {update}, between the steps {since} and {self.step}")

    def _guard_weights(self) -> None:
        """Stop all workers if the gradients of a finite loss have spoilt the weights: no checkpoint may hold those."""
        if self.run.sum(torch.tensor(float(not weights_finite(self.learner)), device=self.run.device)):
            self._not_finite(f"the loss is finite, but after update {self.updates} (step {self.step}) weights are not")

    def _not_finite(self, what: str) -> NoReturn:
        saved = self.checkpoints.names()
        last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written yet"
        raise NonFiniteLoss(f"{what}; {last}")

    # ------------------------------------------------------------------------------------------- evaluating

    def _write_row(self, *, evaluate: bool) -> None:
        """One row: what the window's updates said, and an evaluation if it is due."""
        self._guard()
        row = self.recorder.row()
        self._log_cadence.restart()
        self._end_row(row, evaluate=evaluate)

    def _end_row(self, row: Row, *, evaluate: bool) -> None:
        self._pending = row if evaluate else None
        improved = evaluate and self._evaluate(row)
        self._pending = None
        if evaluate:
            self.recorder.draw()
            self._evaluation.restart()
        self._log(row)
        if improved:
            self._save()
        self.recorder.begin_row()  # neither evaluating nor saving is training

    def _log(self, row: Row) -> None:
        self.recorder.log(row)
        self._callbacks.row(row)

    def _evaluate(self, row: Row) -> bool:
        """Add an evaluation to the row; whether none so far was better."""
        self._agree_on_buffers()
        with rng_untouched(self.run), self.leaving():
            scores = {k: float(v) for k, v in self.learner.evaluate().items()}
        values = {f"eval/{k}": v for k, v in scores.items()}
        if isinstance(self.learner, Adapts):
            self.learner.adapt(scores)
        row.update(values)
        self._evaluated_at = self.updates
        improved = self._monitor.judge(values, self.step)
        self._callbacks.evaluation(values, self.step)
        return improved

    def _agree_on_buffers(self) -> None:
        """No worker evaluates or saves running statistics of its own."""
        if self.run.world_size > 1:
            make_buffers_first(self.learner, self.run.device)

    def _finish(self, reason: str) -> Outcome:
        """The closing evaluation and checkpoint, then `test/...` on the best weights."""
        elapsed_s = self.position.elapsed_s
        if self._evaluated_at != self.updates:
            self._write_row(evaluate=True)
        self._save()
        self.position.restart(elapsed_s)
        name = self.checkpoints.names()[-1]
        (signal,) = self._agreement.reach([self.stop_requested() or 0], self.updates)
        if signal:
            raise Interrupted(signal, name)
        lost = []
        if self._monitor.best_step is not None and self._monitor.best_step != self.step:
            best = self.checkpoints.load("best", into=self._take_weights)
            name = best["checkpoint"] if best is not None else name
            if name != (wanted := checkpoint_name(self._monitor.best_step)):
                lost.append(f"the best checkpoint, {wanted}, is gone or damaged: test/... was measured on {name}")
        self._agree_on_buffers()
        with rng_untouched(self.run), self.leaving():
            test = {f"test/{k}": float(v) for k, v in self.learner.evaluate(final=True).items()}
        self._log({"step": self.step, "updates": self.updates, **test})
        self.recorder.draw(always=True)
        counters = self.learner.counters()
        outcome = Outcome(reason, dict(self.metrics), counters, self.updates, elapsed_s, name, lost)
        self._callbacks.end(outcome)
        return outcome

    def _take_weights(self, state: Mapping[str, Any]) -> None:
        declared.load_weights(self.learner, state["learner"])

    # ------------------------------------------------------------------------------------------- state

    def _save(self) -> None:
        if self._saved_at == self.updates and self.checkpoints.has(self.step):
            return
        self._guard()
        self._guard_weights()
        self._agree_on_buffers()
        self.checkpoints.save(
            self.state_dict(), step=self.step, updates=self.updates, best_step=self._monitor.best_step
        )
        self._checkpoint.restart()
        self._saved_at = self.updates
        self.recorder.tracker.checkpointed()
        self._callbacks.checkpoint(checkpoint_name(self.step))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "computed_by": computed_by(self.run),
            "learner": declared.state_dict(self.learner),
            "rng": rng_state(self.run.device),
            "tracker": self.recorder.tracker.state_dict(),
            "loop": {
                "updates": self.updates,
                "elapsed_s": self.position.elapsed_s,
                "window": self.recorder.window.state_dict(),
                "metrics": dict(self.metrics),
                "evaluated_at": self._evaluated_at,
                "pending": self._pending,
                **self._monitor.state_dict(),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.take(state)
        self.go_on(state)

    def take(self, state: Mapping[str, Any]) -> None:
        """The part of `load_state_dict` that leaves the disk alone: if it raises, another state can be taken.

        Raises:
            Refused: the state does not look like one of a loop.
            Others: whatever the learner raises of one that it can't use.
        """
        require(state, SHAPE)
        loop = state["loop"]
        compute_as(state["computed_by"], self.run, any_threads=self.config["threads"] == "auto")
        declared.load_state_dict(self.learner, state["learner"])
        if problem := counters_problem(self.learner.counters()):
            raise Refused(problem)
        self.position.updates = loop["updates"]
        self.position.elapsed_before_s = loop["elapsed_s"]
        self.recorder.window.load_state_dict(loop["window"])
        self.recorder.metrics = dict(loop["metrics"])
        self._evaluated_at = loop["evaluated_at"]
        self._pending = loop["pending"]
        self._saved_at = self.updates if self._pending is None else -1  # with its evaluation it may be the best one
        self._monitor.load_state_dict(loop)
        set_rng_state(state["rng"], self.run.device)

    def go_on(self, state: Mapping[str, Any]) -> None:
        """The rest: bring the disk to where the state was taken."""
        self.recorder.tracker.load_state_dict(state["tracker"])
        if self.run.rank == 0:
            self.checkpoints.tidy(self._monitor.best_step)  # which a kill may have prevented
