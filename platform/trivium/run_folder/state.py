"""What a run folder says of how its run goes: whether it finished, failed, was stopped or killed, or is running.

result.json is written when a run ends by itself, and taken away when it goes on. So a run without one is running, if a
process holds its lock, and else was killed. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from trivium.boundary import untrusted
from trivium.checkpoints.storage import checkpoint_names
from trivium.run_folder import lock

RESULT = "result.json"
DEPTH = 4  # of folders in which runs are looked for: runs/<experiment>/<run>, and a name may hold a slash or two
TAIL_BYTES = 64_000  # of metrics.jsonl, in which the last row is
State = Literal["finished", "failed", "stopped", "running", "killed"]


def state_of(dir: Path) -> State:
    """How a run goes.

    `finished`: its budget is spent, or its target reached. `failed`: by an error, which result.json names. `stopped`:
    by a signal. `running`: a process, of this machine or one that shares the folder, trains in it. `killed`: none does,
    and it left no result.
    """
    end = read_end(dir)
    state = end.get("state", "finished") if end else None  # one written before there were states is of a finished run
    if state in ("finished", "failed", "stopped"):
        return state  # type: ignore[no-any-return]
    return "running" if lock.is_held(dir) else "killed"


def read_end(dir: Path) -> dict[str, Any]:
    """What result.json says of how a run ended; empty if there is none that can be read."""
    with contextlib.suppress(OSError, untrusted.Refused):
        content = untrusted.read_json(dir / RESULT)
        if isinstance(content, dict):
            return content
    return {}


def runs_below(place: Path) -> list[Path]:
    """The run folders in a folder, sorted; the folder itself, if it is one."""
    return sorted(_runs_below(place, DEPTH))


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.yaml").is_file():
        yield folder
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _runs_below(folder / entry.name, depth - 1)


def describe(dir: Path) -> dict[str, Any]:
    """How a run goes, as JSON: its `state`, how far it is (`updates`, `step`, `progress` in words), its newest
    `checkpoint`, and of one that failed the `error` and its `place`; null where there is nothing to say."""
    end, row = read_end(dir), _last_row(dir / "metrics.jsonl")
    config: Any = {}
    with contextlib.suppress(OSError, untrusted.Refused):
        config = untrusted.read_yaml(dir / "config.yaml")
    names = checkpoint_names(dir / "checkpoints")
    return {
        "dir": str(dir),
        "state": state_of(dir),
        "updates": end.get("updates", row.get("updates")),
        "step": end.get("step", row.get("step")),
        "progress": progress(config.get("budget") if isinstance(config, dict) else None, row, end),
        "checkpoint": names[-1] if names else None,
        "error": end.get("error"),
        "place": end.get("place"),
    }


def progress(budget: Any, row: Mapping[str, Any], end: Mapping[str, Any]) -> str | None:
    """How much of the budget is spent, of the unit of which most is.

    Args:
        budget: the config's; of any shape.
        row: the last of the run, {} if there is none.
        end: see `read_end`.

    Example:
        {"epochs": 4, "updates": 1000}, {"step": 640, "updates": 10, "epochs": 1.0}, {} -> "25% of 4 epochs"
    """
    counters, elapsed_s = end.get("counters"), end.get("elapsed_s", row.get("time/elapsed_s"))
    step = row.get("step")
    reached = {"samples": step, "env_steps": step, "epochs": row.get("epochs"), "updates": row.get("updates")}
    reached |= counters if isinstance(counters, dict) else {}
    reached |= {"updates": end.get("updates", row.get("updates"))}
    reached |= {"minutes": elapsed_s / 60 if untrusted.finite(elapsed_s) else None}
    spent = []
    for unit, limit in budget.items() if isinstance(budget, dict) else ():
        value = reached.get(unit)
        if untrusted.finite(limit) and limit > 0 and untrusted.finite(value):
            shown = f"{limit:,.0f}" if limit == int(limit) else f"{limit:,g}"
            words = unit.replace("_", " ")
            spent.append((value / limit, f"{shown} {words.removesuffix('s') if limit == 1 else words}"))
    if not spent:
        return None
    fraction, limit = max(spent)
    return f"{min(max(fraction, 0.0), 1.0):.0%} of {limit}"


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a metrics.jsonl; empty if there is none."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                file.seek(max(0, status.st_size - TAIL_BYTES))
                for line in reversed(file.read(TAIL_BYTES).split(b"\n")):
                    with contextlib.suppress(untrusted.Refused):
                        row = untrusted.parse_json(line, path.name)
                        if isinstance(row, dict):
                            return row
    return {}
