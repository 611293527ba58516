"""Run Trivium in processes that are killed, and compare what is left with a run that was not.

Processes come from a fork server that has imported torch once, so that a kill costs a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from trivium.tracking.tracker import read_rows

KillAt = tuple[str, str, int | float]
"""(module, `Class.method`, n): die of SIGKILL at the n-th call of that method, before it does anything; with a float n,
so many seconds after its first call."""


def context() -> ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        ["torch._dynamo", "trivium.launch", "sklearn.model_selection", "matplotlib.backends.backend_agg"]
    )
    return server


def start(overrides: Sequence[str], dir: Path, *, kill_at: KillAt | None = None) -> ForkServerProcess:
    """Train in `dir`, or resume what is there; the process's exit code is that of the command line."""
    process = context().Process(target=_child, args=(list(overrides), str(dir), kill_at, dict(os.environ)))
    process.start()
    return process


def finish(overrides: Sequence[str], dir: Path, *, kill_at: KillAt | None = None) -> int:
    """Train or resume until the process ends by itself or is killed: its exit code, negative for a signal."""
    process = start(overrides, dir, kill_at=kill_at)
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _child(overrides: list[str], dir: str, kill_at: KillAt | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the fork server has that of the first test
    torch.set_num_threads(1)
    if kill_at:
        _install(kill_at)
    from trivium import cli

    started = Path(dir, "config.yaml").exists()
    raise SystemExit(
        cli.main(["resume", dir, "--quiet"] if started else ["train", *overrides, "--dir", dir, "--quiet"])
    )


def _install(kill_at: KillAt) -> None:
    import importlib

    module, name, left = kill_at
    owner_name, method = name.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original = getattr(owner, method)

    def dying(*args: Any, **keywords: Any) -> Any:
        nonlocal left
        if isinstance(left, float):
            threading.Timer(left, os.kill, (os.getpid(), signal.SIGKILL)).start()
        left = int(left) - 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **keywords)

    setattr(owner, method, dying)


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
