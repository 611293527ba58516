"""The loop's promises, on a learner whose every value is known."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from counting import Counting, config

from trivium.checkpoints.folder import Checkpoints
from trivium.config.errors import Config, ConfigError
from trivium.learner import Run
from trivium.tracking.tracker import RunTracker, read_rows
from trivium.training import signals
from trivium.training.loop import Interrupted, Loop, NonFiniteLoss, weights_finite

OPEN: list[RunTracker] = []


@pytest.fixture(autouse=True)
def _close_trackers() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().finish()


def loop(tmp_path: Path, conf: Config, **learner: Any) -> Loop:
    run = Run()
    torch.manual_seed(0)
    OPEN.append(RunTracker(tmp_path))
    return Loop(Counting(run=run, **learner), run, conf, Checkpoints(tmp_path / "checkpoints", run), OPEN[-1])


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return read_rows(tmp_path / "metrics.jsonl")


def timeless(tmp_path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "system/"))} for row in rows(tmp_path)]


@pytest.mark.parametrize(
    ("budget", "updates", "reason"),
    [
        ({"updates": 7}, 7, "7 updates"),
        ({"samples": 55}, 6, "55 samples"),
        ({"epochs": 1.5}, 6, "1.5 epochs"),
        ({"updates": 7, "samples": 30}, 3, "30 samples"),
    ],
)
def test_the_first_budget_that_is_spent_ends_the_run(
    tmp_path: Path, budget: dict[str, Any], updates: int, reason: str
) -> None:
    outcome = loop(tmp_path, config(budget=budget)).train()
    assert (outcome.updates, outcome.reason) == (updates, reason)
    assert outcome.counters["samples"] == 10 * updates
    assert outcome.metrics["test/score"] == updates


def test_minutes_end_the_run(tmp_path: Path) -> None:
    outcome = loop(tmp_path, config(budget={"minutes": 0.1 / 60})).train()
    assert outcome.reason == "0.00166667 minutes"
    assert outcome.elapsed_s >= 0.1


def test_a_target_ends_the_run_at_the_evaluation_that_meets_it(tmp_path: Path) -> None:
    conf = config(budget={"updates": 100, "target": "eval/score>=6"}, evaluation={"every_updates": 4})
    outcome = loop(tmp_path, conf).train()
    assert (outcome.updates, outcome.reason) == (8, "target eval/score>=6 reached")


def test_a_budget_in_units_that_the_learner_does_not_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget\.env_steps: this learner counts samples, epochs and updates"):
        loop(tmp_path, config(budget={"env_steps": 5}))


@pytest.mark.parametrize("key", ["budget", "monitor"])
def test_a_metric_that_is_not_reported_is_named_with_those_that_are(tmp_path: Path, key: str) -> None:
    changes = {"budget": {"target": "eval/acc>=1"}, "monitor": {"metric": "eval/acc"}}
    conf = config(**{"budget": {"updates": 4}, "evaluation": {"every_updates": 2}, key: changes[key]})
    with pytest.raises(ConfigError, match="no eval/acc; valid: eval/loss, eval/score"):
        loop(tmp_path, conf).train()


def test_rows_hold_the_mean_over_their_window_without_nan(tmp_path: Path) -> None:
    loop(tmp_path, config(budget={"updates": 6})).train()
    first, second, test = rows(tmp_path)
    assert first["step"] == 40
    assert first["train/loss"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert first["train/episode_return"] == 3.0  # the mean of 2 and 4; odd steps had none
    assert second["step"] == 60
    assert second["train/loss"] == pytest.approx((1 / 5 + 1 / 6) / 2)
    assert second["eval/score"] == 6
    assert test["test/score"] == 6
    assert all({"time/step_ms", "time/samples_per_s", "system/memory_mb"} <= set(row) for row in (first, second))


def test_a_metric_of_which_nothing_is_known_is_left_out(tmp_path: Path) -> None:
    loop(tmp_path, config(budget={"updates": 1})).train()
    assert "train/episode_return" not in rows(tmp_path)[0]


def test_one_row_an_update_though_log_and_evaluation_fall_together(tmp_path: Path) -> None:
    conf = config(budget={"updates": 12}, log={"every_updates": 2}, evaluation={"every_updates": 3})
    loop(tmp_path, conf).train()
    steps = [row["step"] for row in rows(tmp_path) if "train/loss" in row]
    assert steps == [20, 30, 40, 60, 80, 90, 100, 120]
    assert len([row for row in rows(tmp_path) if "test/score" not in row]) == len(steps)


def test_cadence_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the learner moves: each update takes a second."""
    now = 100.0
    for module in ("loop", "budget", "agreement", "position", "recording"):
        monkeypatch.setattr(f"trivium.training.{module}.time", SimpleNamespace(monotonic=lambda: now))
    conf = config(
        budget={"minutes": 12 / 60},
        log={"every_updates": None, "every_s": 2},
        evaluation={"every_s": 5},
        checkpoint={"every_s": 4},
    )
    training = loop(tmp_path, conf)
    step = training.learner.step

    def in_a_second() -> Any:
        nonlocal now
        now += 1.0
        return step()

    monkeypatch.setattr(training.learner, "step", in_a_second)
    outcome = training.train()
    logged = [row for row in rows(tmp_path) if "train/loss" in row]
    assert [row["updates"] for row in logged] == [2, 4, 5, 7, 9, 10, 12]  # each row starts the two seconds anew
    assert [row["updates"] for row in logged if "eval/score" in row] == [5, 10, 12]
    assert training.checkpoints.names() == ["step-000000000080", "step-000000000120"]
    assert (outcome.updates, outcome.elapsed_s) == (12, 12.0)


