"""Learners on a device that is not the CPU: a pretended one, for machines that have no GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretended
import pytest
import torch
from tiny_learners import TYPED, typed

from trivium.config.composing import compose
from trivium.learner import Learner, Run
from trivium.run_folder.task import Task
from trivium.tracking.tracker import read_rows
from trivium.training import worker

SMALL = "agent.eval_episodes=2 agent.test_episodes=2 agent.max_eval_steps=20"
PPO = f"experiment=ppo_cartpole env.num_envs=4 agent.num_steps=8 agent.minibatch_size=16 agent.num_epochs=2 {SMALL}"
DQN = "experiment=dqn_cartpole agent.learning_starts=64 agent.gradient_steps=8"
OPTIONS = " ".join(f"agent.{each}=true" for each in ("double", "dueling", "prioritized", "noisy", "categorical"))
# A generative model of each kind; SRGAN's bicubic enlargement is one that torch computes otherwise on `meta`.
PICTURES = {name: " ".join([*typed(name), "budget.updates=9"]) for name in TYPED if name != "srgan"}
LEARNERS = {
    **PICTURES,
    "mlp": "experiment=mlp_digits learner.accumulate=2 learner.max_grad_norm=1",
    "vae": "experiment=vae_digits",
    "dqn": f"{DQN} agent.lr_anneal_env_steps=10000 {SMALL}",
    "rainbow": f"{DQN} agent.n_step=3 {OPTIONS} {SMALL}",
    "reinforce": f"experiment=reinforce_cartpole {SMALL}",
    "a2c": f"experiment=a2c_cartpole {SMALL}",
    "a2c, boxes": f"experiment=a2c_pendulum {SMALL}",
    "ppo": f"{PPO} agent.target_kl=0.01",
    "ppo, boxes": f"experiment=ppo_pendulum agent.num_epochs=2 agent.normalize_observation=true {SMALL}",
    "ppo, memory": f"{PPO} agent.memory=lstm",
    "ppo, masks": f"experiment=ppo_taxi agent.num_epochs=2 {SMALL}",
    "ppo, pixels": f"experiment=ppo_cartpole_pixels agent.num_epochs=2 {SMALL}",
    "ppo, runners": f"{PPO} agent.env_runners=2",
    "ppo, boxes, runners": f"experiment=ppo_pendulum agent.num_epochs=2 agent.env_runners=2 {SMALL}",
    "dqn, runners": f"experiment=dqn_cartpole agent.env_runners=2 {OPTIONS} {SMALL}",
}
QUICK = ("mlp", "vae", "vq-vae", "dqn", "a2c", "ppo")


def learner(overrides: str, device: torch.device, folder: Path) -> tuple[Task, Run, Learner]:
    always = ["threads=1", "tracking.wandb=false", "compile=false", "log.every_updates=1"]
    task = Task(compose([*overrides.split(), *always]), folder)
    run = worker.make_run(task.config, folder, device=device)
    return task, run, worker.make_learner(task, run)


def train(overrides: str, folder: Path, device: Callable[[], Any], *, resume: bool = False) -> None:
    with device() as where:
        task, run, made = learner(overrides, where, folder)
        worker.work(
            task,
            run,
            made,
            resume=resume,
            show=print,
            say=print,
            stop_requested=lambda: 0,
            most_threads=1,
            keep=print,
        )


def numbers(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "system/"))} for row in rows]


def marked(name: str) -> Any:
    marks = [pytest.mark.slow] if name not in QUICK else []
    return pytest.param(name, marks=[*marks, pytest.mark.ray] if "runners" in name else marks)


@pytest.mark.parametrize("name", [marked(name) for name in LEARNERS])
def test_on_a_device_a_run_is_what_it_is_on_the_cpu(name: str, tmp_path: Path) -> None:
    """Trained, evaluated, drawn, saved, resumed: nothing is left behind on the CPU."""

    def on_cpu() -> Any:
        return contextlib.nullcontext(torch.device("cpu"))

    def on_device() -> Any:
        return pretended.device(float64=agent)  # what is not an agent is trained on Apple's too

    agent = "agent" in LEARNERS[name]
    for folder, device in ((tmp_path / "here", on_cpu), (tmp_path / "there", on_device)):
        train(f"{LEARNERS[name]} budget.updates=2", folder, device)
        train(f"{LEARNERS[name]} budget.updates=4", folder, device, resume=True)
    here, there = numbers(tmp_path / "here"), numbers(tmp_path / "there")
    assert here[-1]["updates"] == 4
    assert there == [pytest.approx(row, rel=1e-9, nan_ok=True) for row in here]  # sums in another order, in float64


@pytest.mark.parametrize(
    "name", ["mlp", "vae", *PICTURES, "dqn", "rainbow", "a2c", "a2c, boxes", "ppo, boxes", "ppo, memory"]
)
def test_an_update_never_waits_for_the_device(name: str, tmp_path: Path) -> None:
    """With envs in torch rollout, returns and update stay on the device."""
    with pretended.device() as where:
        *_, made = learner(LEARNERS[name], where, tmp_path)
        made.step()  # which may set things up, as the order of an epoch
        pretended.waits.clear()
        for _ in range(3):
            made.step()
        assert pretended.waits == []
        made.evaluate()  # which does wait: it is counted
        assert pretended.waits
