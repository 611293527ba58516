"""Where checkpoints stand: a folder (of one machine, or shared by the nodes of a cluster), or a bucket.

Both keep one promise: a checkpoint is there whole or not at all. A folder is written under a temporary name, flushed to
the disk and renamed; in a bucket, which cannot rename, the manifest is written last, and without one there is nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

MANIFEST = "manifest.json"


class Storage(Protocol):
    """A place for named, immutable checkpoints of a few files each."""

    def write(self, name: str, file: str, writer: Callable[[BinaryIO], object]) -> None:
        """Let `writer` write one file of the checkpoint `name`, which is not there before `commit`."""

    def commit(self, name: str, manifest: bytes) -> None:
        """Make the checkpoint appear, with its manifest, replacing one of the same name."""

    def discard(self, name: str) -> None:
        """Remove what was written of a checkpoint and not committed."""

    def names(self) -> list[str]:
        """The checkpoints that are there, sorted."""

    def read(self, name: str, file: str) -> bytes:
        """One file of a checkpoint. Raises OSError if it can't be read."""

    def set_aside(self, name: str) -> None:
        """Take a damaged checkpoint out of `names`, keeping its files for inspection. Raises OSError."""

    def clear_up(self) -> None:
        """Finish or remove what a killed writer left half-done; only while nobody writes."""

    def delete(self, name: str) -> None:
        """Remove a checkpoint; none of that name is no error."""

    def point(self, alias: str, name: str) -> None:
        """Let a reader find a checkpoint as `alias` (best, last), where links exist."""

    def pointed(self, alias: str) -> str | None:
        """The checkpoint that `alias` leads to, there or not; None: not known."""


def is_bucket(place: str | Path) -> bool:
    """Whether a place is a bucket's URL rather than a folder's path."""
    return "://" in str(place)


