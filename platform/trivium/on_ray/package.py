"""What a job needs of the user's own: their Python files and their YAML, and nothing else."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trivium
from trivium.config.errors import ConfigError

MOST_BYTES = 50 * 2**20  # of all files together; Ray keeps the package in the memory of the cluster's head
# Names of files that hold secrets, whatever their type.
SECRET = (".env*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "*credential*", "*secret*", "*token*.txt")
SUFFIXES = (".py", ".pyi", ".yaml", ".yml", ".toml")


@dataclass(frozen=True)
class Package:
    """The files that are sent.

    Attributes:
        root: the folder that the job's working directory is a copy of.
        files: the files that are sent, relative to `root`, sorted.
        withheld: files that would have been sent but for their names, which are those of secrets.
    """

    root: Path
    files: list[Path]
    withheld: list[Path]

    def copy(self, folder: Path) -> None:
        """Copy the files into a folder, which becomes the job's working directory."""
        for file in self.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / file, folder / file)


def collect(root: Path) -> Package:
    """The Python, YAML and TOML files below a folder that git does not ignore.

    Without git, hidden folders, virtual environments, caches and run folders are left out. Links are not followed out
    of the folder.

    Raises:
        ConfigError: together they are larger than `MOST_BYTES`.
    """
    root = root.resolve()
    files, withheld, size = [], [], 0
    for file in sorted(_by_git(root) or _by_walking(root)):
        path = root / file
        if path.suffix not in SUFFIXES or not path.is_file() or not path.resolve().is_relative_to(root):
            continue
        if any(fnmatch.fnmatch(file.name.lower(), pattern) for pattern in SECRET):
            withheld.append(file)
            continue
        files.append(file)
        size += path.stat().st_size
    if size > MOST_BYTES:
        largest = max(files, key=lambda file: (root / file).stat().st_size)
        what = f"its Python and YAML files are {size / 2**20:.0f} MiB, the largest is {largest}"
        raise ConfigError([f"{root} is too large to be sent: {what}; valid: at most {MOST_BYTES // 2**20} MiB"])
    return Package(root, files, withheld)


def _by_git(root: Path) -> list[Path]:
    """What git tracks or would track below a folder; empty where there is no repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return []
    return [Path(name) for name in done.stdout.split("\0") if name] if done.returncode == 0 else []


def _by_walking(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if _may_hold_code(here / name)]
        yield from ((here / name).relative_to(root) for name in names)


def _may_hold_code(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name in ("__pycache__", "node_modules", "wandb"):
        return False
    return not (folder / "pyvenv.cfg").exists() and not (folder / "metrics.jsonl").exists()


def copy_trivium(folder: Path) -> Path:
    """Copy the Trivium that runs here into a folder, for nodes where it is not installed.

    Returns:
        The package's folder, which can be imported as `trivium` from `folder`.
    """
    package = folder / "trivium"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(trivium.__file__).parent, package, ignore=ignored)
    for name in ("agents", "configs", "generative", "supervised"):  # folders of their own in a checkout
        if not (package / name).exists():
            module = __import__(f"trivium.{name}", fromlist=["__path__"])
            shutil.copytree(module.__path__[0], package / name, ignore=ignored)
    return package
