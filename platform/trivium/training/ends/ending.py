"""The trace of a run that did not finish: result.json with its state, a report that shows how far it came, log.txt."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from trivium.boundary.credentials import masked
from trivium.checkpoints.storage import Bucket, checkpoint_names
from trivium.report.writing import write_report
from trivium.run_folder import folder
from trivium.run_folder.lock import Held
from trivium.run_folder.log import RunLog
from trivium.run_folder.task import Task
from trivium.tracking.tracker import read_rows
from trivium.training.ends import failure
from trivium.training.loop import Interrupted

log = logging.getLogger("trivium")


def write(task: Task, held: Held, error: BaseException, run_log: RunLog) -> None:
    """Leave a trace of how a run ended, as far as the disk lets us: what ended it is raised all the same."""
    happened = failure.of(error)
    stopped = isinstance(error, Interrupted | KeyboardInterrupt)
    run_log.line(str(error) if stopped else f"failed\n{happened.trace}", last=True)
    try:
        held.keep()  # else it is another run's folder
        if task.bucket:
            with contextlib.suppress(OSError, ValueError):
                Bucket(task.bucket).pull(task.dir)  # rank 0 may have been on another node
        folder.write_end(task.dir, masked(_content(task, error, happened, stopped=stopped)))
        write_report(task.dir, trusted=task.trusted, place=task.bucket)
        if task.bucket:
            Bucket(task.bucket).push(task.dir)
    except Exception as another:
        log.warning("how the run ended could not be written: %s: %s", type(another).__name__, another)


def _content(task: Task, error: BaseException, happened: failure.Failure, *, stopped: bool) -> dict[str, Any]:
    """As JSON: of a finished run's keys those that there are, and what ended it."""
    ended = {"state": "stopped", "reason": str(error) or "Ctrl-C"}
    if not stopped:
        reason = happened.error.partition("\n")[0]
        ended = {"state": "failed", "reason": reason, "error": happened.error, "place": happened.place}
    return {
        "dir": str(task.dir),
        "name": task.config["name"],
        **ended,
        **_progress_by_rows(task),
        **happened.progress,
        "checkpoint": newest_checkpoint(task),
    }


def _progress_by_rows(task: Task) -> dict[str, Any]:
    """How far the run was at its last row; of one that ended between two rows, the loop knows better."""
    rows = read_rows(task.dir / "metrics.jsonl")
    if not rows:
        return {"updates": 0, "step": 0, "metrics": {}}
    metrics = {k: v for row in rows for k, v in row.items() if "/" in k}
    return {
        "updates": rows[-1].get("updates"),
        "step": rows[-1].get("step"),
        "elapsed_s": metrics.get("time/elapsed_s"),
        "metrics": metrics,
    }


def newest_checkpoint(task: Task) -> str | None:
    """Its name; None if there is none, or it can't be said."""
    with contextlib.suppress(OSError, ValueError):
        names = checkpoint_names(task.checkpoints_place)
        return names[-1] if names else None
    return None
