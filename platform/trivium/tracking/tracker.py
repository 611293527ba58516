"""Where rows and pictures go: metrics.jsonl always; W&B and TensorBoard when they are on.

metrics.jsonl is the truth: every row, whole, in order, each once. A checkpoint knows how long the file was, so that a
resumed run cuts it back and writes the same rows again. The others are fed from the same rows and never hold up a step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from trivium.boundary import strict_json, untrusted
from trivium.checkpoints.kept_files import GrowingFile
from trivium.learner import VIDEO_FPS, Picture
from trivium.tracking.film import FILMED, Film
from trivium.tracking.progress import Status

log = logging.getLogger("trivium")

LOOK_S = 1.0  # how often the run's files are looked after while rows are written
Row = dict[str, Any]
"""`step` and `updates` (ints), perhaps `epochs`, and metrics: floats by name. Read back, None is an infinite
one; one that was NaN is not there."""


class Sink(Protocol):
    """A tracker beside metrics.jsonl."""

    def log(self, row: Row) -> None: ...

    def figures(self, step: int, paths: Mapping[str, Path]) -> None: ...

    def finish(self, *, failed: bool) -> None: ...


class Tracker:
    """Tracks nothing: what ranks other than 0 have, and what the tracker of rank 0 extends."""

    def log(self, row: Row) -> None:
        """Append a row."""

    def figures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Keep pictures: the newest of each name in the run folder, all of them on W&B and TensorBoard.

        Comes before the row of the same step.
        """

    def show(self, status: Status) -> None:
        """Let the user see how far the run is."""

    def system(self) -> Row:
        """`system/...` metrics of this process, units in the names."""
        return {}

    def checkpointed(self) -> None:
        """A checkpoint has been written."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same rows."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""

    @property
    def lost(self) -> list[str]:
        """What of the run's files could not be kept, in sentences."""
        return []

    def finish(self, *, failed: bool = False) -> None:
        """Close everything."""