def test_early_stopping_counts_evaluations_without_improvement(tmp_path: Path) -> None:
    conf = config(
        budget={"updates": 100},
        evaluation={"every_updates": 1},
        monitor={"metric": "eval/score", "patience": 2, "min_delta": 0.5},
    )
    outcome = loop(tmp_path, conf, scores=(1.0, 3.0, 3.4, float("nan"), 9.0)).train()
    assert outcome.updates == 4
    assert outcome.reason == "no improvement of eval/score in 2 evaluations"
    assert outcome.checkpoint == "step-000000000020"


def test_the_best_checkpoint_is_kept_and_judged(tmp_path: Path) -> None:
    conf = config(
        budget={"updates": 9},
        evaluation={"every_updates": 1},
        checkpoint={"every_updates": 1, "keep": 2},
        monitor={"metric": "eval/score", "mode": "min"},
    )
    training = loop(tmp_path, conf, scores=(5.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
    outcome = training.train()
    assert outcome.checkpoint == "step-000000000030"
    assert outcome.metrics["test/score"] == 3  # three steps had been made when it was best
    assert training.checkpoints.names() == ["step-000000000030", "step-000000000080", "step-000000000090"]
    assert os.readlink(tmp_path / "checkpoints" / "best") == "step-000000000030"
    assert os.readlink(tmp_path / "checkpoints" / "last") == "step-000000000090"


def test_of_equals_the_later_is_the_best_and_patience_goes_on(tmp_path: Path) -> None:
    conf = config(
        budget={"updates": 100},
        evaluation={"every_updates": 1},
        monitor={"metric": "eval/score", "patience": 3},
    )
    outcome = loop(tmp_path, conf, scores=(5.0, 5.0, 4.0, 5.0, 5.0)).train()
    assert outcome.updates == 4
    assert outcome.checkpoint == "step-000000000040"


def test_nan_in_the_loss_stops_the_run_and_names_the_update_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    conf = config(budget={"updates": 50}, log={"every_updates": 10}, checkpoint={"every_updates": 5})
    training = loop(tmp_path, conf, nan_at=17)
    with pytest.raises(
        NonFiniteLoss,
        match=r"train/loss is nan at update 17, between the steps 100 and 200; .*good checkpoint is step-000000000150",
    ):
        training.train()
    assert training.checkpoints.names()[-1] == "step-000000000150"


def test_weights_that_gradients_have_spoilt_are_never_saved(tmp_path: Path) -> None:
    """The loss says nothing of it: sqrt at 0 is finite, its gradient is not, and the training ends with that update."""
    training = loop(tmp_path, config(budget={"updates": 4}, checkpoint={"every_updates": 1, "keep": 9}))
    learner: Any = training.learner
    learner.net = torch.nn.Linear(1, 1)

    def spoil() -> None:
        if learner.steps == 4:
            learner.net(torch.ones(1)).sub(learner.net(torch.ones(1)).detach()).square().sqrt().sum().backward()
            torch.optim.SGD(learner.net.parameters(), lr=0.1).step()

    learner.on_step = spoil
    with pytest.raises(NonFiniteLoss, match=r"after update 4 \(step 40\) weights are not; .*is step-000000000030"):
        training.train()
    assert training.checkpoints.names()[-1] == "step-000000000030"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_a_checkpoint_of_its_own(tmp_path: Path, number: int) -> None:
    training = loop(tmp_path, config(budget={"updates": 50}))
    training.stop_requested = lambda: number if training.updates == 7 else None
    with pytest.raises(Interrupted) as stopped:
        training.train()
    assert stopped.value.signal == number
    assert training.checkpoints.names() == ["step-000000000070"]


def test_a_signal_before_the_final_evaluation_does_not_wait_for_it(tmp_path: Path) -> None:
    training = loop(tmp_path, config(budget={"updates": 5}))
    training.stop_requested = lambda: signal.SIGTERM if training._saved_at == 5 else None
    with pytest.raises(Interrupted):
        training.train()
    assert training.checkpoints.names() == ["step-000000000050"]
    assert not any("test/score" in row for row in rows(tmp_path))


def test_evaluation_and_figures_leave_the_global_rng_alone(tmp_path: Path) -> None:
    noise = {}
    for every in (None, 1):
        folder = tmp_path / str(every)
        folder.mkdir()
        loop(folder, config(budget={"updates": 8}, evaluation={"every_updates": every})).train()
        noise[every] = [r["train/noise"] for r in rows(folder) if "train/noise" in r]
    assert math.isclose(sum(noise[None]) / 2, sum(noise[1]) / 8, rel_tol=1e-6)


@pytest.mark.parametrize("cut", range(1, 12))
def test_stopping_and_resuming_anywhere_changes_no_row(tmp_path: Path, cut: int) -> None:
    conf = config(
        budget={"updates": 12},
        log={"every_updates": 5},
        evaluation={"every_updates": 3},
        monitor={"metric": "eval/score", "patience": 4},
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    loop(whole, conf).train()

    first = loop(parts, conf)
    first.stop_requested = lambda: signal.SIGTERM if first.updates == cut else None
    with pytest.raises(Interrupted):
        first.train()
    with open(parts / "metrics.jsonl", "a") as file:
        file.write('{"step": 999, "torn')  # what a kill may leave behind the checkpoint
    second = loop(parts, conf)
    torch.manual_seed(1)
    state = second.checkpoints.load()
    assert state is not None
    second.load_state_dict(state)
    second.train()
    assert timeless(parts) == timeless(whole)


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_signal_leaves_an_evaluation_that_the_resumed_run_does_again(tmp_path: Path, cut: int) -> None:
    conf = config(
        budget={"updates": 12}, evaluation={"every_updates": 3}, monitor={"metric": "eval/score", "mode": "max"}
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    loop(whole, conf).train()

    with signals.listen() as asked:
        first = loop(parts, conf)
        first.stop_requested, first.leaving = asked, asked.leaving
        learner: Any = first.learner
        ended: list[int] = []

        def signalled() -> None:
            if learner.evaluations == cut:
                os.kill(os.getpid(), signal.SIGTERM)
                ended.append(cut)

        learner.on_evaluation = signalled
        with pytest.raises(Interrupted) as stopped:
            first.train()
    assert stopped.value.signal == signal.SIGTERM
    assert not ended, "the evaluation went on"
    assert first.checkpoints.names()[-1] == f"step-{10 * min(3 * cut, 12):012d}"
    second = loop(parts, conf)
    torch.manual_seed(1)
    second.load_state_dict(second.checkpoints.load() or {})
    second.train()
    assert timeless(parts) == timeless(whole)
    assert second.checkpoints.best() == "step-000000000120"


def test_a_signal_counts_though_nobody_reads_what_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError

    with signals.listen() as asked:
        monkeypatch.setattr(os, "write", broken)
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
    assert asked() == signal.SIGINT


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_closed_terminal_asks_the_run_to_stop_unless_that_was_to_be_ignored(before: signal.Handlers) -> None:
    was = signal.signal(signal.SIGHUP, before)
    try:
        with signals.listen() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is before
    finally:
        signal.signal(signal.SIGHUP, was)
    assert asked() == (None if before is signal.SIG_IGN else signal.SIGHUP)


def test_which_weights_must_be_finite() -> None:
    nan, net = float("nan"), torch.nn.Linear(2, 2)
    assert weights_finite(SimpleNamespace(net=net, lazy=torch.nn.LazyLinear(1), x=torch.tensor(nan)))  # type: ignore[arg-type]
    mask = torch.nn.Parameter(torch.tensor(-math.inf), requires_grad=False)
    assert weights_finite(SimpleNamespace(held=torch.nn.ParameterList([mask])))  # type: ignore[arg-type]
    with torch.no_grad():
        net.bias[0] = nan
    assert not weights_finite(SimpleNamespace(other=3, net=net))  # type: ignore[arg-type]
    assert not weights_finite(torch.nn.Sequential(net))  # type: ignore[arg-type]

    class Slots:
        __slots__ = ("net",)

    assert weights_finite(Slots())  # type: ignore[arg-type]  # of which nothing is known


def test_rows_that_are_lost_leave_no_half_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conf = config(budget={"updates": 8})
    training = loop(tmp_path, conf)
    training.stop_requested = lambda: signal.SIGTERM if training.updates == 6 else None
    with pytest.raises(Interrupted):
        training.train()
    os.truncate(tmp_path / "metrics.jsonl", 20)
    again = loop(tmp_path, conf)
    again.load_state_dict(again.checkpoints.load() or {})
    again.train()
    assert "short of its checkpoint" in caplog.text
    assert [row["step"] for row in rows(tmp_path)] == [80, 80]


def test_a_run_killed_after_its_last_checkpoint_only_measures_again(tmp_path: Path) -> None:
    conf = config(budget={"updates": 5})
    loop(tmp_path, conf).train()
    before = timeless(tmp_path)
    again = loop(tmp_path, conf)
    again.load_state_dict(again.checkpoints.load() or {})
    outcome = again.train()
    assert again.learner.evaluations == 1  # type: ignore[attr-defined]
    assert outcome.updates == 5
    assert timeless(tmp_path) == before


def test_links_that_a_kill_left_behind_lead_to_the_newest_checkpoint_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = config(budget={"updates": 6}, checkpoint={"every_updates": 2})
    killed = loop(tmp_path, conf)
    monkeypatch.setattr(killed.checkpoints, "tidy", lambda best_step: killed.updates == 6 and 1 / 0)
    with pytest.raises(ZeroDivisionError):  # between the last checkpoint and what follows it
        killed.train()
    assert killed.checkpoints.names() == ["step-000000000020", "step-000000000040", "step-000000000060"]
    again = loop(tmp_path, conf)
    again.load_state_dict(again.checkpoints.load() or {})
    again.train()
    assert again.checkpoints.names() == ["step-000000000040", "step-000000000060"]
    assert os.readlink(tmp_path / "checkpoints" / "last") == "step-000000000060"


def test_a_resumed_run_takes_as_many_threads_and_says_what_it_cannot_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conf = config(budget={"updates": 5})
    loop(tmp_path, conf).train()
    again = loop(tmp_path, conf)
    state = again.checkpoints.load()
    assert state is not None
    assert state["computed_by"]["threads"] == 1
    torch.set_num_threads(2)
    again.load_state_dict(state)
    assert torch.get_num_threads() == 1
    assert not caplog.records
    again.load_state_dict({**state, "computed_by": {**state["computed_by"], "torch": "1.0", "compile": True}})
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"torch 1.0, now {torch.__version__}; compile True, now False" in message


def test_what_takes_long_is_shown_while_it_goes_on_and_may_end_the_step(tmp_path: Path) -> None:
    shown: list[tuple[str, int]] = []
    asked: list[int] = []

    class Slow(Counting):
        def step(self) -> dict[str, torch.Tensor]:
            self.run.doing(f"in step {self.steps + 1}")
            if self.steps == 2:
                asked.append(signal.SIGTERM)
            if self.run.doing.stop_requested():
                raise signals.Abandoned
            return super().step()

    run = Run()
    OPEN.append(RunTracker(tmp_path, show=lambda status: shown.append((status.doing, status.step))))
    learner = Slow(run=run)
    checkpoints = Checkpoints(tmp_path / "checkpoints", run)
    conf = config(budget={"updates": 9}, checkpoint={"every_updates": 1})
    with pytest.raises(Interrupted) as stopped:
        Loop(learner, run, conf, checkpoints, OPEN[-1], stop_requested=lambda: asked[0] if asked else None).train()
    assert stopped.value.signal == signal.SIGTERM
    assert stopped.value.checkpoint == checkpoints.names()[-1]
    assert [doing for doing, _ in shown if doing] == ["in step 1", "in step 2", "in step 3"]
    assert run.doing.show is None, "nobody listens any more"
    assert run.doing.stop_requested() is None
