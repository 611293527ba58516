"""Sums through shared memory: those of torch.distributed, whatever comes first, and an error where nobody comes."""

from __future__ import annotations

import pickle
import random
import time
from pathlib import Path

import pytest
import torch
from forked import spawn

from trivium.learner import Run
from trivium.parallel import shared_sum

WORKERS = 3


def _workers(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS
    )
    shared_sum.join(rank, WORKERS)
    assert shared_sum._joined is not None
    run = Run(rank=rank, world_size=WORKERS)
    for k in range(500):  # numbers by rank and turn: one that is late or early would be seen
        if random.random() < 0.05:
            time.sleep(0.003 * random.random())
        value = torch.full((k % 7 + 1, 5), float(rank + 10 * k))
        total = run.sum(value)
        assert torch.equal(total, torch.full_like(value, sum(range(WORKERS)) + 10.0 * k * WORKERS))
        assert (value == rank + 10 * k).all(), "what is summed stays what it was"
    assert shared_sum._joined._sums == 500
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(rank))
    every = [torch.randn(1000, generator=torch.Generator().manual_seed(r)) for r in range(WORKERS)]
    assert torch.equal(run.sum(noise), (every[0] + every[1]) + every[2]), "in the order of the ranks"
    assert run.sum(torch.empty(0, 2)).shape == (0, 2)
    for other in (noise.double(), torch.ones(shared_sum.CAPACITY + 1), torch.ones(2, requires_grad=True)):
        run.sum(other)  # goes by torch.distributed
    assert shared_sum._joined._sums == 502
    assert pickle.loads(pickle.dumps(run)) == run
    torch.distributed.barrier()
    if rank == 0:
        shared_sum.TIMEOUT_S = 0.2
        with pytest.raises(RuntimeError, match=r"another worker has not come to sum 503 within 0\.2 s"):
            run.sum(noise)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_workers_of_one_machine_sum_what_torch_distributed_would(tmp_path: Path) -> None:
    spawn(_workers, (str(tmp_path),), nprocs=WORKERS)


def _without_proc(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    if rank == 1:

        def refused(*_: object) -> None:
            raise PermissionError("/proc")

        shared_sum.os.open = refused  # type: ignore[assignment]
    shared_sum.join(rank, 2)
    assert shared_sum._joined is None
    assert Run(rank=rank, world_size=2).sum(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    torch.distributed.destroy_process_group()


def test_where_one_can_not_share_memory_all_go_by_torch_distributed(tmp_path: Path) -> None:
    spawn(_without_proc, (str(tmp_path),), nprocs=2)
