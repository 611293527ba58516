"""What this machine is: written beside every run, and what `trivium doctor` tells."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from trivium.boundary.credentials import mask

PACKAGES = ("trivium", "torch", "ray", "gymnasium", "hydra-core", "wandb", "numpy")
OWN = ("trivium", os.path.join("trivium", "__main__.py"))  # what is started as the command `trivium`
ANSWER_S = 4.0  # how long the doctor waits for anything beyond this machine


def describe() -> dict[str, Any]:
    """Versions, hardware, git revision and command, as JSON."""
    return {
        "command": mask(shlex.join(["trivium", *sys.argv[1:]] if sys.argv[0].endswith(OWN) else sys.argv)),
        "python": platform.python_version(),
        "packages": versions(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "devices": devices(),
        "git_revision": git_revision(),
    }


def versions() -> dict[str, str | None]:
    """The installed version of each package that a result may depend on."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def cores() -> int:
    """How many cores this process may use: those it may run on, or its container's quota if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, quota(Path("/sys/fs/cgroup/cpu.max")) or allowed)


def quota(path: Path) -> int | None:
    """The cores that a cgroup-v2 `cpu.max` file (`<quota> <period>` in microseconds, or `max <period>`) grants, rounded
    up; None where there is no limit."""
    try:
        limit, period = path.read_text().split()
        return max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def devices() -> list[str]:
    """What torch can compute on besides the CPU."""
    import torch

    found = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return [*found, *(["mps"] if torch.backends.mps.is_available() else [])]


def git_revision() -> str | None:
    """The commit checked out in the working directory, with `+` if files differ from it; None outside a repository."""
    if not shutil.which("git"):
        return None
    try:
        revision = _git("rev-parse", "HEAD")
        return revision + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


# ----------------------------------------------------------------------------------------------- the doctor


def doctor() -> tuple[list[tuple[str, Any, str]], list[str]]:
    """What this machine offers, as (what, value as JSON, value in words), and what is wrong with it, as sentences.
    Offline too it answers within seconds."""
    import torch

    memory = psutil.virtual_memory()
    total_gb, free_gb = round(memory.total / 1e9, 1), round(memory.available / 1e9, 1)
    threads, usable, compiler = torch.get_num_threads(), ["cpu", *devices()], _compiler()
    address, auth = os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_AUTH_MODE")
    logged_in, mode, wandb_runs = _wandb()
    found = [
        ("python", platform.python_version(), platform.python_version()),
        *((name, installed, installed or "missing") for name, installed in versions().items()),
        ("cores", cores(), str(cores())),
        ("memory", {"total_gb": total_gb, "free_gb": free_gb}, f"{total_gb} GB, {free_gb} GB free"),
        ("devices", usable, ", ".join(usable)),
        (
            "threads",
            {"default": threads, "auto": cores()},
            f"{threads} by torch's default; threads=auto gives a run at most {cores()}",
        ),
        ("compiler", compiler, compiler or "none"),
        ("ray runs", address, f"the cluster at {address}" if address else "one is started here when launch=ray"),
        ("ray auth", auth, auth or "unset: a Ray started here gets a token of its own"),
        ("wandb runs", {"logged_in": logged_in, "mode": mode}, wandb_runs),
    ]
    return found, list(_problems())


def _problems() -> Iterator[str]:
    import torch

    yield from _requirements()
    if torch.version.cuda and not torch.cuda.is_available():
        yield "torch was built for CUDA and finds no GPU that it can use: is there one, and its driver?"
    if not _compiler():
        yield "there is no C++ compiler: compile=true can't compile for the CPU"
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores():
        yield f"OMP_NUM_THREADS={threads} is more than the {cores()} cores that this process may use"
    if psutil.virtual_memory().available < 2e9:
        yield f"only {psutil.virtual_memory().available / 1e9:.1f} GB of memory are free"
    if shutil.disk_usage(".").free < 1e9:
        yield "less than 1 GB is free on the disk of this folder: checkpoints may fail"
    if not os.access(".", os.W_OK):
        yield f"this folder can't be written: {os.getcwd()}; give train --dir PATH"
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < 1e9:
        yield f"/dev/shm holds {shutil.disk_usage(shared).total / 1e6:.0f} MB: Ray's object store will be slow or small"
    address = os.environ.get("RAY_ADDRESS", "")
    if address and not os.environ.get("RAY_AUTH_MODE"):
        yield "RAY_ADDRESS is set and RAY_AUTH_MODE is not: say token or disabled, as the cluster does"
    if address and reachable(address) is False:
        yield f"no Ray answers at RAY_ADDRESS={address}"


def _requirements() -> Iterator[str]:
    """Packages that Trivium needs and that are missing or of another version."""
    from packaging.requirements import Requirement

    try:
        needed = importlib.metadata.requires("trivium") or []
    except PackageNotFoundError:
        return  # run from its source, not installed
    for requirement in map(Requirement, needed):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield f"{requirement.name} is not installed: pip install -c constraints.txt -e ."
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed} is installed; Trivium needs {requirement.specifier}"


def _compiler() -> str | None:
    return shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def reachable(address: str) -> bool | None:
    """Whether something listens at `host:port`, in a URL or bare; None if it is neither."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not colon or not port.isdigit():
        return None

    def connect() -> bool:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            return True

    return bool(_within(ANSWER_S, connect))


def _wandb() -> tuple[bool, str, str]:
    """Whether one is logged in at W&B, how runs are written, and both in words."""
    from trivium.tracking.wandb_process import choose_mode, logged_in

    known = bool(_within(ANSWER_S, logged_in))
    if os.environ.get("WANDB_MODE", "").lower() == "disabled":
        return known, "disabled", "disabled by WANDB_MODE"
    mode = _within(ANSWER_S, choose_mode) or "offline"
    return known, mode, f"{'logged in' if known else 'not logged in'}: runs are written {mode}"


def _within(limit_s: float, ask: Callable[[], Any]) -> Any:
    """The answer, or None if it fails or takes longer: looking up a name offline can take a minute."""
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception:
            answers.append(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else None
