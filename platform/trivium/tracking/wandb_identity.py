"""Which W&B run a run folder is: an id and a name, made once and kept in the folder.

The id is drawn at random: the folder's own name may hold what W&B refuses or takes for a pattern, and another folder
may have the same. Of the user's variables WANDB_RUN_ID is the id of a new run, and WANDB_NAME the name of any.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from trivium.boundary import strict_json, untrusted

KEPT = Path("wandb", "run.json")  # in the run folder
OWN = ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_DIR", "WANDB_RESUME")  # what Trivium says to W&B itself
log = logging.getLogger("trivium")


class Identity(NamedTuple):
    """A W&B run.

    Attributes:
        id: the same for all resumes.
        name: as W&B shows it.
    """

    id: str
    name: str


def identity(dir: Path, *, name: str) -> Identity:
    """The identity of a run folder, which is made and kept there if there is none yet.

    Args:
        dir: the run folder, which this process alone writes to.
        name: of a new run, unless WANDB_NAME is set.
    """
    kept = _read(dir / KEPT)
    asked_id, asked_name = (os.environ.get(variable, "") for variable in ("WANDB_RUN_ID", "WANDB_NAME"))
    run_id = kept.id if kept else asked_id if is_id(asked_id) else secrets.token_hex(8)
    found = Identity(run_id, asked_name or (kept.name if kept else _printable(name)))
    if found != kept:
        _write(dir / KEPT, found)
    return found


def is_id(text: str) -> bool:
    """Whether W&B takes a text for the id of a run, and a file system for a part of a folder's name."""
    return re.fullmatch(r"[^\s:;,#?/'\\\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}", text) is not None


def say_overridden(identity: Identity, *, project: str) -> None:
    """Say which of the user's variables for W&B have no effect on a run, and why."""
    reasons = {
        "WANDB_PROJECT": (project, f"tracking.project is {project}"),
        "WANDB_RUN_ID": (identity.id, f"the id of this run is {identity.id}, see {KEPT} in its folder"),
        "WANDB_DIR": (None, "W&B's files are in the run folder"),
        "WANDB_RESUME": ("allow", "trivium resume continues the W&B run too"),
    }
    for variable, (ours, reason) in reasons.items():
        asked = os.environ.get(variable)
        if asked and asked != ours:
            log.warning("%s=%s has no effect: %s", variable, asked, reason)


def _read(path: Path) -> Identity | None:
    """What is kept, None if it is missing, damaged or not of Trivium's making."""
    try:
        kept = None if path.is_symlink() else untrusted.read_json(path, limit=10_000)
    except (OSError, untrusted.Refused):
        return None
    run_id, name = (kept.get("id"), kept.get("name")) if isinstance(kept, dict) else (None, None)
    if isinstance(run_id, str) and is_id(run_id) and isinstance(name, str):
        return Identity(run_id, _printable(name))
    return None


def _write(path: Path, identity: Identity) -> None:
    path.parent.mkdir(exist_ok=True)
    staged = path.with_name(f".{path.name}")
    staged.unlink(missing_ok=True)
    with open(staged, "x", encoding="utf-8") as stream:  # x: never through a link to elsewhere
        stream.write(strict_json.dumps(identity._asdict()))
    staged.replace(path)


def _printable(name: str) -> str:
    """A name without what is no text: the bytes of a file's name need not be."""
    return name.encode("utf-8", "replace").decode("utf-8")
