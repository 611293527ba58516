"""As many threads as matrices are large enough for: counted in the first update, and part of the run from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from trivium import launch
from trivium.checkpoints.folder import Checkpoints
from trivium.config.composing import compose
from trivium.learner import Run
from trivium.run_folder import environment
from trivium.training import worker
from trivium.training.machine import threads

TINY = ["experiment=mlp_digits", "threads=auto", "budget.epochs=null", "budget.updates=3", "tracking.wandb=false"]


@functools.cache
def tiny() -> dict[str, Any]:
    return compose(TINY)


@pytest.mark.parametrize(
    ("flop", "most", "expected"),
    [(0.0, 8, 1), (9.9e6, 8, 1), (1.99e7, 8, 1), (2e7, 8, 2), (2.5e7, 8, 2), (1e9, 8, 8), (1e9, 1, 1)],
)
def test_each_thread_has_enough_of_a_typical_product(flop: float, most: int, expected: int) -> None:
    assert threads.worth(flop, most) == expected


def _trained(module: nn.Module, *shapes: tuple[int, ...]) -> Callable[[], None]:
    def train() -> None:
        output = module(*(torch.ones(shape) for shape in shapes))
        (output[0] if isinstance(output, tuple) else output).sum().backward()

    return train


def _attends() -> None:
    query = torch.ones(2, 4, 10, 8, requires_grad=True)
    nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()


@pytest.mark.parametrize(
    ("computed", "flops"),
    [
        (lambda: torch.ones(2, 3) @ torch.ones(3, 4), [2 * 2 * 3 * 4]),
        # The forward pass, and the weight's gradient; what went in needs none.
        (_trained(nn.Linear(16, 8), (5, 16)), [2 * 5 * 16 * 8] * 2),
        (_trained(nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 6)), [2 * 2 * 36 * 4 * 27] * 2),
        (lambda: torch.bmm(torch.ones(3, 2, 5), torch.ones(3, 5, 4)), [2 * 3 * 2 * 5 * 4]),
        (_trained(nn.LSTM(6, 8), (5, 3, 6)), [2 * 3 * 32 * (6 + 8)] * 2),  # each of the five steps is as large
        (_attends, [2 * 2 * 8 * 100 * 8, 2 * 5 * 8 * 100 * 8]),  # backward has five products
        (lambda: torch.ones(4, 4, device="meta") @ torch.ones(4, 4, device="meta"), []),  # not the CPU's
        (lambda: torch.ones(1000).exp().sum(), []),
    ],
)
def test_the_operations_of_products_are_counted(computed: Callable[[], Any], flops: list[int]) -> None:
    with threads.counted(compile=False) as work:
        computed()
    assert work.typical_flop == (sum(f * f for f in flops) / sum(flops) if flops else 0.0)


def test_large_products_count_as_what_they_take() -> None:
    """A hundred small ones beside a large one that takes as long: a random operation is in either half the time."""
    with threads.counted(compile=False) as work:
        for _ in range(100):
            torch.ones(1, 10) @ torch.ones(10, 1)
        torch.ones(10, 10) @ torch.ones(10, 10)
    assert work.typical_flop == pytest.approx((20 + 2000) / 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's compiler
def test_what_would_be_compiled_is_counted_too() -> None:
    square = torch.compile(lambda x: x @ x)
    with threads.counted(compile=True) as work:
        square(torch.ones(4, 4))
    assert work.typical_flop == 2 * 4**3


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def test_a_small_network_has_one_thread_and_the_bits_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 8)
    auto = launch.train(tiny(), dir=tmp_path / "auto")
    assert yaml.safe_load((auto.dir / "config.yaml").read_text())["threads"] == 1
    assert tiny()["threads"] == "auto", "the caller's config is the caller's"
    one = launch.train({**tiny(), "threads": 1}, dir=tmp_path / "one")
    assert comparable(auto.metrics) == comparable(one.metrics)


def test_what_was_chosen_stays_for_evaluating_and_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 2)
    monkeypatch.setattr(threads, "FLOP_PER_THREAD", 1)
    used: list[int] = []
    step = worker.build_learner

    def recording(*args: Any, **keywords: Any) -> Any:
        learner = step(*args, **keywords)
        each = learner.step
        monkeypatch.setattr(learner, "step", lambda: (used.append(torch.get_num_threads()), each())[1])
        return learner

    monkeypatch.setattr(worker, "build_learner", recording)
    whole = launch.train({**tiny(), "budget": {**tiny()["budget"], "updates": 5}}, dir=tmp_path / "whole")
    assert used == [1, 2, 2, 2, 2]
    launch.train(tiny(), dir=tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["threads"] == 2
    monkeypatch.setattr(environment, "cores", lambda: 1)  # another machine
    resumed = launch.resume(tmp_path / "run", ["budget.updates=5"])
    assert used[5:] == [1, 2, 2, 2, 2]
    assert comparable(resumed.metrics) == comparable(whole.metrics)
    assert not [text for text in caplog.messages if "not to the same bits" in text]


def test_a_run_that_begins_anew_chooses_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first update had one thread: before the first checkpoint config.yaml must not say another number."""
    monkeypatch.setattr(environment, "cores", lambda: 2)
    monkeypatch.setattr(threads, "FLOP_PER_THREAD", 1)
    monkeypatch.setattr(Checkpoints, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        launch.train(tiny(), dir=tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["threads"] == "auto"


def test_all_workers_take_as_many_as_the_one_with_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[int] = [4, 3]  # cores, then threads, of another worker
    monkeypatch.setattr(Run, "gather", lambda self, own: torch.tensor([int(own), others.pop(0)]))
    loop: Any = SimpleNamespace(run=Run(world_size=2), first_update_tells=None)
    worker._let_choose_threads(loop, 8)
    loop.first_update_tells(1e9)
    assert torch.get_num_threads() == 3
    assert not others


def test_on_a_gpu_there_is_nothing_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "gather", lambda self, own: torch.tensor([2]))
    loop: Any = SimpleNamespace(run=Run(device=torch.device("meta")), first_update_tells=None)
    worker._let_choose_threads(loop, 2)
    assert loop.first_update_tells is None
    assert torch.get_num_threads() == 2
