"""What a run folder says of how its run goes: whether it finished, failed, was stopped or killed, or is running.

result.json is written when a run ends by itself, and taken away when it goes on. So a run without one is running, if a
process holds its lock, and else was killed. Imports no torch.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

from trivium import lock, untrusted

RESULT = "result.json"
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
