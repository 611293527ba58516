"""Checkpoints: saved whole or not at all, verified when loaded, and never a reason to execute anything.

A checkpoint is one file of state per rank and a manifest with the size and SHA-256 of each. The newest one whose files
all ranks can verify is loaded, with a warning that names both when newer ones are damaged.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import psutil
import torch

from trivium.boundary import untrusted
from trivium.boundary.untrusted import Refused, count
from trivium.checkpoints.content import loads
from trivium.checkpoints.storage import MANIFEST, Storage, checkpoint_name, is_checkpoint_name, open_storage
from trivium.learner import Run

FORMAT = 1
OTHER_WORLD = "was written by"
UNREADABLE = "can't be read"
MANIFEST_BYTES = 1_000_000
NOT_THERE = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOENT, errno.ENOTDIR, errno.ENXIO)
log = logging.getLogger("trivium")


class CheckpointError(Exception):
    """A checkpoint could not be written or none could be read; the message says which and why, in one line."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        place: the run's `checkpoints` folder or bucket URL, the same on every rank.
        run: for its rank, world size and the collectives by which ranks agree.
        keep: how many of the newest are kept; the best is kept besides.
    """

    def __init__(self, place: str | Path, run: Run, *, keep: int = 2) -> None:
        self.place = str(place)
        self.storage: Storage = open_storage(place)
        self.run = run
        self.keep = keep
        self._checked = False  # that what was written can be read back without running code

    def save(self, state: Mapping[str, Any], *, step: int, updates: int, best_step: int | None = None) -> str:
        """Save this rank's state; all ranks call it with the same step.

        Args:
            state: nested dicts and lists of tensors, numbers and strings.
            step: the value of the step axis; names the checkpoint.
            updates: how many updates it stands after.
            best_step: the step of the best checkpoint so far, kept whatever its age.

        Returns:
            The checkpoint's name, `step-<12 digits>`.

        Raises:
            CheckpointError: it could not be written (disk full, folder read-only); what was there before is intact.
        """
        name = checkpoint_name(step)
        # One that is written over keeps its files until the new manifest stands: a bucket can't rename.
        first, second = self._file_names()
        file = second if first in self._files(name) else first
        problem = ""
        entry: dict[str, Any] = {}
        try:
            entry = self._write(name, file, dict(state))
        except (OSError, RuntimeError) as error:  # RuntimeError: how torch.save reports a failing disk
            problem = _reason(error)
        entries = self._gather({"file": file, "problem": problem, **entry})
        problem = problem or next((e["problem"] for e in entries if e["problem"]), "")
        if not problem and self.run.rank == 0:
            manifest = {
                "format": FORMAT,
                "step": step,
                "updates": updates,
                "world_size": self.run.world_size,
                "best": None if best_step is None else checkpoint_name(best_step),
                "files": {e["file"]: {"bytes": e["bytes"], "sha256": e["sha256"]} for e in entries},
            }
            try:
                self.storage.commit(name, json.dumps(manifest, indent=1).encode())
            except OSError as error:
                problem = _reason(error)
            else:
                self.tidy(best_step)
        problem = self._gather({"problem": problem})[0]["problem"] or problem
        if problem:
            if self.run.rank == 0:
                self.storage.discard(name)
            last = self.names()
            raise CheckpointError(
                f"cannot save a checkpoint at step {step} in {self.place}: {problem}; "
                + (f"the last good one is {last[-1]}" if last else "there is none yet")
            )
        return name

    def load(
        self,
        which: str = "last",
        *,
        into: Callable[[dict[str, Any]], object] = lambda state: None,
        any_world_size: bool = False,
        mend: bool = False,
    ) -> dict[str, Any] | None:
        """This rank's state of the newest checkpoint that every rank can verify and use.

        Args:
            which: `last`, `best` (falls back to the last), or a checkpoint's name.
            into: takes the state over. A checkpoint that it can't use counts as damaged; what it has taken of that one
                is taken again of the next.
            any_world_size: also take one that another number of workers wrote: good for weights, not for resuming.
            mend: for who goes on writing here: clear up what a kill left half-done, and once a sound checkpoint is
                found, set the damaged ones after it aside. Otherwise nothing is changed.

        Returns:
            What `save` was given, and under `"checkpoint"` its name; None if there is none at all.

        Raises:
            CheckpointError: there are checkpoints and none is sound, one can't be read for a reason that may pass, or
                it is of another world size.
        """
        if mend and self.run.rank == 0:
            self.storage.clear_up()
        names, best = self._agreed((self.names(), self.best() if which == "best" else None))
        if which == "best":
            names = [*(name for name in names if name != best), best] if best else names
        elif which != "last":
            if which not in names:
                raise CheckpointError(f"there is no checkpoint {which} in {self.place}; valid: {', '.join(names)}")
            names = [which]
        damaged: dict[str, str] = {}
        for name in reversed(names):
            state, problem = self._read(name, any_world_size)
            if state is not None:
                state["checkpoint"] = name
                problem = _taken(into, state)
            problems = [e["problem"] for e in self._gather({"problem": problem}) if e["problem"]]
            final = [p for p in problems if p.startswith((OTHER_WORLD, UNREADABLE))]
            if final:
                raise CheckpointError(f"checkpoint {name} {final[0]}")
            if not problems:
                assert state is not None
                if damaged and self.run.rank == 0:
                    log.warning("%s; using %s", "; ".join(damaged.values()), name)
                    for other in damaged if mend else ():
                        self._set_aside(other)
                return state
            damaged[name] = f"checkpoint {name} is damaged ({problems[0]})"
        if damaged:
            raise CheckpointError(f"no sound checkpoint in {self.place}: {'; '.join(damaged.values())}")
        if lost := self._agreed(self.storage.pointed("last")):
            raise CheckpointError(f"{self.place} has lost its checkpoints, the last of which was {lost}")
        return None

    def _set_aside(self, name: str) -> None:
        try:
            self.storage.set_aside(name)
        except OSError as error:
            log.warning("the damaged checkpoint %s can't be set aside: %s", name, _reason(error))

    def tidy(self, best_step: int | None) -> None:
        """Remove the checkpoints that are not kept and let `last` and `best` lead to theirs; rank 0 calls it."""
        names = self.names()
        best = None if best_step is None else checkpoint_name(best_step)
        try:
            for name in names[: -self.keep]:
                if name != best:
                    self.storage.delete(name)
        except OSError as error:  # those that are kept are safe
            log.warning("old checkpoints in %s can't be removed: %s", self.place, _reason(error))
        if names:  # somebody may have removed them all
            self.storage.point("last", names[-1])
        if best in names:
            self.storage.point("best", best)

    def has(self, step: int) -> bool:
        """Whether the checkpoint of a step is there, as rank 0 sees it; all ranks call it."""
        return bool(self._agreed(checkpoint_name(step) in self.names()))

    def names(self) -> list[str]:
        """The names of the checkpoints that are there, oldest first."""
        return self.storage.names()

    def best(self) -> str | None:
        """The name of the best checkpoint, by the newest sound manifest that knows one."""
        names = self.names()
        for name in reversed(names):
            try:
                best = self._manifest(name)["best"]
            except (OSError, Refused):
                continue
            return best if best in names else None
        return None

    def digest(self, name: str) -> str:
        """The SHA-256 of rank 0's file of a checkpoint, 64 digits; empty if its manifest can't be read."""
        files = self._files(name)
        return str(next((entry["sha256"] for file, entry in sorted(files.items()) if file.startswith("rank-0")), ""))

    # ------------------------------------------------------------------------------------------- parts

    def _file_names(self) -> tuple[str, str]:
        """What this rank's file is called, and what where a checkpoint of the same name has that already."""
        return f"rank-{self.run.rank}.pt", f"rank-{self.run.rank}-again.pt"

    def _files(self, name: str) -> Mapping[str, Any]:
        """The files of a checkpoint, by its manifest; none if there is none that can be read."""
        try:
            files: dict[str, Any] = self._manifest(name)["files"]
        except (OSError, Refused):
            return {}
        return files

    def _manifest(self, name: str) -> dict[str, Any]:
        """
        Raises:
            Refused: it is not one that `save` writes. OSError: it can't be read.
        """
        manifest = untrusted.parse_json(self.storage.read(name, MANIFEST, MANIFEST_BYTES), MANIFEST)
        untrusted.require(manifest, _MANIFEST, MANIFEST)
        checked: dict[str, Any] = manifest
        return checked

    def _write(self, name: str, file: str, state: dict[str, Any]) -> dict[str, Any]:
        """Write one rank's file; its size and SHA-256, taken of the bytes as they were meant."""
        if not self._checked:
            _refuse_unloadable(state)
            self._checked = True
        hashing = _Hashing()

        def write(stream: BinaryIO) -> None:
            hashing.stream = stream
            try:
                torch.save(state, cast("IO[bytes]", hashing))
            except RuntimeError as error:  # torch hides why a write failed
                raise hashing.failure or error from error

        self.storage.write(name, file, write)
        return {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()}

    def _read(self, name: str, any_world_size: bool) -> tuple[dict[str, Any] | None, str]:
        """This rank's verified state, or what is wrong with it."""
        first, second = self._file_names()
        file = MANIFEST
        try:
            manifest = self._manifest(name)
            workers = manifest["world_size"]
            if manifest["format"] != FORMAT:
                return None, f"{UNREADABLE}: it is of format {manifest['format']}, this Trivium reads {FORMAT}"
            if workers != self.run.world_size and not any_world_size:
                here = self.run.world_size
                return (
                    None,
                    f"{OTHER_WORLD} {workers} workers: launch.workers={workers} resumes it exactly, {here} can't",
                )
            file = second if second in manifest["files"] else first
            if file not in manifest["files"]:
                return None, f"{MANIFEST} lacks {file}"
            size, digest = manifest["files"][file]["bytes"], manifest["files"][file]["sha256"]
            if size > psutil.virtual_memory().total:
                return None, f"{file} has {size:,} bytes, more than this machine's memory"
            content = self.storage.read(name, file, size)
            if len(content) != size:
                return None, f"{file} has {len(content)} of {size} bytes"
            if hashlib.sha256(content).hexdigest() != digest:
                return None, f"{file} does not match its checksum"
        except Refused as error:
            return None, str(error)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None, _reason(error)
            return None, f"{UNREADABLE}: {_reason(error)}"  # no rights, no answer: the checkpoint itself may be sound
        try:
            state = loads(content)
            untrusted.require(state, dict, "the state")
        except Refused as error:
            return None, f"{file} can't be loaded without running code: {error}"
        return state, ""

    def _agreed(self, value: Any) -> Any:
        """Rank 0's value: what each reads of a bucket or a network disk need not be the same."""
        if self.run.world_size > 1:
            holder = [value]
            torch.distributed.broadcast_object_list(holder, src=0)
            value = holder[0]
        return value

    def _gather(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        if self.run.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.run.world_size
        torch.distributed.all_gather_object(values, value)
        return values


class _Hashing:
    """A writable stream that passes bytes on and takes their size and SHA-256 on the way."""

    def __init__(self) -> None:
        self.stream: BinaryIO | None = None
        self.size = 0
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        assert self.stream is not None
        self.digest.update(data)
        self.size += len(data)
        try:
            return self.stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        assert self.stream is not None
        self.stream.flush()


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of every global random generator, as data."""
    version, internal, gauss = random.getstate()
    name, keys, pos, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(pos), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Undo everything drawn since `rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    # Saved on a device of another kind, this one's generator stays as it was seeded.
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def _taken(into: Callable[[dict[str, Any]], object], state: dict[str, Any]) -> str:
    """Why a state could not be taken over; empty if it was. What may pass, as a lack of memory, is raised."""
    try:
        into(state)
    except (MemoryError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "ray":  # an actor has died
            raise
        kind = "" if isinstance(error, Refused) else f"{type(error).__name__}: "
        return f"{kind}{' '.join(str(error).split()):.300}"
    return ""


def _sha256(value: Any) -> bool:
    """64 hexadecimal digits"""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _workers(value: Any) -> bool:
    """a whole number >= 1"""
    return count(value) and value >= 1


def _files(value: Any) -> bool:
    """a group of files, each with bytes >= 0 and sha256"""
    entries = value.items() if isinstance(value, dict) else [(None, None)]
    return all(isinstance(e, dict) and count(e.get("bytes")) and _sha256(e.get("sha256")) for _, e in entries)


def _checkpoint(value: Any) -> bool:
    """the name of a checkpoint or null"""
    return value is None or is_checkpoint_name(value)


_MANIFEST = {"format": count, "world_size": _workers, "best": _checkpoint, "files": _files}


def _refuse_unloadable(state: dict[str, Any]) -> None:
    """A state that could not be loaded without running code is refused when it is first written, not when needed."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        loads(buffer.getvalue())
    except Refused as error:
        raise CheckpointError(
            f"state_dict() holds something that can't be loaded without running code: {error}"
        ) from error


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
