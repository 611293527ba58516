"""Run Trivium in processes that are killed, and compare what is left with a run that was not."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from counting import Counting, config
from forked import context, enter

from trivium import borrowed
from trivium.learner import Run
from trivium.run_folder.task import Task
from trivium.tracking.tracker import read_rows
from trivium.training import worker

KillAt = tuple[str, str, int | float]
"""(module, `Class.method`, n): die of SIGKILL at the n-th call of that method, before it does anything; with a float n,
so many seconds after its first call."""


def command(overrides: Sequence[str], dir: Path) -> int:
    """The command line: train in `dir`, or resume what is there."""
    from trivium import cli

    started = (dir / "config.yaml").exists()
    verb = ["resume", str(dir)] if started else ["train", *overrides, "--dir", str(dir)]
    return cli.main([*verb, "--quiet"])


COUNTED = config(
    budget={"updates": 12},
    log={"every_updates": 5},
    evaluation={"every_updates": 3},
    checkpoint={"every_updates": 2},
    monitor={"metric": "eval/score", "mode": "min"},  # the first evaluation is the best
)


def count(overrides: Sequence[str], dir: Path) -> int:
    """What a worker does, with the counting learner: in tens of milliseconds, without the command around it."""
    run = Run()
    task = Task({**COUNTED, "tracking": dict.fromkeys(("wandb", "tensorboard", "project"))}, dir)
    dir.mkdir(exist_ok=True)
    borrowed.seed(0, run.device)
    worker.work(
        task,
        run,
        Counting(run=run),
        resume=True,
        show=lambda status: None,
        say=lambda text: None,
        stop_requested=lambda: None,
        most_threads=1,
        keep=lambda config: None,
    )
    return 0


Main = Callable[[Sequence[str], Path], int]


def start(
    overrides: Sequence[str],
    dir: Path,
    *,
    kill_at: KillAt | None = None,
    main: Main = command,
    stderr: Path | None = None,
) -> ForkServerProcess:
    """Train in `dir`, or resume what is there; the process's exit code is that of `main`.

    Args:
        kill_at: where it dies, see `KillAt`.
        stderr: the file that its standard error goes to.
    """
    arguments = (main, list(overrides), dir, kill_at, os.getcwd(), dict(os.environ), stderr)
    process = context().Process(target=_child, args=arguments)
    process.start()
    return process


def finish(overrides: Sequence[str], dir: Path, *, kill_at: KillAt | None = None, main: Main = command) -> int:
    """Train or resume until the process ends by itself or is killed: its exit code, negative for a signal."""
    process = start(overrides, dir, kill_at=kill_at, main=main)
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _child(
    main: Main,
    overrides: list[str],
    dir: Path,
    kill_at: KillAt | None,
    cwd: str,
    environment: dict[str, str],
    stderr: Path | None,
) -> None:
    enter(cwd, environment, None, stderr)
    if kill_at:
        module, name, left = kill_at
        on_call(module, name, functools.partial(_die, left))
    raise SystemExit(main(overrides, dir))


def _die(left: int | float, calls: int) -> None:
    if isinstance(left, float):
        if calls == 1:
            threading.Timer(left, os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif calls == left:
        os.kill(os.getpid(), signal.SIGKILL)


def on_call(module: str, name: str, then: Callable[[int], None]) -> None:
    """Before each call of `Class.method` call `then` with the number of calls so far, this one included."""
    owner_name, method = name.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original, calls = getattr(owner, method), 0

    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        then(calls)
        return original(*args, **keywords)

    setattr(owner, method, counted)


def rows(dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl less the time columns."""
    return [
        {k: v for k, v in r.items() if not k.startswith(("time/", "system/"))} for r in read_rows(dir / "metrics.jsonl")
    ]


def states(dir: Path) -> list[dict[str, Any]]:
    """What each rank's last checkpoint holds of the learner, the generators and the loop, less times."""
    found = []
    for file in sorted((dir / "checkpoints" / "last").glob("rank-*.pt")):
        state = torch.load(file, weights_only=True)
        loop = {k: v for k, v in state["loop"].items() if k not in ("elapsed_s", "metrics")}
        found.append({"learner": state["learner"], "rng": state["rng"], "loop": loop})
    return found


def assert_same_bits(first: Path, second: Path) -> None:
    """Both runs ended with the same weights, optimizer, generators and rows, to the last bit."""
    assert rows(first) == rows(second)
    ours, theirs = states(first), states(second)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        _same(a, b, "state")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its bits, NaN and -0 included."""
    if not tensor.numel():
        return torch.empty(0, dtype=torch.uint8)
    dense = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1))  # a stored view may have strides
    return dense.view(torch.uint8)


def _same(a: Any, b: Any, path: str) -> None:
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            _same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _same(x, y, f"{path}.{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert a.shape == b.shape, path
        assert torch.equal(_bytes(a), _bytes(b)), path
    else:
        assert a == b or (a != a and b != b), path
