"""The one training loop.

It owns the budget, logging, evaluation, checkpoints, early stopping, the guard against NaN, signals and resuming; what
a step is, the learner knows. Between two log rows it never waits for the device: metrics stay tensors until due.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import nn

from trivium import declared
from trivium.boundary.untrusted import Refused, require
from trivium.checkpoints.folder import Checkpoints, rng_state, set_rng_state
from trivium.checkpoints.storage import checkpoint_name
from trivium.config.errors import Config
from trivium.learner import Abandoned, Learner, Picture, Run
from trivium.parallel.averaging import make_buffers_first, modules_of
from trivium.run_folder.task import Outcome
from trivium.tracking.progress import Status
from trivium.tracking.tracker import Row, Tracker
from trivium.training import failure, threads
from trivium.training.agreement import Agreement
from trivium.training.budget import Budget, Cadence
from trivium.training.loop_state import SHAPE, counters_problem
from trivium.training.monitor import Monitor
from trivium.training.window import Window

log = logging.getLogger("trivium")

SHOW_S = 0.5  # how often the user is shown where the run is
FIGURES_SHARE = 0.02  # of the run's time that pictures drawn while training may take


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
        first_update_tells: is told how large the products of the first update are, see `trivium.training.threads`.
    """

    learner: Learner
    run: Run
    config: Config
    checkpoints: Checkpoints
    tracker: Tracker
    stop_requested: Callable[[], int | None] = lambda: None
    leaving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    first_update_tells: Callable[[float], None] | None = None

    updates: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    _elapsed_before_s: float = 0.0
    _evaluated_at: int = -1
    _saved_at: int = -1
    _minutes_spent: bool = False
    _pending: Row | None = None  # a row whose evaluation was abandoned
    _drawing_s: float = 0.5  # a guess before anything was drawn, so that a short run draws at its end only

    def __post_init__(self) -> None:
        self._window = Window(self.run)
        self._budget = Budget(self.config["budget"], self.learner.counters())
        self._monitor = Monitor(self.config["monitor"], self._budget, getattr(self.learner, "evaluates", None))
        self._agreement = Agreement(self.run)
        self._log_cadence = Cadence(**self.config["log"])
        self._evaluation = Cadence(**self.config["evaluation"])
        checkpoint = self.config["checkpoint"]
        self._checkpoint = Cadence(every_updates=checkpoint["every_updates"], every_s=checkpoint["every_s"])
        self._cadences = (self._log_cadence, self._evaluation, self._checkpoint)
        self._axis = next(iter(self.learner.counters()))
        self._reset_clocks()

    @property
    def step(self) -> int:
        """The step axis: samples or env steps, over all workers."""
        return int(next(iter(self.learner.counters().values())))

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all resumes."""
        return self._elapsed_before_s + time.monotonic() - self._started

    @property
    def fraction(self) -> float:
        """How much of the budget is spent, in [0, 1]."""
        return self._budget.fraction(self.learner.counters(), self.updates, self.elapsed_s)

    def _reset_clocks(self) -> None:
        for cadence in self._cadences:
            cadence.restart()
        self._agreement.restart(self.updates)
        self._started = now = time.monotonic()
        self._row_start = (now, self.step, self.updates)
        self._shown, self._first_step, self._first_fraction = now, (now, self.step), self.fraction

    def train(self) -> Outcome:
        """Train until the budget is spent, evaluate, and measure what one would publish.

        Raises:
            NonFiniteLoss, Interrupted, CheckpointError: as they say.
        """
        self._reset_clocks()
        doing = self.run.doing
        doing.stop_requested = self.stop_requested
        if self.run.rank == 0:
            doing.show = self._show_doing
        try:
            try:
                return self._train()
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

    def _progress(self) -> dict[str, Any]:
        """How far the run is, as plain data."""
        with contextlib.suppress(Exception):  # of a learner that has just failed
            return {
                "updates": self.updates,
                "step": self.step,
                "counters": self.learner.counters(),
                "elapsed_s": self.elapsed_s,
                "metrics": dict(self.metrics),
            }
        return {"updates": self.updates}

    def _train(self) -> Outcome:
        if self._pending is not None:
            self._end_row(self._pending, evaluate=True)
        reason = self._spent() or self._monitor.satisfied()
        first = self.updates + 1
        step = self._first_update if first == 1 else self.learner.step
        while reason is None:
            self._window.append(step())
            self.updates += 1
            step = self.learner.step
            if self.updates == first:
                # What is there by now, torch and its compiler included, stays: Python's garbage collector would look
                # through all of it every few hundred updates, a tenth of the time of small ones.
                gc.freeze()
            log, evaluate, checkpoint, signal = self._due()
            reason = self._spent()
            if log or evaluate or reason:
                self._write_row(evaluate=bool(evaluate or reason))
                reason = reason or self._monitor.satisfied()
            if checkpoint or signal:
                self._save()
            if signal:
                raise Interrupted(signal, self.checkpoints.names()[-1])
            self._show()
        return self._finish(reason)

    def _first_update(self) -> dict[str, torch.Tensor]:
        if self.first_update_tells is None:
            return self.learner.step()
        with threads.counted(compile=self.run.compile) as work:
            logs = self.learner.step()
        self.first_update_tells(work.typical_flop)
        return logs

    # ------------------------------------------------------------------------------------------- deciding

    def _spent(self) -> str | None:
        return self._budget.spent(self.learner.counters(), self.updates, time_over=self._minutes_spent)

    @property
    def _time_over_at(self) -> float:
        return self._started + 60 * self._budget.minutes - self._elapsed_before_s

    def _due(self) -> tuple[bool, bool, bool, int]:
        """Whether a row, an evaluation, a checkpoint is due, and which signal asks to stop (0: none)."""
        log, evaluation, checkpoint = (cadence.by_updates(self.updates) for cadence in self._cadences)
        if not self._agreement.due(self.updates):
            return log, evaluation, checkpoint, 0
        now = time.monotonic()
        decided: list[int] = [cadence.by_clock(now) for cadence in self._cadences]
        decided += [now >= self._time_over_at, self.stop_requested() or 0]
        decided = self._agreement.reach(decided, self.updates)
        self._minutes_spent = bool(decided[3])
        return bool(log or decided[0]), bool(evaluation or decided[1]), bool(checkpoint or decided[2]), decided[4]

    # ------------------------------------------------------------------------------------------- rows

    def _write_row(self, *, evaluate: bool) -> None:
        """One row: what the window's updates said, and an evaluation if it is due."""
        row: Row = {"step": self.step, "updates": self.updates, **self._other_counters()}
        self._guard()
        row.update({f"train/{k}": v for k, v in self._window.means().items()})
        row.update(self._rates())
        self._log_cadence.restart()
        self._end_row(row, evaluate=evaluate)

    def _end_row(self, row: Row, *, evaluate: bool) -> None:
        self._pending = row if evaluate else None
        improved = evaluate and self._evaluate(row)
        self._pending = None
        if evaluate:
            self._draw_figures()
            self._evaluation.restart()
        self._log(row)
        if improved:
            self._save()
        self._row_start = (time.monotonic(), self.step, self.updates)  # neither evaluating nor saving is training

    def _log(self, row: Row) -> None:
        self.metrics.update({k: v for k, v in row.items() if "/" in k and v is not None})
        self.tracker.log(row)
        self._show(row)

    def _show(self, row: Row | None = None) -> None:
        now = time.monotonic()
        if row is None and now - self._shown < SHOW_S:
            return
        self._show_now(now, is_row=row is not None)

    def _show_doing(self, text: str) -> None:
        self._show_now(time.monotonic(), doing=text)

    def _show_now(self, now: float, *, is_row: bool = False, doing: str = "") -> None:
        self._shown = now
        since, first = self._first_step
        self.tracker.show(
            Status(
                name=self.config["name"],
                fraction=self.fraction,
                axis=self._axis,
                step=self.step,
                per_s=(self.step - first) / max(now - since, 1e-9),
                elapsed_s=self.elapsed_s,
                left_s=self._left_s(now - since),
                metrics={k: v for k, v in self.metrics.items() if not k.startswith(("time/", "system/"))},
                is_row=is_row,
                doing=doing,
            )
        )

    def _left_s(self, passed_s: float) -> float | None:
        done = self.fraction - self._first_fraction
        return passed_s * (1 - self.fraction) / done if done > 0 else None

    def _other_counters(self) -> dict[str, float]:
        return dict(list(self.learner.counters().items())[1:])

    def _guard(self) -> None:
        """Stop all workers if the loss of any has been NaN or Inf since the last row."""
        found = self._window.non_finite_loss()
        if found is not None:
            ago, what = found
            since, update = self._row_start[1], self.updates - ago
            self._not_finite(f"{what} at update {update}, between the steps {since} and {self.step}")

    def _guard_weights(self) -> None:
        """Stop all workers if the gradients of a finite loss have spoilt the weights: no checkpoint may hold those."""
        if self.run.sum(torch.tensor(float(not weights_finite(self.learner)), device=self.run.device)):
            self._not_finite(f"the loss is finite, but after update {self.updates} (step {self.step}) weights are not")

    def _not_finite(self, what: str) -> NoReturn:
        saved = self.checkpoints.names()
        last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written yet"
        raise NonFiniteLoss(f"{what}; {last}")

    def _rates(self) -> Row:
        since, step, updates = self._row_start
        passed, made = time.monotonic() - since, self.updates - updates
        if not made:
            return {}
        return {
            "time/elapsed_s": self.elapsed_s,
            "time/step_ms": 1e3 * passed / made,
            f"time/{self._axis}_per_s": (self.step - step) / passed,
            **self.tracker.system(),
        }

    # ------------------------------------------------------------------------------------------- evaluating

    def _evaluate(self, row: Row) -> bool:
        """Add an evaluation to the row; whether none so far was better."""
        self._agree_on_buffers()
        with self._rng_untouched(), self.leaving():
            values = {f"eval/{k}": float(v) for k, v in self.learner.evaluate().items()}
        row.update(values)
        self._evaluated_at = self.updates
        return self._monitor.judge(values, self.step)

    def _agree_on_buffers(self) -> None:
        """No worker evaluates or saves running statistics of its own."""
        if self.run.world_size > 1:
            make_buffers_first(self.learner, self.run.device)

    def _draw_figures(self, *, always: bool = False) -> None:
        """Draw on rank 0; at evaluations only as long as all drawing takes under `FIGURES_SHARE` of the time."""
        draw: Callable[[], dict[str, Picture]] | None = getattr(self.learner, "figures", None)
        if draw is None or self.run.rank or not (always or self._drawing_s <= FIGURES_SHARE * self.elapsed_s):
            return
        began = time.monotonic()
        with self._rng_untouched():
            self.tracker.figures(self.step, draw())
        self._drawing_s += time.monotonic() - began

    @contextlib.contextmanager
    def _rng_untouched(self) -> Iterator[None]:
        state = rng_state(self.run.device)
        try:
            yield
        finally:
            set_rng_state(state, self.run.device)

    def _finish(self, reason: str) -> Outcome:
        """The closing evaluation and checkpoint, then `test/...` on the best weights."""
        elapsed_s = self.elapsed_s
        if self._evaluated_at != self.updates:
            self._write_row(evaluate=True)
        self._save()
        self._elapsed_before_s, self._started = elapsed_s, time.monotonic()
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
        with self._rng_untouched(), self.leaving():
            test = {f"test/{k}": float(v) for k, v in self.learner.evaluate(final=True).items()}
        self._log({"step": self.step, "updates": self.updates, **test})
        self._draw_figures(always=True)
        return Outcome(reason, dict(self.metrics), self.learner.counters(), self.updates, elapsed_s, name, lost)

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
        self.tracker.checkpointed()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "computed_by": computed_by(self.run),
            "learner": declared.state_dict(self.learner),
            "rng": rng_state(self.run.device),
            "tracker": self.tracker.state_dict(),
            "loop": {
                "updates": self.updates,
                "elapsed_s": self.elapsed_s,
                "window": self._window.state_dict(),
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
        self._compute_as(state["computed_by"])
        declared.load_state_dict(self.learner, state["learner"])
        if problem := counters_problem(self.learner.counters()):
            raise Refused(problem)
        self.updates = loop["updates"]
        self._elapsed_before_s = loop["elapsed_s"]
        self._window.load_state_dict(loop["window"])
        self.metrics = dict(loop["metrics"])
        self._evaluated_at = loop["evaluated_at"]
        self._pending = loop["pending"]
        self._saved_at = self.updates if self._pending is None else -1  # with its evaluation it may be the best one
        self._monitor.load_state_dict(loop)
        set_rng_state(state["rng"], self.run.device)

    def go_on(self, state: Mapping[str, Any]) -> None:
        """The rest: bring the disk to where the state was taken."""
        self.tracker.load_state_dict(state["tracker"])
        if self.run.rank == 0:
            self.checkpoints.tidy(self._monitor.best_step)  # which a kill may have prevented

    def _compute_as(self, before: Mapping[str, Any]) -> None:
        """Sums depend on how many threads share them: take as many as before, and say what else is not the same."""
        if self.config["threads"] == "auto":
            torch.set_num_threads(before["threads"])
        now = computed_by(self.run)
        different = [f"{what} {before[what]}, now {now[what]}" for what in now if now[what] != before[what]]
        if different and self.run.rank == 0:
            log.warning("the run goes on, but not to the same bits: it began on %s", "; ".join(different))


def weights_finite(learner: Learner) -> bool:
    """Whether no parameter of a learner's modules that is trained holds a NaN or Inf."""
    parameters = [p for module in modules_of(learner) for p in module.parameters() if p.requires_grad]
    of_devices: dict[torch.device, list[torch.Tensor]] = {}
    for parameter in parameters:
        if not isinstance(parameter, nn.UninitializedParameter):
            of_devices.setdefault(parameter.device, []).append(parameter.isfinite().all())
    return all(bool(torch.stack(finite).all()) for finite in of_devices.values())


def computed_by(run: Run) -> dict[str, Any]:
    """What, besides the state, decides the bits of a result."""
    return {
        "torch": str(torch.__version__),
        "device": run.device.type,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "compile": run.compile,
    }
