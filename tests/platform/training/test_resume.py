"""The promise: a run that is killed, anywhere, any number of times, ends with the same bits as one that is not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import KillAt, assert_same_bits, finish, rows, states

from trivium import launch
from trivium.config.errors import ConfigError

pytestmark = pytest.mark.kill

CADENCE = ["threads=1", "tracking.wandb=false", "log.every_updates=7", "evaluation.every_updates=15"]
RUNS = {
    "mlp_digits": [*CADENCE, "budget.updates=70", "checkpoint.every_updates=9"],
    "vae_digits": [*CADENCE, "budget.updates=70", "checkpoint.every_updates=9"],
    "ppo_cartpole": [*CADENCE, "budget.updates=24", "checkpoint.every_updates=4", "evaluation.every_updates=9"],
    "ppo_acrobot": [*CADENCE, "budget.updates=24", "checkpoint.every_updates=4", "evaluation.every_updates=9"],
}
BASE = {
    "ppo_acrobot": [
        "experiment=ppo_cartpole",
        "env.id=Acrobot-v1",
        "env.native=false",
        "agent.eval_episodes=2",
        "agent.test_episodes=2",
    ]
}
FOLDER = "trivium.checkpoints.storage"
POSITIONS: dict[str, list[tuple[str, KillAt]]] = {
    name: [
        ("mid-epoch", (f"trivium.{module}", f"{learner}.step", 13)),
        ("the update that ends an epoch", (f"trivium.{module}", f"{learner}.step", 20)),
        ("before a checkpoint appears", (FOLDER, "Folder.commit", 3)),
        ("while a checkpoint is written", (FOLDER, "Folder.write", 6)),
        ("before a row is written", ("trivium.tracking", "RunTracker.log", 4)),
        ("in an evaluation", (f"trivium.{module}", f"{learner}.evaluate", 2)),
        ("in the last evaluation", (f"trivium.{module}", f"{learner}.evaluate", 6)),
    ]
    for name, module, learner in [
        ("mlp_digits", "supervised.learner", "Supervised"),
        ("vae_digits", "generative.vae", "VAE"),
    ]
}
PPO_POSITIONS: list[tuple[str, KillAt]] = [
    ("mid-rollout", ("trivium.agents.envs.classic_control", "ClassicControl.step", 421)),
    ("at a rollout's start", ("trivium.agents.ppo", "PPO.step", 6)),
    ("before a checkpoint appears", (FOLDER, "Folder.commit", 3)),
    ("while a checkpoint is written", (FOLDER, "Folder.write", 6)),
    ("before a row is written", ("trivium.tracking", "RunTracker.log", 3)),
    ("in an evaluation", ("trivium.agents.ppo", "PPO.evaluate", 2)),
]
POSITIONS["ppo_cartpole"] = PPO_POSITIONS
POSITIONS["ppo_acrobot"] = [("mid-rollout", ("trivium.agents.envs.gym_envs", "GymEnvs.step", 421)), *PPO_POSITIONS[2:3]]


def overrides(name: str) -> list[str]:
    return [*BASE.get(name, [f"experiment={name}"]), *RUNS[name]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of each that is never killed."""
    found = {}
    for name in RUNS:
        folder = tmp_path_factory.mktemp(name) / "run"
        assert finish(overrides(name), folder) == 0
        found[name] = folder
    return found


