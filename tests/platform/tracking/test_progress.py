from __future__ import annotations

import io
import pickle
from dataclasses import replace

import pytest

from trivium import learner
from trivium.learner import Doing
from trivium.tracking import progress
from trivium.tracking.progress import Display, Status

STATUS = Status(
    name="run",
    fraction=0.5,
    axis="env_steps",
    step=1234,
    per_s=81_200.0,
    elapsed_s=3.0,
    left_s=3.0,
    metrics={"train/loss": 1.0, "eval/return_mean": 20.0},
)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (progress, learner):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_the_line_has_the_pace_or_what_takes_long() -> None:
    assert STATUS.line() == "run  50% | 1,234 env steps | 81.2k/s | 3 s left | eval/return_mean 20  train/loss 1"
    doing = replace(STATUS, doing="evaluating: 3 of 10 episodes")
    assert (
        doing.line(num_metrics=1) == "run  50% | 1,234 env steps | evaluating: 3 of 10 episodes | eval/return_mean 20"
    )


def test_plain_lines_of_what_takes_long_come_further_and_further_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    display = Display(stream)
    shown: list[float] = []
    for second in range(201):
        clock.now = 1000.0 + second
        display.show(replace(STATUS, doing=f"evaluating for {second} s"))
        if (lines := len(stream.getvalue().splitlines())) > len(shown):
            assert lines == len(shown) + 1
            shown.append(second)
    assert shown == [5, 15, 35, 75, 135, 195]
    display.show(STATUS)
    for second in range(201, 210):
        clock.now = 1000.0 + second
        display.show(replace(STATUS, doing="evaluating"))
    assert len(stream.getvalue().splitlines()) == len(shown) + 1, "counted anew after an update"


def test_what_is_quick_is_not_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    display = Display(stream)
    for second in range(60):
        clock.now += 2
        display.show(replace(STATUS, doing="evaluating"))
        display.show(replace(STATUS, is_row=True, step=second))
    assert "evaluating" not in stream.getvalue()


def test_a_row_that_waits_comes_before_what_takes_long_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    display = Display(stream)
    for step in (1, 2):
        display.show(replace(STATUS, is_row=True, step=step))
    clock.now += 7
    display.show(replace(STATUS, doing="evaluating"))
    steps = [line.split(" | ")[1:3] for line in stream.getvalue().splitlines()]
    assert [step for step, _ in steps] == ["1 env steps", "2 env steps", "1,234 env steps"]
    assert steps[-1][1] == "evaluating"


def test_what_takes_long_says_so_about_twice_a_second_where_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, doing, said = Clock(monkeypatch), Doing(), list[str]()
    assert not doing.due()
    doing("nobody")
    doing.show = said.append
    due = []
    for tenth in range(20):
        clock.now = 1000.0 + tenth / 10
        due.append(doing.due())
    assert sum(due) == 4
    doing("this")
    assert said == ["this"]
    copy = pickle.loads(pickle.dumps(doing))
    assert copy.show is None
    assert copy.stop_requested() is None
