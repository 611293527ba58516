"""One Ray for all tests that need one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from trivium.on_ray import cluster
from trivium.run_folder.environment import reachable

TESTS = Path(__file__).resolve().parents[1]
TOKEN = "a" * 64
CPUS = 4


@contextlib.contextmanager
def head() -> Iterator[dict[str, str]]:
    """A cluster of one node, started by `ray start`, with token authentication; a home of its own keeps the machine's
    clean.

    Yields:
        The environment variables with which it is joined.
    """
    home = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    port = 20000 + os.getpid() % 10000
    joining = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment = {**os.environ, **joining, "HOME": home, "RAY_TMPDIR": home, "RAY_worker_niceness": "0"}
    environment["PYTHONPATH"] = str(TESTS / "agents")  # of tiny_envs, for actors
    del environment["RAY_ADDRESS"]
    ray = [sys.executable, "-m", "ray.scripts.scripts"]  # what the command `ray` runs
    ray += ["start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1"]
    ray += [f"--dashboard-port={port + 1}", f"--num-cpus={CPUS}", "--disable-usage-stats", "--block"]
    with subprocess.Popen(ray, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not reachable(joining["RAY_ADDRESS"]):
            assert process.poll() is None, "ray start has failed"
            time.sleep(0.1)
        try:
            yield joining
        finally:
            for part in [*psutil.Process(process.pid).children(recursive=True), process]:  # nothing in it is to be kept
                part.kill()
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def joined(joining: dict[str, str]) -> Iterator[None]:
    """This process is a driver of that cluster."""
    before = {name: os.environ.get(name) for name in joining}
    os.environ.update(joining)
    try:
        cluster.prepare()
        with cluster.joined(CPUS, import_from_here=True):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
