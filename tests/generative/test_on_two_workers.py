"""Two real workers: replicas stay identical, codebooks, pools and statistics of the training included."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forked import spawn
from states import same_bits
from tiny_learners import build

from trivium.data.digits import digits
from trivium.declared import load_state_dict, state_dict
from trivium.learner import Run

NAMES = (
    "denoising autoencoder",
    "conditional vae",
    "vq-vae",
    "conditional gan",
    "wgan-gp",
    "gan with adaptive augmentation",
    "stylegan2 with everything",
    "cyclegan",
    "srgan",
    "conditional ddpm",
)
# What each worker has its own of: running statistics, which become rank 0's before they are evaluated and saved.
OWN = ("running_mean", "running_var", "_u", "_v")


def work(rank: int, folder: str) -> None:
    """One of two: a few steps of each learner, a resume, and what was evaluated."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run, data, found = Run(rank=rank, world_size=2), digits(), {}
    for name in NAMES:
        learner = build(name, data, run=run)
        for _ in range(2):
            learner.step()
        state = copy.deepcopy(state_dict(learner))
        learner.step()
        resumed = build(name, data, run=run)
        load_state_dict(resumed, state)
        resumed.step()
        assert same_bits(state_dict(resumed), state_dict(learner)), name
        found[name] = {"state": state_dict(learner), "scores": learner.evaluate()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def shared(node: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a state that all workers have in common, by their paths."""
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in shared(value, f"{path}.{key}").items()}
    if isinstance(node, list | tuple):
        return {k: v for i, value in enumerate(node) for k, v in shared(value, f"{path}.{i}").items()}
    return {} if path.endswith(OWN) else {path: node}


def test_replicas_are_identical_and_resume(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in NAMES:
        mine, other = (shared(found[name]["state"]) for found in (first, second))
        assert mine.keys() == other.keys()
        assert [path for path in mine if not same_bits(mine[path], other[path])] == [], name
        if "gan" not in name:  # a GAN's samples depend on running statistics
            assert first[name]["scores"] == second[name]["scores"], name
    for name, path in (
        ("vq-vae", ".network.codebook.code_KD"),
        ("cyclegan", ".pool_a.images"),
        ("stylegan2 with everything", ".path_mean"),
        ("stylegan2 with everything", ".augmentation.p"),
        ("stylegan2 with everything", ".networks.generator.w_mean"),
    ):
        assert path in shared(first[name]["state"]), (path, list(shared(first[name]["state"]))[:200])
