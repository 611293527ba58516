"""A finished run goes on with what its messages name, and not otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trivium
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.run_folder.folder import Result
from trivium.training.ends.finished import refuse_no_more, what_continues


def done(epochs: float = 3.0, loss: float = 0.5) -> Result:
    counters = {"samples": 1257 * epochs, "epochs": epochs}
    return Result(
        reason="it", metrics={"eval/loss": loss}, counters=counters, updates=60, elapsed_s=60.0, checkpoint="step-1",
        dir=Path("run"), name="mlp_digits",
    )  # fmt: skip


PATIENCE = ["monitor.patience=3"]
TARGET = ["budget.target=eval/loss<=1"]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (["budget.epochs=3"], "budget.<unit>=<more>"),
        (["budget.epochs=null", "budget.minutes=1"], "budget.<unit>=<more>"),
        (TARGET, "budget.target=<another>"),
        (PATIENCE, "budget.<unit>=<more> or monitor.patience=<more>"),
    ],
)
def test_what_has_ended_a_run_is_what_there_must_be_more_of(typed: list[str], names: str) -> None:
    assert what_continues(compose(typed), done()) == f"{names} continues it"


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        (["budget.epochs=3"], ["budget.epochs=3", "log.every_updates=5"], "budget.<unit>=<more>"),
        (["budget.epochs=3"], ["budget.epochs=2"], "budget.<unit>=<more>"),
        (["budget.epochs=3"], ["budget.epochs=4"], None),
        (["budget.epochs=3", *TARGET], ["budget.epochs=4", *TARGET], "budget.target=<another>"),
        (TARGET, [*TARGET, "budget.epochs=200"], "budget.target=<another>"),
        (TARGET, ["budget.target=eval/loss<=0.1"], None),
        (TARGET, [], None),
        (PATIENCE, [*PATIENCE, "checkpoint.keep=3"], "monitor.patience=<more>"),
        (PATIENCE, ["monitor.patience=2"], "monitor.patience=<more>"),
        (PATIENCE, ["monitor.patience=4"], None),
        (PATIENCE, [], None),
        (PATIENCE, [*PATIENCE, "budget.epochs=200"], None),
        (PATIENCE, [*PATIENCE, "monitor.metric=eval/accuracy"], None),
        (PATIENCE, [*PATIENCE, "budget.epochs=2"], "budget.<unit>=<more>"),
    ],
)
def test_a_run_that_would_end_again_at_once_is_refused(before: list[str], now: list[str], names: str | None) -> None:
    configs: list[Any] = [compose(before), compose(now)]
    if names is None:
        refuse_no_more(*configs, done())
        return
    with pytest.raises(ConfigError) as refusal:
        refuse_no_more(*configs, done())
    assert len(refusal.value.errors) == 1
    assert names in str(refusal.value)


def test_a_run_that_its_patience_ended_trains_on() -> None:
    impatient = ["monitor.patience=1", "monitor.min_delta=9", "evaluation.every_updates=2", "tracking.wandb=false"]
    first = trivium.train(*impatient, "budget.epochs=1", dir="run")
    assert first.reason == "no improvement of eval/loss in 1 evaluation"
    assert first.updates == 4
    with pytest.raises(ConfigError, match=r"budget\.<unit>=<more> or monitor\.patience=<more> continues it"):
        trivium.resume("run", "log.every_updates=3")
    assert trivium.resume("run", "budget.epochs=2").updates == 6, "one evaluation more"
    assert trivium.resume("run", "monitor.patience=4").updates == 12, "three more: one has been waited for"
    assert trivium.resume("run", "monitor.patience=null", "budget.updates=13").updates == 13
