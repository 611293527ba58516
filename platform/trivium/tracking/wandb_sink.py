"""Weights & Biases, in a process of its own: a step never waits for it, and what fails in it fails alone."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trivium.boundary import strict_json
from trivium.tracking.tracker import Row, read_rows
from trivium.tracking.wandb_process import COPIES, FINISH_S

log = logging.getLogger("trivium")


class WandbSink:
    """One W&B run, tracked by `trivium.tracking.wandb_process`.

    Args:
        dir: the run folder; W&B's files go to `wandb/` in it.
        run_id: W&B's id of the run, the same for all resumes.
        name, project: as shown by W&B.
        config: logged as the run's config.
        described: more that `wandb.init` is told: entity, group, job_type, tags, notes.
        model: returns the folder of the weights to keep as an artifact when the run ends, and what to say of it; None
            for none.
    """

    def __init__(
        self,
        dir: Path,
        *,
        run_id: str,
        name: str,
        project: str,
        config: Mapping[str, Any],
        described: Mapping[str, Any] | None = None,
        model: Callable[[], tuple[Path, dict[str, Any]] | None] = lambda: None,
    ) -> None:
        self.dir, self._model = dir, model
        (dir / "wandb").mkdir(exist_ok=True)
        self._copies = Path(tempfile.mkdtemp(prefix=COPIES, dir=dir / "wandb"))
        self._num_copies = 0
        self._process = subprocess.Popen(
            # -P: a working directory, which may be a stranger's run folder, must not hide a module.
            [sys.executable, "-P", "-m", "trivium.tracking.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if os.path.isabs(path))},
            cwd=os.sep,  # W&B reads settings, even its server's address, from the working directory
            start_new_session=True,  # the terminal's Ctrl-C is not meant for it
        )
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        opening = {"id": run_id, "name": name, "project": project, "config": dict(config), **(described or {})}
        self._put({"dir": str(dir), "copies": self._copies.name, **opening})
        for row in read_rows(dir / "metrics.jsonl"):  # of these W&B may lack what a kill kept from it
            self._put({"row": row})
        self._writer = threading.Thread(target=self._write, name="wandb", daemon=True)
        self._writer.start()
        self._reader = threading.Thread(target=self._pass_on, name="wandb-warnings", daemon=True)
        self._reader.start()

    def log(self, row: Row) -> None:
        self._put({"row": row})

    def figures(self, step: int, paths: Mapping[str, Path]) -> None:
        copies = {}
        for name, path in paths.items():  # the one in figures/ will be replaced by the next
            self._num_copies += 1
            copies[name] = str(shutil.copyfile(path, self._copies / f"{self._num_copies}{path.suffix}"))
        self._put({"figures": copies, "step": step})

    def finish(self, *, failed: bool) -> None:
        if not failed and (model := self._model()):
            self._put({"artifact": str(model[0]), "metadata": model[1]})
        self._put({"finish": int(failed)})
        self._put(None)
        until = time.monotonic() + FINISH_S
        self._writer.join(FINISH_S)
        try:
            self._process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            log.warning("W&B did not finish within %g s; its files are in %s", FINISH_S, self.dir / "wandb")
        shutil.rmtree(self._copies, ignore_errors=True)
        self._reader.join(1.0)

    def _put(self, message: dict[str, Any] | None) -> None:
        self._queue.put(message)

    def _pass_on(self) -> None:
        """Warn of what the process says."""
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            for line in pipe:
                log.warning("%s", line.decode(errors="replace").rstrip())

    def _write(self) -> None:
        """Feed the pipe, which may be full while the process starts or uploads."""
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                while (message := self._queue.get()) is not None:
                    pipe.write(strict_json.dumps(message).encode() + b"\n")
                    pipe.flush()
        except OSError:
            log.warning("W&B's process has gone; the run goes on, metrics.jsonl has every row")
