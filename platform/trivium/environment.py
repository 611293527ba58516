"""What this machine is: written beside every run, and what `trivium doctor` tells."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

PACKAGES = ("trivium", "torch", "ray", "gymnasium", "hydra-core", "wandb", "numpy")


def describe() -> dict[str, Any]:
    """Versions, hardware, git revision and command, as JSON."""
    return {
        "command": " ".join(["trivium", *sys.argv[1:]]) if sys.argv[0].endswith("trivium") else " ".join(sys.argv),
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
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def doctor() -> tuple[list[tuple[str, str]], list[str]]:
    """What this machine offers, as (what, value), and what is wrong with it, as sentences."""
    from trivium.wandb_sink import choose_mode, logged_in

    problems = []
    installed = versions()
    found = [("python", platform.python_version()), *((k, v or "missing") for k, v in installed.items())]
    problems += [
        f"{name} is not installed: pip install -c constraints.txt -e ." for name, v in installed.items() if v is None
    ]
    import torch

    memory = psutil.virtual_memory()
    found += [
        ("cores", str(cores())),
        ("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"),
        ("devices", ", ".join(["cpu", *devices()])),
        ("threads", f"{torch.get_num_threads()} (torch's default)"),
        ("compiler", shutil.which("c++") or shutil.which("g++") or "none"),
        ("ray", os.environ.get("RAY_ADDRESS") or "started here when launch=ray"),
        ("ray auth", os.environ.get("RAY_AUTH_MODE") or "unset"),
        ("wandb", f"{'logged in' if logged_in() else 'not logged in'}, {choose_mode()}"),
    ]
    if torch.version.cuda and not torch.cuda.is_available():
        problems.append("torch was built for CUDA and sees no GPU: is the driver installed?")
    if not (shutil.which("c++") or shutil.which("g++")):
        problems.append("no C++ compiler: compile=true falls back to eager on the CPU")
    if memory.available < 2e9:
        problems.append(f"only {memory.available / 1e9:.1f} GB of memory are free")
    if shutil.disk_usage(".").free < 1e9:
        problems.append("less than 1 GB is free on this disk: checkpoints may fail")
    if os.environ.get("RAY_ADDRESS") and not os.environ.get("RAY_AUTH_MODE"):
        problems.append("RAY_ADDRESS is set and RAY_AUTH_MODE is not: say token or disabled, as the cluster does")
    return found, problems
