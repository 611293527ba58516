"""Processes that have torch imported already: forked by a server that has done so once, in a few hundredths of a second
instead of two seconds each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch

PRELOADED = [
    "hydra",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",
    "trivium.agents.ppo",
    "trivium.config.composing",
    "trivium.launch",
    "trivium.report.writing",
    "trivium.supervised.learner",
]


def context() -> ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def spawn(work: Callable[..., None], args: Sequence[Any], nprocs: int) -> None:
    """Call `work(rank, *args)` in a process for each rank, as `torch.multiprocessing.spawn` does.

    Raises:
        AssertionError: one of them fails, with its trace, or takes more than two minutes.
    """
    receiving, sending = context().Pipe(duplex=False)
    processes = [
        context().Process(target=_rank, args=(work, rank, args, os.getcwd(), dict(os.environ), sending))
        for rank in range(nprocs)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            while process.is_alive() and not receiving.poll():
                process.join(0.02)
        assert not receiving.poll(), receiving.recv()
        assert [process.exitcode for process in processes] == [0] * nprocs
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(
    work: Callable[..., None],
    rank: int,
    args: Sequence[Any],
    cwd: str,
    environment: dict[str, str],
    failed: Connection,
) -> None:
    enter(cwd, environment, None, None)
    try:
        work(rank, *args)
    except BaseException:
        failed.send(f"rank {rank}: {traceback.format_exc()}")
        raise SystemExit(1) from None


def run(code: str, *arguments: str, folder: Path) -> CompletedProcess[str]:
    """`python -c CODE ARGUMENTS` in this working directory and environment, with torch imported before it begins.

    Args:
        folder: a new folder here takes what is printed.
    """
    into = folder / f"printed-{len(list(folder.glob('printed-*')))}"
    into.mkdir(parents=True)
    process = context().Process(target=_run, args=(code, arguments, into, os.getcwd(), dict(os.environ)))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
    process.join()
    printed = [(into / name).read_text() for name in ("stdout", "stderr")]
    assert process.exitcode is not None
    return CompletedProcess(["-c", code, *arguments], process.exitcode, *printed)


def _run(code: str, arguments: Sequence[str], into: Path, cwd: str, environment: dict[str, str]) -> None:
    enter(cwd, environment, into / "stdout", into / "stderr")
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def enter(cwd: str, environment: dict[str, str], stdout: Path | None, stderr: Path | None) -> None:
    """Make a forked process what one is that the test starts: the server has the surroundings of the first test."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, which has it ignored
    for path, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        if path is not None:
            with contextlib.closing(open(path, "w")) as file:
                os.dup2(file.fileno(), stream.fileno())
