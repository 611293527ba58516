from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from counting import Counting, config
from states import same_bits

from trivium.callbacks import Callback
from trivium.checkpoints.folder import Checkpoints
from trivium.learner import Run, UserCodeError
from trivium.tracking.tracker import RunTracker, read_rows
from trivium.training.loop import Loop


class Seeing(Callback):
    """Notes all that it is called with, and draws from the global generator at each call."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def _note(self, hook: str, what: Any) -> None:
        torch.rand(3)
        self.seen.append((hook, what))

    def on_begin(self, learner: Any, run: Run) -> None:
        self._note("begin", type(learner))

    def on_row(self, row: Any) -> None:
        self._note("row", row["updates"])

    def on_evaluation(self, values: Any, step: int) -> None:
        self._note("evaluation", (step, values["eval/score"]))

    def on_checkpoint(self, name: str) -> None:
        self._note("checkpoint", name)

    def on_end(self, outcome: Any) -> None:
        self._note("end", outcome.updates)


def loop(folder: Path, *callbacks: Callback, updates: int = 8) -> Loop:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    run, conf = Run(), config(budget={"updates": updates}, checkpoint={"every_updates": 3})
    return Loop(
        Counting(run=run), run, conf, Checkpoints(folder / "checkpoints", run), RunTracker(folder), callbacks=callbacks
    )


def trained(training: Loop) -> Any:
    try:
        return training.train()
    finally:
        training.recorder.tracker.finish()


def test_callbacks_see_rows_evaluations_and_checkpoints_and_change_no_bits(tmp_path: Path) -> None:
    seeing = Seeing()
    with_it = loop(tmp_path / "with", seeing)
    trained(with_it)
    without = loop(tmp_path / "without")
    trained(without)
    assert seeing.seen == [
        ("begin", Counting),
        ("checkpoint", "step-000000000030"),
        ("row", 4),
        ("checkpoint", "step-000000000060"),
        ("evaluation", (80, 8.0)),
        ("row", 8),
        ("checkpoint", "step-000000000080"),
        ("row", 8),
        ("end", 8),
    ]
    assert same_bits(with_it.learner.noise, without.learner.noise)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("hook", "at"), [("on_row", 4), ("on_checkpoint", 3), ("on_begin", 1)])
def test_a_hook_that_returns_true_ends_the_run_as_a_spent_budget_does(tmp_path: Path, hook: str, at: int) -> None:
    stopping = type("Stopping", (Callback,), {hook: lambda *_: True})()
    outcome = trained(loop(tmp_path, stopping))
    assert (outcome.reason, outcome.updates) == ("callback Stopping asked to stop", at)
    assert {"eval/score", "test/score"} <= set(outcome.metrics)
    assert outcome.checkpoint == f"step-{10 * at:012}"
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["updates"] == at


def test_what_a_callback_raises_ends_the_run_and_names_it(tmp_path: Path) -> None:
    class Wrong(Callback):
        def on_row(self, row: Any) -> None:
            raise KeyError("train/accuracy")

    with pytest.raises(UserCodeError, match=r"callback Wrong\.on_row raised KeyError: 'train/accuracy'") as raised:
        trained(loop(tmp_path, Wrong()))
    assert isinstance(raised.value.__cause__, KeyError)
