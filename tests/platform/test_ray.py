"""Runs on a real Ray: equal to one worker's, and unharmed by the loss of a worker."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from killing import assert_same_bits, finish, rows, states

from trivium.tracking import read_rows

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


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Ray for all tests here, as a cluster: started by `ray start`, found by RAY_ADDRESS, with token
    authentication; a home of its own keeps the machine's clean."""
    home = tmp_path_factory.mktemp("home")
    port = 20000 + os.getpid() % 10000
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    environment.pop("RAY_ADDRESS", None)
    ray = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
    ]
    ray += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={port + 1}",
        "--num-cpus=4",
        "--disable-usage-stats",
        "--block",
    ]
    with subprocess.Popen(ray, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        changed = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        time.sleep(3)
        yield changed["RAY_ADDRESS"]
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


@pytest.mark.parametrize("name", ["mlp_digits", "vae_digits"])
def test_two_workers_with_half_of_each_batch_learn_what_one_learns(name: str, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert finish(SMALL[name], alone) == 0
    result = run([*SMALL[name], "launch=ray", "launch.workers=2"], together)
    assert result["updates"] == 10
    for one, two in zip(rows(alone), rows(together), strict=True):
        assert one.keys() == two.keys()
        assert all(one[k] == pytest.approx(two[k], rel=2e-4, abs=2e-5) for k in one), (one, two)
    first, second = states(together)
    (single,) = states(alone)
    assert first["learner"]["model"].keys() == single["learner"]["model"].keys()
    for key, weight in single["learner"]["model"].items():
        torch.testing.assert_close(first["learner"]["model"][key], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(first["learner"]["model"][key], second["learner"]["model"][key])


def test_ppo_workers_collect_differently_and_learn_the_same(tmp_path: Path) -> None:
    result = run([*SMALL["ppo_cartpole"], "launch=ray", "launch.workers=2"], tmp_path / "run")
    first, second = (state["learner"] for state in states(tmp_path / "run"))
    assert result["counters"]["env_steps"] == first["env_steps"] == 10 * 32 * 32
    weights = [
        k for k, v in first.items() if isinstance(v, dict) and any(isinstance(t, torch.Tensor) for t in v.values())
    ]
    network = next(k for k in weights if k in ("net", "model", "network", "policy"))
    assert all(torch.equal(first[network][k], second[network][k]) for k in first[network])
    assert str(first["envs"]) != str(second["envs"])


@pytest.mark.parametrize(
    "name",
    [
        "mlp_digits",
        pytest.param("vae_digits", marks=pytest.mark.slow),
        pytest.param("ppo_cartpole", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_is_replaced_and_the_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    overrides = [*SMALL[name], "launch=ray", "launch.workers=2", "checkpoint.every_updates=20", "log.every_updates=10"]
    overrides += [
        "budget.updates=200" if name == "ppo_cartpole" else "budget.updates=4000",
        "evaluation.every_updates=50",
    ]
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    run(overrides, whole)
    with subprocess.Popen(
        command(overrides, hurt), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while len(list((hurt / "checkpoints").glob("step-*"))) < 2:
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()
        worker = max(workers(), key=lambda p: p.pid)
        worker.send_signal(signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert "resuming from step-" in stderr
    assert "Traceback" not in stderr
    assert not (hurt / "ray").exists()
    assert_same_bits(hurt, whole)
    steps = [row["step"] for row in read_rows(hurt / "metrics.jsonl") if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert (
        json.loads(stdout.splitlines()[-1])["metrics"].keys()
        == json.loads((whole / "result.json").read_text())["metrics"].keys()
    )


def workers() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]


def test_sigterm_to_the_driver_writes_a_checkpoint_from_which_the_workers_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = [*SMALL["mlp_digits"], "launch=ray", "launch.workers=2", "budget.updates=1000000"]
    with subprocess.Popen(command(overrides, folder), stderr=subprocess.PIPE, text=True) as process:
        while len(rows(folder)) < 5:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    newest = max(p.name for p in (folder / "checkpoints").glob("step-*"))
    assert stderr.strip().splitlines()[-1] == f"trivium: stopped by signal 15; trivium resume continues from {newest}"
    updates = states(folder)[0]["loop"]["updates"]
    done = subprocess.run(
        [*command([], folder), f"budget.updates={updates + 10}"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert f"resuming from {newest}" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["updates"] == updates + 10


def test_workers_errors_reach_the_user_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = [*SMALL["mlp_digits"], "learner.batch_size=63", "launch=ray", "launch.workers=2"]
    done = subprocess.run(command(overrides, folder), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("trivium: error")]
    assert errors == ["trivium: error: learner: batch_size=63 must be a positive multiple of the 2 workers"]
    assert not folder.exists()


def test_what_workers_print_and_log_reaches_the_driver_with_their_rank() -> None:
    from types import SimpleNamespace

    from trivium.ray_workers import _printing_to

    said: list[str] = []
    with _printing_to(SimpleNamespace(say=SimpleNamespace(remote=said.append)), rank=1):
        print("from the user's model", 3)
        print("a warning", file=sys.stderr)
        logging.getLogger("trivium").warning("a checkpoint is damaged")
    print("not sent")
    assert said == [
        "[rank 1] from the user's model 3",
        "[rank 1] a warning",
        "[rank 1] trivium: a checkpoint is damaged",
    ]


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
