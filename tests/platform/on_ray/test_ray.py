"""Runs on a real Ray: equal to one worker's, and unharmed by the loss of a worker."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from killing import assert_same_bits, finish, rows, states

from trivium.tracking.tracker import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

EXACT = ["threads=1", "tracking.wandb=false", "log.every_updates=1", "evaluation.every_updates=5", "budget.updates=10"]
SMALL = {
    "mlp_digits": ["experiment=mlp_digits", "model.dropout=0", *EXACT],  # dropout draws on each rank's own stream
    "vae_digits": ["experiment=vae_digits", *EXACT],
    "ppo_cartpole": ["experiment=ppo_cartpole", *EXACT, "agent.eval_episodes=4", "agent.test_episodes=4"],
}


def command(overrides: Sequence[str], dir: Path) -> list[str]:
    verb = ["resume", str(dir)] if (dir / "config.yaml").exists() else ["train", *overrides, "--dir", str(dir)]
    return [sys.executable, "-m", "trivium.cli", *verb, "--json"]


def run(overrides: Sequence[str], dir: Path) -> dict[str, Any]:
    done = subprocess.run(command(overrides, dir), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"stderr": done.stderr}


@pytest.fixture(autouse=True)
def _address(ray_head: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ray_head.items():
        monkeypatch.setenv(name, value)


def long(name: str) -> list[str]:
    """Long enough to be hurt before it ends: a group of workers is expensive to start, so one run serves two tests."""
    updates = 150 if name == "ppo_cartpole" else 800
    return [
        *SMALL[name],
        *("launch=ray", "launch.workers=2", "checkpoint.every_updates=20", "evaluation.every_updates=20"),
        f"budget.updates={updates}",
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of two workers that nothing happens to; trained when it is first asked for."""

    @functools.cache
    def trained(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "run"
        run(long(name), folder)
        return folder

    return trained


def assert_alike(alone: Sequence[dict[str, Any]], together: Sequence[dict[str, Any]]) -> None:
    """The same rows, to the tolerance of float sums in another order."""
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys()
        assert all(one[k] == pytest.approx(two[k], rel=2e-4, abs=2e-5) for k in one), (one, two)


@pytest.mark.slow  # the classifier, below, goes the same way
def test_two_workers_with_half_of_each_batch_learn_what_one_learns(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert finish(SMALL["vae_digits"], alone) == 0
    result = run([*SMALL["vae_digits"], "launch=ray", "launch.workers=2"], together)
    assert result["updates"] == 10
    assert_alike(rows(alone), rows(together))
    first, second = states(together)
    (single,) = states(alone)
    assert first["learner"]["network"].keys() == single["learner"]["network"].keys()
    for key, weight in single["learner"]["network"].items():
        torch.testing.assert_close(first["learner"]["network"][key], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(first["learner"]["network"][key], second["learner"]["network"][key])


def test_two_workers_of_a_classifier_go_the_way_of_one(undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    assert finish([*SMALL["mlp_digits"], "evaluation.every_updates=20", "budget.updates=20"], tmp_path / "alone") == 0
    alone, together = rows(tmp_path / "alone"), rows(undisturbed("mlp_digits"))
    assert "eval/loss" in alone[19]
    assert_alike(alone[:20], together[:20])
    first, second = (state["learner"]["model"] for state in states(undisturbed("mlp_digits")))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow  # `contract.check_workers` has the same of workers without a Ray
def test_ppo_workers_collect_differently_and_learn_the_same(tmp_path: Path) -> None:
    result = run([*SMALL["ppo_cartpole"], "launch=ray", "launch.workers=2"], tmp_path / "run")
    first, second = (state["learner"] for state in states(tmp_path / "run"))
    assert result["counters"]["env_steps"] == first["collector"]["env_steps"] == 10 * 32 * 32
    assert all(torch.equal(first["net"][k], second["net"][k]) for k in first["net"])
    assert str(first["collector"]["envs"]) != str(second["collector"]["envs"])


@pytest.mark.parametrize(
    "name",
    [
        "mlp_digits",
        pytest.param("vae_digits", marks=pytest.mark.slow),
        pytest.param("ppo_cartpole", marks=pytest.mark.slow),
    ],
)
def test_a_lost_worker_and_a_stopped_driver_end_with_the_same_bits(
    name: str, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    """A worker dies of SIGKILL and is replaced; then SIGTERM to the driver writes a checkpoint; then it is resumed."""
    folder = tmp_path / "hurt"
    with driver(long(name), folder) as process:
        wait_for(process, lambda: len(checkpoints(folder)) >= 2)
        first, second = workers(tmp_path)
        max(first, second, key=lambda p: p.pid).send_signal(signal.SIGKILL)
        assert process.stderr is not None
        stderr = ""
        while "resuming from step-" not in stderr:
            line = process.stderr.readline()
            assert line, stderr
            stderr += line
        restarted_at = stderr.split()[-1]
        wait_for(process, lambda: max(checkpoints(folder)) > restarted_at)
        process.send_signal(signal.SIGTERM)
        stderr += process.stderr.read()
        process.wait(timeout=100)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    newest = max(checkpoints(folder))
    assert stderr.splitlines()[-1].endswith(f"by signal 15; to continue from {newest}: trivium resume {folder}")

    resumed = run([], folder)
    psutil.wait_procs(workers(tmp_path), timeout=20)
    assert not workers(tmp_path)
    assert f"resuming from {newest}" in resumed["stderr"]
    whole = undisturbed(name)
    assert_same_bits(folder, whole)
    steps = [row["step"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert resumed["metrics"].keys() == json.loads((whole / "result.json").read_text())["metrics"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["to its group", "to Ray's processes too"])
def test_a_signal_to_more_than_the_driver_ends_the_run_as_one_to_the_driver(
    everything: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Ray that is started for the run is not in the driver's group, and has short paths for sockets. Who signals
    it none the less, as a job's manager may, leaves no worker that could write a checkpoint: the last one has to do."""
    monkeypatch.delenv("RAY_ADDRESS")
    (tmp_path / ("d" * 100)).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("d" * 100)))
    folder = tmp_path / "run"
    with driver([*long("mlp_digits"), "budget.updates=1000000"], folder, start_new_session=True) as process:
        wait_for(process, lambda: len(checkpoints(folder)) >= 2)
        before = max(checkpoints(folder))
        of_ray = psutil.Process(process.pid).children(recursive=True)
        niceness = {}
        for each in of_ray:
            with contextlib.suppress(psutil.NoSuchProcess):  # of a moment
                niceness[each.pid, " ".join(each.cmdline())] = each.nice()
        actors = {(pid, name): nice for (pid, name), nice in niceness.items() if name.startswith("ray::")}
        assert sum("ray::Worker" in name for _, name in actors) == 2
        assert set(actors.values()) == {os.nice(0)}
        if everything:
            for each in of_ray:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.terminate()
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    newest = max(checkpoints(folder))
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].endswith(f"by signal 15; to continue from {newest}: trivium resume {folder}")
    assert everything or newest > before


@pytest.mark.slow
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_ray_that_is_lost_ends_the_run_in_a_line(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    folder = tmp_path / "run"
    with driver([*long("mlp_digits"), "budget.updates=1000000"], folder) as process:
        wait_for(process, lambda: len(checkpoints(folder)) >= 2)
        (its,) = [each for each in psutil.Process(process.pid).children() if each.name() == part]
        its.kill()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    newest = max(checkpoints(folder))
    told = f"the run's Ray is lost, its {part} has ended; trivium resume continues from {newest}"
    assert stderr.splitlines()[-1] == f"trivium: error: {told}"
    assert "Traceback" not in stderr
    assert "(raylet)" not in stdout + stderr
    assert not workers(tmp_path)


@pytest.mark.slow
def test_a_signal_while_ray_starts_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    with driver(long("mlp_digits"), tmp_path / "run") as process:
        started = psutil.Process(process.pid)
        wait_for(process, lambda: any(each.name() == "gcs_server" for each in started.children()))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].partition(": trivium resume ")[0].endswith("to continue from the beginning")


MODEL = """
import math, pathlib, time
from torch import nn

class Own(nn.Module):
    def __init__(self, *, input_shape, num_outputs):
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_outputs)

    def forward(self, x):
        {forward}
        return self.layer(x.flatten(1))
"""


def with_model(forward: str, cwd: Path) -> list[str]:
    """Overrides for two workers that train a model of the user's own, which lies in `cwd`."""
    (cwd / "mine" / "model").mkdir(parents=True)
    (cwd / "own_model.py").write_text(MODEL.format(forward=forward))
    (cwd / "mine" / "model" / "own.yaml").write_text("_target_: own_model.Own\n_partial_: true\n")
    model = ["--config-dir", "mine", "experiment=mlp_digits", "model=own"]
    return [*model, "launch=ray", "launch.workers=2", *EXACT]


@pytest.mark.slow
def test_a_signal_waits_for_the_checkpoint_after_a_slow_update(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = 'self.training and (pathlib.Path("updating").touch(), time.sleep(15))'
    with driver(with_model(slow, tmp_path), folder, cwd=tmp_path) as process:
        wait_for(process, (tmp_path / "updating").exists)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 143, stderr
    assert len(checkpoints(folder)) == 1, stderr
    assert f"to continue from {checkpoints(folder)[0]}: trivium resume {folder} --trust " in stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_cluster_that_is_too_small_is_told_and_waited_for_until_a_signal_comes(tmp_path: Path) -> None:
    overrides = [*long("mlp_digits"), "launch.cpus_per_worker=3"]
    with driver(overrides, tmp_path / "run") as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "CPUs" in line)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert told == "the cluster has 4 of the 6 CPUs for 2 workers: waiting for the others\n"
    assert process.returncode == 143, stderr


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in (folder / "checkpoints").glob("step-*")]


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()


def driver(
    overrides: Sequence[str], folder: Path, *, cwd: Path | None = None, start_new_session: bool = False
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(overrides, folder),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def workers(cwd: Path) -> list[psutil.Process]:
    """Of the run that was started in `cwd`: not those that an earlier run may have left to end, nor what they fork."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            its_own = process.info["cwd"] == str(cwd) and "ray::Worker" in " ".join(process.info["cmdline"] or [])
            if its_own and psutil.Process(process.ppid()).name() == "raylet":
                found.append(process)
    return found


def test_workers_errors_reach_the_user_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = [*SMALL["mlp_digits"], "learner.accumulate=7", "launch=ray", "launch.workers=2"]
    done = subprocess.run(command(overrides, folder), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("trivium: error")]
    assert "accumulate=7" in error
    assert not folder.exists()


def test_a_fault_of_the_program_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    faulty = 'if len(x) > 2: print("the last words"); raise RuntimeError("no such luck")'  # not when it is tried out
    with driver(with_model(faulty, tmp_path), tmp_path / "run", cwd=tmp_path) as process:
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1, stderr
    assert "start again" not in stderr
    assert stderr.count("] the last words\n") <= 2  # of each worker, once
    assert "own_model.py" in stderr  # in the trace of the worker
    assert stderr.splitlines()[-1] == "trivium: error: RuntimeError: no such luck"
    ended = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (ended["state"], ended["error"], ended["updates"]) == ("failed", "RuntimeError: no such luck", 0)
    assert re.fullmatch(r".*own_model\.py:\d+ in forward", ended["place"])
    assert ended["rank"] in (0, 1)
    kept = (tmp_path / "run" / "log.txt").read_text()
    assert f"[rank {ended['rank']}] the last words\n" in kept
    assert "own_model.py" in kept
    assert "RuntimeError: no such luck" in (tmp_path / "run" / "report.html").read_text()


CALLER = """
import pathlib, ray, trivium
ray.init()
print(trivium.train(*{overrides}, dir=pathlib.Path({folder!r})).updates)
states = [group["state"] for group in ray.util.placement_group_table().values()]
assert set(states[-1:]) == {{"REMOVED"}}, states
"""


def test_a_ray_of_the_callers_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    script = CALLER.format(
        overrides=[*SMALL["mlp_digits"], "launch=ray", "launch.workers=1"], folder=str(tmp_path / "run")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "10"


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    overrides = [*SMALL["mlp_digits"], "launch=ray"]
    done = subprocess.run(command(overrides, tmp_path / "run"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "trivium: error: RAY_ADDRESS=127.0.0.1:1: no Ray answers there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_gpus_that_are_not_there_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    overrides = [*SMALL["mlp_digits"], "launch=ray", "launch.gpus_per_worker=1"]
    done = subprocess.run(command(overrides, tmp_path / "run"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "launch.gpus_per_worker=1: 2 workers need 2 GPUs, here are 0" in done.stderr
    assert not (tmp_path / "run").exists()
