"""The tracker of a run, with all that its config asks for: W&B, TensorBoard, the copy in a bucket."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trivium.boundary import credentials, strict_json, untrusted
from trivium.checkpoints.kept_files import KeptFiles
from trivium.checkpoints.storage import Bucket
from trivium.config.errors import Config
from trivium.learner import Run
from trivium.run_folder import lock
from trivium.run_folder.task import Task
from trivium.tracking.progress import Status
from trivium.tracking.tracker import RunTracker, Sink, TensorBoard

log = logging.getLogger("trivium")

DESCRIBED = ("entity", "group", "job_type", "tags", "notes")  # of `tracking`, what `wandb.init` is told


def run_tracker(
    task: Task,
    run: Run,
    held: lock.Held,
    show: Callable[[Status], None],
    keep: Callable[[Config], None],
    *,
    resumed_step: int | None,
) -> RunTracker:
    """
    Args:
        held: the lock of the run folder, which must stay this run's.
        show: lets the user see a status.
        keep: see `trivium.training.worker.work`.
        resumed_step: where the run goes on; None: it begins.
    """
    tracking, kept = task.config["tracking"], False
    looked_after = KeptFiles(task.dir, ("config.yaml", "environment.json"))

    def look() -> None:
        held.keep()
        looked_after.look()

    def config() -> Config:
        """The run's, with what `auto` has come to since it was composed."""
        return {**task.config, "threads": torch.get_num_threads()}

    def open_sinks() -> list[Sink]:
        sinks: list[Sink] = []
        if tracking["wandb"] and os.environ.get("WANDB_MODE") != "disabled":
            from trivium.tracking import wandb_identity
            from trivium.tracking.wandb_sink import WandbSink

            project = tracking["project"]
            known = wandb_identity.identity(task.dir, name=f"{task.config['name']}/{task.dir.name}")
            wandb_identity.say_overridden(known, project=project)
            described = _wandb_config(config(), task.dir)
            sinks.append(
                WandbSink(
                    task.dir,
                    run_id=known.id,
                    name=known.name,
                    project=project,
                    config=described,
                    described={key: tracking[key] for key in DESCRIBED if tracking.get(key)},
                    model=model,
                )
            )
        if tracking["tensorboard"]:
            sinks.append(TensorBoard(task.dir, resumed_step=resumed_step))
        return sinks

    def model() -> tuple[Path, dict[str, Any]] | None:
        """The best checkpoint, and where it comes from."""
        place = task.dir / "checkpoints"
        found = next((place / name for name in ("best", "last") if (place / name).is_dir()), None)
        if not tracking.get("artifacts") or found is None:
            return None
        return found.resolve(), {"checkpoint": found.resolve().name, **_origin(task)}

    def checkpointed() -> None:
        nonlocal kept
        if not kept and task.config["threads"] == "auto":  # not before: a run that begins anew must choose anew
            keep(config())
            looked_after.read()
        kept = True
        if task.bucket:
            try:
                Bucket(task.bucket).push(task.dir)
            except OSError as error:  # the checkpoint itself is there; the next push brings the rest
                log.warning("the run folder could not be copied to %s: %s", credentials.mask(task.bucket), error)

    return RunTracker(
        task.dir, open_sinks=open_sinks, show=show, device=run.device, on_checkpoint=checkpointed, look=look
    )


def _origin(task: Task) -> dict[str, Any]:
    """What a model was made from: its experiment, the run that it began with, and a fingerprint of its data."""
    path = task.dir / "signature.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    begun = next((group["begin_from"] for group in task.config.values() if _begins(group)), None)
    return {"name": task.config["name"], "seed": task.config["seed"], "parent": begun, "signature_sha256": digest}


def _begins(group: Any) -> bool:
    return isinstance(group, dict) and bool(group.get("begin_from"))


def _wandb_config(config: Config, dir: Path) -> dict[str, Any]:
    path = dir / "environment.json"
    described = untrusted.read_json(path) if path.exists() else {}
    finite = strict_json.finite(config, as_text=True)
    masked: dict[str, Any] = credentials.masked({**finite, "environment": described})
    return masked
