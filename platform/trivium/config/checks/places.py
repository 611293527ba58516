"""The files and folders that a config names: where the run is going to be, and what it reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trivium.boundary import credentials
from trivium.boundary.places import VARIABLE, find_data, is_bucket
from trivium.config.problems import Found, Kind, Problem
from trivium.config.tree import has, leaves

FILE_KEYS = ("path", "file", "folder")  # and what ends in `_path`, ...: must exist


def is_path(key: str) -> bool:
    """Whether a key holds the path of a file or folder, by its name."""
    return key == "storage" or key.rpartition(".")[2].rpartition("_")[2] in FILE_KEYS


def check_paths(config: dict[str, Any], where: Callable[[str], str], found: Found, *, must_exist: bool = True) -> None:
    """What a config reads must be files or folders: a pipe may be silent, and a device has no end.

    Args:
        where: see `check_values`.
        must_exist: False where nothing may have to be read: a trained model is used without its data.
    """
    for path, value in leaves(config):
        if not isinstance(value, str) or path == "storage" or not is_path(path):
            continue
        place = find_data(value)
        if place.is_file() or place.is_dir() or not (must_exist or place.exists()):
            continue
        lacking = "" if place.exists() else f" that exists, here or in the folder that {VARIABLE} names"
        found.add(Problem(Kind.VALUE, path, value, f"a file or folder{lacking}", file=where(path)))


LEFT = (".lock", ".config.yaml")  # by a run that was killed as it began


def check_run_folder(place: Path | str, found: Found) -> None:
    """A new run needs a folder that is empty or not there yet."""
    if not str(place):
        found.add(Problem(Kind.NO_PATH, "--dir"))
        return
    dir = Path(place).absolute()
    if (dir / "config.yaml").exists():
        found.add(Problem(Kind.HOLDS_A_RUN, "--dir", dir))
    elif dir.exists() and (not dir.is_dir() or any(not path.name.startswith(LEFT) for path in dir.iterdir())):
        found.add(Problem(Kind.NOT_EMPTY, "--dir", dir))
    else:
        above = _nearest_above(dir)
        if not above.is_dir():
            found.add(Problem(Kind.BELOW_A_FILE, "--dir", dir, details={"place": above}))
        elif not os.access(above, os.W_OK):
            found.add(Problem(Kind.NOT_WRITABLE, "--dir", dir, details={"place": above}))


def check_storage(storage: str, found: Found, *, holds_runs: bool) -> None:
    """The storage must contain no credentials and, if runs are to be folders below it, must not lie below a file."""
    if problem := credentials.problem(storage) if is_bucket(storage) else None:
        found.add(Problem(Kind.SECRET, "storage", credentials.mask(storage), details={"reason": problem}))
    if not holds_runs:
        return
    above = Path("/") if is_bucket(storage) else _nearest_above(Path(storage).absolute())
    if not above.is_dir():
        found.add(Problem(Kind.VALUE, "storage", storage, f"a folder, and {above} is a file"))


def _nearest_above(path: Path) -> Path:
    """The nearest that is there and can be seen."""
    for one in (path, *path.parents):
        with contextlib.suppress(OSError):  # a name too long, a folder that is not ours to look into
            if one.exists():
                return one
    return path


def check_tied(config: dict[str, Any], file: str, found: Found) -> None:
    """`tied_to_budget` of a run folder must be lists of existing keys, by unit of the budget."""
    tied = config.get("tied_to_budget", {})
    keys = list(tied.values()) if isinstance(tied, dict) else [None]
    if not all(isinstance(k, list) and all(isinstance(key, str) and has(config, key) for key in k) for k in keys):
        found.add(Problem(Kind.TIED, "tied_to_budget", file=file))
    elif isinstance(config["budget"], dict) and not all(has(config, f"budget.{unit}") for unit in tied):
        found.add(Problem(Kind.TIED_UNIT, "tied_to_budget", file=file))