def join(place: str | Path, *names: str) -> str:
    """A place below a place: the same for folders and buckets, whose URL may end in `?options`."""
    base, mark, options = str(place).partition("?") if is_bucket(place) else (str(place), "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + options


def open_storage(place: str | Path) -> Storage:
    """The storage at a folder's path or a bucket's URL (`s3://bucket/runs`, `gs://...`)."""
    return Bucket(str(place)) if is_bucket(place) else Folder(Path(place))


class Folder:
    """Checkpoints as folders of one folder. Workers on several nodes see the same one (NFS or the like)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, file: str, writer: Callable[[BinaryIO], object]) -> None:
        staged = self._staged(name)
        staged.mkdir(parents=True, exist_ok=True)
        with open(staged / file, "wb") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())

    def commit(self, name: str, manifest: bytes) -> None:
        self.write(name, MANIFEST, lambda stream: stream.write(manifest))
        staged, final, replaced = self._staged(name), self.path / name, self.path / f".replaced-{name}"
        flush_folder(staged)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        try:
            staged.rename(final)
        except OSError:
            if replaced.exists():
                replaced.rename(final)
            raise
        flush_folder(self.path)
        shutil.rmtree(replaced, ignore_errors=True)

    def discard(self, name: str) -> None:
        shutil.rmtree(self._staged(name), ignore_errors=True)

    def names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(p.name for p in self.path.iterdir() if p.is_dir() and p.name.startswith("step-"))

    def read(self, name: str, file: str) -> bytes:
        return (self.path / name / file).read_bytes()

    def set_aside(self, name: str) -> None:
        aside = self.path / f"damaged-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.path / name).rename(aside)

    def clear_up(self) -> None:
        for replaced in self.path.glob(".replaced-step-*"):  # killed between the two renames of a commit
            original = self.path / replaced.name.removeprefix(".replaced-")
            if original.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                replaced.rename(original)
        for staged in self.path.glob(".staged-step-*"):
            shutil.rmtree(staged, ignore_errors=True)

    def delete(self, name: str) -> None:
        self.discard(name)
        shutil.rmtree(self.path / name, ignore_errors=True)

    def point(self, alias: str, name: str) -> None:
        link, fresh = self.path / alias, self.path / f".{alias}"
        if link.is_symlink() and os.readlink(link) == name:
            return
        with contextlib.suppress(OSError):  # a convenience: some file systems have no links
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(name)
            fresh.replace(link)

    def pointed(self, alias: str) -> str | None:
        link = self.path / alias
        return os.readlink(link) if link.is_symlink() else None

    def _staged(self, name: str) -> Path:
        return self.path / f".staged-{name}"


class Bucket:
    """Checkpoints as objects of a bucket, by Arrow's file systems (S3, Google Cloud Storage, HDFS, ...)."""

    def __init__(self, url: str) -> None:
        from pyarrow import fs

        self.url = url
        self.files, self.path = fs.FileSystem.from_uri(url)
        self._fs = fs

    def write(self, name: str, file: str, writer: Callable[[BinaryIO], object]) -> None:
        self._put(f"{name}/{file}", writer)

    def commit(self, name: str, manifest: bytes) -> None:
        self.write(name, MANIFEST, lambda stream: stream.write(manifest))

    def discard(self, name: str) -> None:
        if name not in self.names():
            self.delete(name)

    def names(self) -> list[str]:
        return sorted(
            {
                p.rsplit("/", 2)[-2]
                for p in (info.path for info in self._files())
                if p.endswith("/" + MANIFEST) and p.rsplit("/", 2)[-2].startswith("step-")
            }
        )

    def read(self, name: str, file: str) -> bytes:
        with self.files.open_input_stream(f"{self.path}/{name}/{file}") as stream:
            content: bytes = stream.read()
        return content

    def set_aside(self, name: str) -> None:
        self.files.move(f"{self.path}/{name}/{MANIFEST}", f"{self.path}/{name}/damaged-{MANIFEST}")

    def clear_up(self) -> None:
        files = [info.path.removeprefix(f"{self.path}/").split("/") for info in self._files()]
        begun = {parts[0] for parts in files if len(parts) == 2 and parts[0].startswith("step-")}
        kept = {parts[0] for parts in files if parts[-1] in (MANIFEST, f"damaged-{MANIFEST}")}
        for name in begun - kept:
            self.clear(name)

    def delete(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.files.delete_file(f"{self.path}/{name}/{MANIFEST}")  # first: then it is no checkpoint any more
            self.files.delete_dir(f"{self.path}/{name}")

    def point(self, alias: str, name: str) -> None:
        pass

    def pointed(self, alias: str) -> str | None:
        return None

    def push(self, folder: Path) -> None:
        """Copy a run folder's own files into the bucket: not its checkpoints, which are written here directly."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            name = file.relative_to(folder)
            if _own(name):
                self._put(str(name), functools.partial(_copy, file))

    def remove(self, name: str) -> None:
        """Remove one of a run's own files, if it is there."""
        if self.files.get_file_info(f"{self.path}/{name}").type == self._fs.FileType.File:
            self.files.delete_file(f"{self.path}/{name}")

    def clear(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""
        with contextlib.suppress(OSError):
            self.files.delete_dir(f"{self.path}/{name}")

    def pull(self, folder: Path, *, anew: bool = False) -> None:
        """Bring a run folder's own files here.

        Args:
            anew: all of them; otherwise those that are not here, or shorter here than there.
        """
        for info in self._files():
            name = Path(info.path).relative_to(self.path)
            here = folder / name
            if _own(name) and (anew or not here.exists() or here.stat().st_size < info.size):
                here.parent.mkdir(parents=True, exist_ok=True)
                with self.files.open_input_stream(info.path) as stream:
                    here.write_bytes(stream.read())

    def _put(self, name: str, writer: Callable[[BinaryIO], object]) -> None:
        path = f"{self.path}/{name}"
        if isinstance(self.files, self._fs.LocalFileSystem):
            self.files.create_dir(path.rpartition("/")[0])
        with self.files.open_output_stream(path) as stream:
            writer(stream)

    def _files(self) -> list[Any]:
        selector: Any = self._fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        return [info for info in self.files.get_file_info(selector) if info.type == self._fs.FileType.File]


def _own(name: Path) -> bool:
    return name.parts[0] != "checkpoints" and not name.name.startswith(".")


def _copy(file: Path, stream: BinaryIO) -> None:
    stream.write(file.read_bytes())


def flush_folder(path: Path) -> None:
    """Force a folder's entries (new names, renames) to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