class RunTracker(Tracker):
    """Tracks one run, on rank 0.

    Args:
        dir: the run folder.
        open_sinks: opens the trackers beside metrics.jsonl, once the file stands where the run starts or resumes.
        show: shows a status to the user.
        device: whose memory `system/` tells.
        on_checkpoint: called after each checkpoint (a run in a bucket copies its files there).
        look: called now and then, and before a checkpoint, to look after what else the folder must hold.
    """

    def __init__(
        self,
        dir: Path,
        *,
        open_sinks: Callable[[], Iterable[Sink]] = tuple,
        show: Callable[[Status], None] = lambda status: None,
        device: torch.device | None = None,
        on_checkpoint: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.dir = dir
        self.path = dir / "metrics.jsonl"
        self._open_sinks = open_sinks
        self._sinks: list[Sink] | None = None
        self._show = show
        self._device = device
        self._on_checkpoint = on_checkpoint
        self._look_after_others = look
        self._looked = -LOOK_S
        self._process = psutil.Process()
        self._file: GrowingFile | None = None
        self._lost: list[str] = []
        self._film = Film(dir / "figures")
        self._figures_at: int | None = None  # the step of the film's newest frame

    def log(self, row: Row) -> None:
        self._start()
        row = strict_json.finite({k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))})
        assert self._file is not None
        if time.monotonic() - self._looked > LOOK_S:
            self._look()
        try:
            self._file.write(strict_json.dumps(row).encode() + b"\n")
        except OSError as error:  # a run without its rows is not the run that was asked for
            lost = f"{error.strerror}: the run stops here; trivium resume continues from its last checkpoint"
            raise OSError(error.errno, lost, str(self.path)) from error
        self._tell(lambda sink: sink.log(row))

    def figures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        self._start()
        try:
            paths = {name: save_picture(self.dir / "figures" / name, picture) for name, picture in pictures.items()}
        except OSError as error:
            log.warning("figures can't be written: %s", error)
            return
        if paths:
            self._tell(lambda sink: sink.figures(step, paths))
        if FILMED in paths and paths[FILMED].suffix == ".png":
            self._figures_at = step
            with _figures_may_fail():
                self._film.add(step, paths[FILMED])

    def show(self, status: Status) -> None:
        self._show(status)

    def system(self) -> Row:
        row: Row = {"system/memory_mb": self._process.memory_info().rss / 1e6}
        if self._device is not None and self._device.type == "cuda":
            row["system/gpu_memory_mb"] = torch.cuda.max_memory_allocated(self._device) / 1e6
        return row

    def checkpointed(self) -> None:
        self._on_checkpoint()

    def state_dict(self) -> dict[str, Any]:
        self._start()
        assert self._file is not None
        self._look()
        self._file.flush_to_disk()  # rows before a checkpoint survive whatever the checkpoint survives
        return {"metrics_bytes": self._file.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._start(state["metrics_bytes"])

    @property
    def lost(self) -> list[str]:
        return [*self._lost, *(self._file.lost if self._file else ())]

    def finish(self, *, failed: bool = False) -> None:
        if self._figures_at is not None:
            step = self._figures_at
            with _figures_may_fail():
                if film := self._film.write():
                    self._tell(lambda sink: sink.figures(step, {film.stem: film}))
        self._tell(lambda sink: sink.finish(failed=failed))
        self._sinks = []
        if self._file:
            try:
                with contextlib.suppress(*(Exception,) if failed else ()):  # what it has failed of counts
                    self._look()
            finally:
                self._lost += self._file.lost
                self._file.close()
                self._file = None

    def _look(self) -> None:
        """Look after what the folder must hold, which somebody may have removed."""
        assert self._file is not None
        self._looked = time.monotonic()
        self._look_after_others()
        self._file.look()

    def _start(self, length: int = 0) -> None:
        """Cut the file back to where the run starts, then open the sinks, which may read it."""
        if self._file is None:
            self._file = GrowingFile(self.path)
            there = self._file.size
            if there < length:
                log.warning("%s is %d bytes short of its checkpoint: rows are missing", self.path, length - there)
                rows = untrusted.read_bytes(self.path, untrusted.MAX_ROWS_BYTES)
                length = rows.rfind(b"\n") + 1  # no row begins in the middle of another
            self._file.truncate(length)
            try:
                self._sinks = list(self._open_sinks())
            except Exception as error:
                self._sinks = []
                _warn_of(error)

    def _tell(self, what: Callable[[Sink], object]) -> None:
        """Tell all sinks; one that fails is told no more, and the run goes on."""
        for sink in list(self._sinks or ()):
            try:
                what(sink)
            except Exception as error:
                assert self._sinks is not None
                self._sinks.remove(sink)
                _warn_of(error)


class TensorBoard:
    """TensorBoard's event files, in the run folder's `tensorboard`."""

    def __init__(self, dir: Path, *, resumed_step: int | None) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(dir / "tensorboard"), purge_step=resumed_step and resumed_step + 1, flush_secs=2
        )

    def log(self, row: Row) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        # Not add_scalar, which changes names and so takes "a b" and "a_b" for one metric.
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if "/" in name and value is not None
        ]
        self._writer.file_writer.add_summary(Summary(value=values), row["step"])

    def figures(self, step: int, paths: Mapping[str, Path]) -> None:
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        for name, path in paths.items():
            with Image.open(path) as image:  # the file as it is: TensorBoard shows a GIF that moves
                shown = Summary.Image(
                    height=image.height, width=image.width, colorspace=3, encoded_image_string=path.read_bytes()
                )
            summary = Summary(value=[Summary.Value(tag=name, image=shown)])
            self._writer.file_writer.add_summary(summary, step)

    def finish(self, *, failed: bool) -> None:
        self._writer.close()


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl up to the first line that is none, as a last one that was cut short.

    Raises:
        untrusted.Refused, OSError: see `untrusted.read_bytes`.
    """
    rows: list[Row] = []
    content = untrusted.read_bytes(path, untrusted.MAX_ROWS_BYTES) if path.exists() else b""
    for line in content.decode("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or any(isinstance(value, dict | list) for value in row.values()):
            break
        rows.append(row)
    return rows


def save_picture(path: Path, picture: Picture) -> Path:
    """Write `<path>.png`, or `<path>.gif` (at `VIDEO_FPS`) if there is a time dimension; whole or not at all."""
    from PIL import Image

    from trivium.tracking.video import write_video

    if picture.ndim == 4:
        return write_video(path.with_suffix(".gif"), picture, VIDEO_FPS)
    path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}")
    Image.fromarray(picture).save(staged, format="png")
    return staged.replace(path)


@contextlib.contextmanager
def _figures_may_fail() -> Iterator[None]:
    """A run is worth more than its film."""
    try:
        yield
    except OSError as error:
        log.warning("figures can't be written: %s", error)


def _warn_of(error: Exception) -> None:
    log.warning("tracking failed (%s: %s); the run goes on, metrics.jsonl has every row", type(error).__name__, error)
