"""A run gives back what it borrows of its process, and is alone while it has it."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trivium
from trivium import borrowed, launch
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.on_ray import cluster
from trivium.supervised.learner import Supervised
from trivium.training import compiling

TINY = ["experiment=mlp_digits", "budget.epochs=null", "budget.updates=3", "tracking.wandb=false"]
CPU = torch.device("cpu")


@functools.cache
def tiny() -> dict[str, Any]:
    return compose(TINY)


def drawn() -> list[float]:
    """What the caller would draw next, from each of the generators."""
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    numbers = [random.random(), float(np.random.rand()), torch.rand(()).item()]
    random.setstate(python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    return numbers


@pytest.mark.parametrize("ends", [None, ConfigError(["wrong"]), KeyboardInterrupt()])
def test_generators_threads_and_determinism_are_the_callers_again(ends: BaseException | None) -> None:
    config = {**tiny(), "threads": 2, "deterministic": True}
    before, threads = drawn(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(type(ends)) if ends else contextlib.nullcontext(), borrowed.process(config, CPU):
            borrowed.seed(5, CPU)
            assert drawn() != before
            assert torch.get_num_threads() == 2
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            if ends:
                raise ends
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert (drawn(), torch.get_num_threads()) == (before, threads)


def test_training_evaluating_and_loading_leave_the_callers_generators_alone(tmp_path: Path) -> None:
    before = drawn()
    result = launch.train(tiny(), dir=tmp_path / "run")
    assert drawn() == before
    trivium.evaluate(result.dir)
    assert drawn() == before
    result._learner = None
    assert result.learner
    assert drawn() == before
    impossible = {**tiny(), "learner": {**tiny()["learner"], "accumulate": 7}}
    with pytest.raises(ConfigError):
        launch.train(impossible, dir=tmp_path / "other")
    assert drawn() == before


def test_a_run_on_the_cpu_seeds_no_gpu_that_the_caller_has_yet_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with borrowed.generators_kept(CPU):
        borrowed.seed(3, CPU)
        first = drawn()
        torch.manual_seed(3)
        assert seeded == [3]
        assert drawn()[2] == first[2], "the CPU's generator is seeded as torch would"


def test_a_gpus_generators_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["the caller's"]
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", states.copy)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda given: states.__setitem__(slice(None), given))
    with borrowed.generators_kept(torch.device("cuda")):
        states[0] = "the run's"
    assert states == ["the caller's"]


def in_threads(*calls: Any) -> list[Any]:
    """All at once, as far as they let each other."""
    ready = threading.Barrier(len(calls))

    def call(each: Any) -> Any:
        ready.wait()
        return each()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(call, each) for each in calls]]


def test_configs_composed_in_threads_are_those_composed_alone() -> None:
    wanted = [["experiment=mlp_digits"], ["experiment=ppo_cartpole", "agent.lr=1e-3"]]
    alone = [compose(overrides) for overrides in wanted]
    assert in_threads(*(lambda overrides=each: compose(overrides) for each in wanted)) == alone


def test_runs_in_threads_come_to_what_each_comes_to_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def train(name: str, seed: int) -> dict[str, float]:
        metrics = launch.train({**tiny(), "seed": seed}, dir=tmp_path / name).metrics
        return {k: v for k, v in metrics.items() if k.startswith(("train/", "test/"))}

    alone = [train("first alone", 1), train("second alone", 2)]
    assert in_threads(lambda: train("first", 1), lambda: train("second", 2)) == alone
    assert [text for text in caplog.messages if "another run of this process" in text]


def test_evaluating_waits_for_a_training_in_another_thread(tmp_path: Path) -> None:
    finished = launch.train(tiny(), dir=tmp_path / "run").dir
    with ThreadPoolExecutor(1) as pool:
        with borrowed.process(tiny(), CPU):
            evaluated = pool.submit(trivium.evaluate, finished)
            with pytest.raises(TimeoutError):
                evaluated.result(timeout=0.3)
            inside = trivium.evaluate(finished)  # by the one that trains
        assert evaluated.result() == inside


def test_runs_on_a_ray_of_the_callers_need_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = type("ray", (), {"is_initialized": staticmethod(lambda: True)})
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert cluster.of_the_caller()
    monkeypatch.setattr(cluster, "_joined_here", True)
    assert not cluster.of_the_caller()


def test_trying_out_whether_to_compile_closes_what_it_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[bool] = []

    class Closing(Supervised):  # a method put into Supervised would outlast this test in what `isinstance` remembers
        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("trivium.supervised.learner.Supervised", Closing)
    monkeypatch.setattr(compiling, "SHORT", {})
    before = drawn()
    compiling.decide_compile(launch.Task({**tiny(), "compile": "auto"}, tmp_path / "run"))
    assert (closed, drawn()) == ([True], before)


@pytest.mark.parametrize("home", ["/proc/nohome", "unknown", "a file"])
def test_a_home_that_can_not_be_written_is_not_needed(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if home == "unknown":  # a user that the system has no entry of
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    elif home == "a file":
        (tmp_path / "home").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home") if home == "a file" else home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = sorted(tmp_path.iterdir())
    borrowed._keep_what_is_compiled()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ, "torch chooses a place"
    assert sorted(tmp_path.iterdir()) == before
    assert not caplog.messages


def test_what_is_compiled_is_kept_where_the_user_says_if_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    borrowed._keep_what_is_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "trivium" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    borrowed._keep_what_is_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")
    assert not caplog.messages
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/nowhere")
    borrowed._keep_what_is_compiled()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert "/proc/nowhere" in caplog.text