@pytest.mark.parametrize(
    ("name", "position", "kill_at"), [(name, text, at) for name, cases in POSITIONS.items() for text, at in cases]
)
def test_killed_at_a_position(
    name: str, position: str, kill_at: KillAt, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert finish(overrides(name), folder, kill_at=kill_at) == -signal.SIGKILL, f"never reached: {position}"
    assert finish(overrides(name), folder) == 0
    assert_same_bits(folder, undisturbed[name])


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_random_moments_again_and_again(name: str, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    folder, moments, kills = tmp_path / "run", random.Random(name), 0
    training_s = json.loads((undisturbed[name] / "result.json").read_text())["elapsed_s"]
    for _ in range(6):
        moment = 0.01 + moments.uniform(0, 0.5) * training_s
        code = finish(overrides(name), folder, kill_at=("trivium.training.loop", "Loop.train", moment))
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert kills >= 2
    assert finish(overrides(name), folder) == 0
    assert_same_bits(folder, undisturbed[name])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_polite_signal_writes_a_checkpoint_and_leaves_with_the_usual_code(
    number: int, code: int, tmp_path: Path
) -> None:
    """The real command, from the shell's side."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "trivium.cli", "train", *overrides("mlp_digits"), "checkpoint.every_updates=null"]
    command += ["budget.updates=1000000", "--dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(rows(folder)) < 3:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in stderr
    newest = max(p.name for p in (folder / "checkpoints").glob("step-*"))
    last = stderr.strip().splitlines()[-1]
    assert last == f"trivium: stopped by signal {int(number)}; to continue from {newest}: trivium resume {folder}"


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = f"""
import time
from trivium import cli
from trivium.supervised.learner import Supervised
Supervised.step = lambda self: time.sleep(100)
cli.main(["train", "tracking.wandb=false", "--dir", {str(folder)!r}])
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "environment.json").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "the first one waits for the step to end"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "trivium: stopping with a checkpoint; Ctrl-C again leaves at once\n" in stderr


def test_a_finished_run_is_not_given_a_budget_that_is_spent(undisturbed: dict[str, Path]) -> None:
    folder = undisturbed["mlp_digits"]
    before = {path: path.read_bytes() for path in folder.glob("[!.]*.*")}
    with pytest.raises(ConfigError, match=r"has finished with .*, and 3 updates are spent; budget\.<unit>=<more>"):
        launch.resume(folder, ["budget.updates=3"])
    assert {path: path.read_bytes() for path in folder.glob("[!.]*.*")} == before


def test_a_finished_run_is_not_trained_again(undisturbed: dict[str, Path]) -> None:
    folder = undisturbed["mlp_digits"]
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert finish([], folder) == 0
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_finished_run_goes_on_with_a_larger_budget(undisturbed: dict[str, Path], tmp_path: Path) -> None:
    import trivium

    folder = tmp_path / "run"
    assert finish([*overrides("mlp_digits"), "budget.updates=35"], folder) == 0
    result = trivium.resume(folder, "budget.updates=70")
    assert result.updates == 70
    whole, parts = states(undisturbed["mlp_digits"])[0], states(folder)[0]
    assert all((whole["learner"]["model"][k] == parts["learner"]["model"][k]).all() for k in whole["learner"]["model"])


def test_a_damaged_newest_checkpoint_still_ends_with_the_same_bits(
    undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    kill_at = ("trivium.supervised.learner", "Supervised.step", 50)
    assert finish(overrides("mlp_digits"), folder, kill_at=kill_at) == -signal.SIGKILL
    newest = folder / "checkpoints" / os.readlink(folder / "checkpoints" / "last") / "rank-0.pt"
    content = bytearray(newest.read_bytes())
    content[1000] ^= 1
    newest.write_bytes(content)
    assert finish(overrides("mlp_digits"), folder) == 0
    assert_same_bits(folder, undisturbed["mlp_digits"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_digits", "ppo_cartpole"])
def test_a_compiled_run_ends_with_the_same_bits_too(name: str, tmp_path: Path) -> None:
    compiled = [*overrides(name), "compile=true"]
    assert finish(compiled, tmp_path / "whole") == 0
    loop_at = ("trivium.training.loop", "Loop._due", 15)
    assert finish(compiled, tmp_path / "hurt", kill_at=loop_at) == -signal.SIGKILL
    assert finish(compiled, tmp_path / "hurt") == 0
    assert_same_bits(tmp_path / "hurt", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_ends_with_the_same_bits_too(precision: str, tmp_path: Path) -> None:
    mixed = [*overrides("mlp_digits"), f"precision={precision}", "learner.max_grad_norm=1.0", "learner.accumulate=2"]
    assert finish(mixed, tmp_path / "whole") == 0
    at = ("trivium.supervised.learner", "Supervised.step", 37)
    assert finish(mixed, tmp_path / "hurt", kill_at=at) == -signal.SIGKILL
    assert finish(mixed, tmp_path / "hurt") == 0
    assert_same_bits(tmp_path / "hurt", tmp_path / "whole")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mlp_digits", "vae_digits", "ppo_cartpole"])
def test_a_run_on_a_gpu_ends_with_the_same_bits_too(name: str, tmp_path: Path) -> None:
    on_gpu = [*overrides(name), "device=cuda", "deterministic=true"]
    assert finish(on_gpu, tmp_path / "whole") == 0
    at = ("trivium.training.loop", "Loop._due", 15)
    assert finish(on_gpu, tmp_path / "hurt", kill_at=at) == -signal.SIGKILL
    assert finish(on_gpu, tmp_path / "hurt") == 0
    assert_same_bits(tmp_path / "hurt", tmp_path / "whole")
