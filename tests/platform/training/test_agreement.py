"""How often workers agree, and that they do it alike."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from counting import Counting, config
from forked import spawn

from trivium.checkpoints.folder import Checkpoints
from trivium.learner import Run
from trivium.tracking.tracker import Tracker
from trivium.training.agreement import EVERY_S, Agreement, next_pause
from trivium.training.loop import Interrupted, Loop


@pytest.mark.parametrize(
    ("passed_s", "updates", "pause", "expected"),
    [
        (1.0, 100, 100, 50),  # 100 updates a second: 50 in half a second
        (0.001, 10, 10, 20),  # 5000 would fit, but twice the last pause is the most
        (0.0, 1, 1, 2),
        (3.0, 1, 1, 1),  # updates that take longer than the pause: after every one
        (60.0, 500, 500, 4),
    ],
)
def test_the_next_pause_by_hand(passed_s: float, updates: int, pause: int, expected: int) -> None:
    assert next_pause(passed_s, updates, pause, every_s=0.5) == expected


def test_one_worker_decides_after_every_update() -> None:
    alone = Agreement(Run())
    assert all(alone.due(updates) for updates in range(1, 5))
    assert alone.reach([1, 0, 15], 4) == [1, 0, 15]


def _two_workers(rank: int, folder: str) -> None:
    """Slow updates; rank 0 alone is asked to stop, at its second one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = Run(rank=rank, world_size=2)
    learner = Counting(run=run)
    learner.on_step = lambda: time.sleep(EVERY_S * (0.9 if rank else 0.6))  # clocks that do not agree
    conf = config(budget={"updates": 50}, log={"every_updates": 40})
    loop = Loop(learner, run, conf, Checkpoints(f"{folder}/checkpoints", run), Tracker())
    loop.stop_requested = lambda: 15 if rank == 0 and loop.updates >= 2 else None
    with pytest.raises(Interrupted):
        loop.train()
    assert loop.updates <= 4, "a signal waits for a second, not for the next row"
    torch.distributed.destroy_process_group()


def test_several_workers_stop_soon_however_slow_their_updates_are(tmp_path: Path) -> None:
    spawn(_two_workers, (str(tmp_path),), nprocs=2)
    assert len(Checkpoints(tmp_path / "checkpoints", Run()).names()) == 1


def _quick(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    agreement = Agreement(Run(rank=rank, world_size=2), every_s=60.0)
    talked = [updates for updates in range(1, 200) if agreement.due(updates) and agreement.reach([], updates) == []]
    assert talked == [1, 3, 7, 15, 31, 63, 127], "the pause doubles while updates are quick"
    torch.distributed.destroy_process_group()


def test_quick_updates_are_not_held_up(tmp_path: Path) -> None:
    spawn(_quick, (str(tmp_path),), nprocs=2)
