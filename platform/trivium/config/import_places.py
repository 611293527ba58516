"""Where modules of the user's own are found: in the working directory, and next to their YAML."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_added: list[str] = []


def look_in(*folders: Path | str) -> None:
    """Let modules be imported from these folders too; last, so that a file there hides no installed module. Only for
    names that the user typed or trusts."""
    for folder in (os.path.abspath(folder) for folder in folders):
        if folder not in sys.path:
            sys.path.append(folder)
            _added.append(folder)


def beside(config_dir: Path | str) -> tuple[Path, Path]:
    """The folder that a folder of YAML is in, and itself."""
    config_dir = Path(os.path.abspath(os.path.expanduser(config_dir)))
    return config_dir.parent, config_dir


def added() -> list[str]:
    """What `look_in` has added and is still there."""
    return [folder for folder in _added if folder in sys.path]


def of_the_user() -> list[str]:
    """The folders that are searched besides Python's own and those of installed packages."""
    own = tuple(os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix))
    paths = [os.path.abspath(path) for path in sys.path if not path.endswith((".zip", ".egg"))]
    mine = [path for path in paths if os.path.isdir(path) and not f"{os.path.realpath(path)}{os.sep}".startswith(own)]
    return [path for path in dict.fromkeys(mine) if "site-packages" not in Path(path).parts]
