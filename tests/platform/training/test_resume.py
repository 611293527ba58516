"""The promise: a run that is killed, anywhere, any number of times, ends with the same bits as one that is not."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from killing import KillAt, assert_same_bits, command, count, finish, on_call, rows, start, states

from trivium import launch
from trivium.config.errors import ConfigError

pytestmark = pytest.mark.kill

# ----------------------------------------------------------------------------------------------- every position, once


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the counting learner that is never killed."""
    folder = tmp_path_factory.mktemp("counted") / "run"
    assert finish([], folder, main=count) == 0
    return folder


@pytest.mark.parametrize(
    ("module", "method", "calls"),
    [
        ("counting", "Counting.step", 12),
        ("counting", "Counting.evaluate", 5),
        ("trivium.checkpoints.storage", "Folder.write", 14),
        ("trivium.checkpoints.storage", "Folder.commit", 7),
        ("trivium.checkpoints.storage", "Folder.point", 13),
        ("trivium.checkpoints.storage", "Folder.delete", 4),
        ("trivium.tracking.tracker", "RunTracker.log", 7),
        ("trivium.tracking.tracker", "RunTracker.checkpointed", 7),
        ("trivium.tracking.tracker", "RunTracker.finish", 1),
    ],
)
def test_killed_before_any_call_of_what_changes_a_run(
    module: str, method: str, calls: int, counted: Path, tmp_path: Path
) -> None:
    """The counting learner is killed at each call in turn, and resumed."""
    for n in itertools.count(1):
        folder = tmp_path / str(n)
        code = finish([], folder, main=count, kill_at=(module, method, n))
        if code == 0:  # it makes fewer calls
            break
        assert code == -signal.SIGKILL
        assert finish([], folder, main=count) == 0
        assert_same_bits(folder, counted)
        for alias in ("best", "last"):
            links = (run / "checkpoints" / alias for run in (folder, counted))
            assert len({os.readlink(link) for link in links}) == 1, (n, alias)
    assert n - 1 == calls


# ----------------------------------------------------------------------------------------------- each family

CADENCE = ["threads=1", "tracking.wandb=false", "log.every_updates=7", "evaluation.every_updates=15"]
RUNS = {
    "mlp_digits": [*CADENCE, "budget.updates=70", "checkpoint.every_updates=9"],
    "vae_digits": [*CADENCE, "budget.updates=40", "checkpoint.every_updates=9"],
    "ppo_cartpole": [*CADENCE, "budget.updates=16", "checkpoint.every_updates=4", "evaluation.every_updates=9"],
}
KILLS: dict[str, list[KillAt]] = {  # one after the other: each is counted from where the run goes on
    "mlp_digits": [
        ("trivium.supervised.learner", "Supervised.step", 13),  # in an epoch
        ("trivium.supervised.learner", "Supervised.step", 12),  # the update that ends it
        ("trivium.supervised.learner", "Supervised.evaluate", 3),
    ],
    "vae_digits": [
        ("trivium.generative.autoencoders.vae", "VAE.step", 13),
        ("trivium.generative.autoencoders.vae", "VAE.evaluate", 2),
    ],
    "ppo_cartpole": [
        ("trivium.agents.envs.classic_control", "ClassicControl.step", 181),  # in a rollout
        ("trivium.agents.ppo", "PPO.step", 6),
        ("trivium.agents.ppo", "PPO.evaluate", 1),
    ],
}


def overrides(name: str) -> list[str]:
    return [f"experiment={name}", *RUNS[name]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of each that is never killed."""
    found = {}
    for name in RUNS:
        folder = tmp_path_factory.mktemp(name) / "run"
        assert finish(overrides(name), folder) == 0
        found[name] = folder
    return found


@pytest.mark.parametrize("name", RUNS)
def test_killed_again_and_again_at_chosen_and_random_moments(
    name: str, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    folder, moments = tmp_path / "run", random.Random(name)
    for kill_at in KILLS[name]:
        assert finish(overrides(name), folder, kill_at=kill_at) == -signal.SIGKILL, f"never reached: {kill_at}"
    training_s = json.loads((undisturbed[name] / "result.json").read_text())["elapsed_s"]
    for _ in range(2):
        moment = 0.01 + moments.uniform(0, 0.3) * training_s
        code = finish(overrides(name), folder, kill_at=("trivium.training.loop", "Loop.train", moment))
        assert code in (0, -signal.SIGKILL)
    assert finish(overrides(name), folder) == 0
    assert_same_bits(folder, undisturbed[name])


# ----------------------------------------------------------------------------------------------- signals

ENDLESS = ["tracking.wandb=false", "budget.updates=1000000", "log.every_updates=7"]


def assert_stopped(number: int, folder: Path, stderr: str) -> None:
    """A checkpoint was written, and the last line says how to go on from it."""
    assert "Traceback" not in stderr
    newest = max(p.name for p in (folder / "checkpoints").glob("step-*"))
    last = stderr.strip().splitlines()[-1]
    assert last == f"trivium: stopped by signal {number}; to continue from {newest}: trivium resume {folder}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_polite_signal_writes_a_checkpoint_and_leaves_with_the_usual_code(
    number: int, code: int, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(ENDLESS, folder, stderr=tmp_path / "stderr")
    while len(rows(folder)) < 3:
        time.sleep(0.02)
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    assert_stopped(number, folder, (tmp_path / "stderr").read_text())


def test_so_does_the_command_in_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "trivium", "train", *ENDLESS, "--dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not rows(folder):
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert_stopped(signal.SIGTERM, folder, stderr)


def stuck(overrides: Sequence[str], dir: Path) -> int:
    """The command, with a step that takes long."""
    on_call("trivium.supervised.learner", "Supervised.step", lambda calls: (dir / "stuck").touch() or time.sleep(100))
    return command(overrides, dir)


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(ENDLESS, folder, main=stuck, stderr=tmp_path / "stderr")
    while not (folder / "stuck").exists():
        time.sleep(0.02)
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(0.3)
    assert process.is_alive(), "the first one waits for the step to end"
    os.kill(process.pid, signal.SIGINT)
    process.join(5)
    assert process.exitcode == 130
    said = (tmp_path / "stderr").read_text()
    assert "trivium: stopping with a checkpoint; Ctrl-C again leaves at once\n" in said


# ----------------------------------------------------------------------------------------------- finished, damaged


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
