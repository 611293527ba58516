"""Where checkpoints stand: a folder (of one machine, or shared by the nodes of a cluster), or a bucket.

Both keep one promise: a checkpoint is there whole or not at all. A folder is written under a temporary name, flushed to
the disk and renamed; in a bucket, which cannot rename, the manifest is written last, and without one there is nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from trivium.boundary import untrusted
from trivium.boundary.places import is_bucket
from trivium.boundary.untrusted import Refused

MANIFEST = "manifest.json"
MAX_FILE_BYTES = 4_000_000_000  # of a run's own files, which a bucket is asked for without knowing what it holds
_STEP = re.compile(r"step-(\d{12}|[1-9]\d{12,17})")


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

    def read(self, name: str, file: str, limit: int) -> bytes:
        """One file of a checkpoint. Raises OSError if it can't be read, `untrusted.Refused` if it is no regular file or
        has more than `limit` bytes."""

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


def join(place: str | Path, *names: str) -> str:
    """A place below a place: the same for folders and buckets, whose URL may end in `?options`."""
    base, mark, options = str(place).partition("?") if is_bucket(place) else (str(place), "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + options


def open_storage(place: str | Path) -> Storage:
    """The storage at a folder's path or a bucket's URL (`s3://bucket/runs`, `gs://...`)."""
    return Bucket(str(place)) if is_bucket(place) else Folder(Path(place))


def checkpoint_names(place: str | Path) -> list[str]:
    """The checkpoints that are at a place, oldest first."""
    return open_storage(place).names()


def checkpoint_name(step: int) -> str:
    """`step-` and twelve digits."""
    return f"step-{step:012d}"


def is_checkpoint_name(name: object) -> bool:
    """Whether `checkpoint_name` makes such a name: another folder beside the checkpoints is the user's."""
    return isinstance(name, str) and _STEP.fullmatch(name) is not None


def _sorted(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (len(name), name))  # a step may have more than twelve digits


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
        folders = (p.name for p in self.path.iterdir() if not p.is_symlink() and p.is_dir())
        return _sorted(set(filter(is_checkpoint_name, folders)))

    def read(self, name: str, file: str, limit: int) -> bytes:
        return untrusted.read_bytes(self.path / name / untrusted.inside(file), limit)

    def set_aside(self, name: str) -> None:
        aside = self.path / f"damaged-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.path / name).rename(aside)

    def clear_up(self) -> None:
        for replaced in self._begun(".replaced-"):  # killed between the two renames of a commit
            original = self.path / replaced.name.removeprefix(".replaced-")
            if original.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                replaced.rename(original)
        for staged in self._begun(".staged-"):
            shutil.rmtree(staged, ignore_errors=True)

    def _begun(self, prefix: str) -> list[Path]:
        return [p for p in self.path.glob(f"{prefix}*") if is_checkpoint_name(p.name.removeprefix(prefix))]

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
        name = os.readlink(link) if link.is_symlink() else None
        return name if is_checkpoint_name(name) else None

    def _staged(self, name: str) -> Path:
        return self.path / f".staged-{name}"


class Bucket:
    """Checkpoints as objects of a bucket, by Arrow's file systems (S3, Google Cloud Storage, HDFS, ...)."""

    def __init__(self, url: str) -> None:
        from pyarrow import fs

        self.files, self.path = fs.FileSystem.from_uri(url)
        self._fs = fs

    @property
    def folder(self) -> Path | None:
        """The folder that the URL means, if it means one: `file://`."""
        return Path(self.path) if isinstance(self.files, self._fs.LocalFileSystem) else None

    def write(self, name: str, file: str, writer: Callable[[BinaryIO], object]) -> None:
        self._put(f"{name}/{file}", writer)

    def commit(self, name: str, manifest: bytes) -> None:
        self.write(name, MANIFEST, lambda stream: stream.write(manifest))

    def discard(self, name: str) -> None:
        if name not in self.names():
            self.delete(name)

    def names(self) -> list[str]:
        found = (name.split("/") for name, _ in self._files())
        return _sorted({p[0] for p in found if is_checkpoint_name(p[0]) and p[1:] == [MANIFEST]})

    def read(self, name: str, file: str, limit: int) -> bytes:
        if self.folder:
            return Folder(self.folder).read(name, file, limit)
        path = f"{self.path}/{name}/{untrusted.inside(file)}"
        size = self.files.get_file_info(path).size
        if size is not None and size > limit:
            raise Refused(f"{file} has {size:,} bytes, at most {limit:,} are read")
        with self._open(path) as stream:
            content: bytes = stream.read()
        return content

    def set_aside(self, name: str) -> None:
        self.files.move(f"{self.path}/{name}/{MANIFEST}", f"{self.path}/{name}/damaged-{MANIFEST}")

    def clear_up(self) -> None:
        files = [name.split("/") for name, _ in self._files()]
        begun = {parts[0] for parts in files if len(parts) == 2 and is_checkpoint_name(parts[0])}
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
        for file in untrusted.files_below(folder):
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

    def own_files(self) -> dict[str, int]:
        """The names of a run folder's own files and their sizes in bytes.

        Raises:
            untrusted.Refused: a key leads out of the folder, or holds more than `MAX_FILE_BYTES`.
        """
        found = {str(untrusted.inside(name)): size for name, size in self._files() if _own(Path(name))}
        for name, size in found.items():
            if size > MAX_FILE_BYTES:
                raise Refused(f"{name} has {size:,} bytes, at most {MAX_FILE_BYTES:,} are brought here")
        return found

    def try_writing(self, name: str) -> None:
        """Write a file and remove it again. Raises OSError."""
        self._put(name, lambda stream: stream.write(b""))
        self.files.delete_file(f"{self.path}/{name}")

    def pull(self, folder: Path, *, anew: bool = False) -> None:
        """Bring a run folder's own files here.

        Args:
            anew: all of them; otherwise those that are not here, or shorter here than there.

        Raises:
            untrusted.Refused: see `own_files`; nothing was written then.
            OSError: the bucket can't be read, or the folder not be written.
        """
        for name, size in self.own_files().items():
            here = folder / name
            if anew or not here.exists() or here.stat().st_size < size:
                here.parent.mkdir(parents=True, exist_ok=True)
                with self._open(f"{self.path}/{name}") as stream, open(here, "wb") as file:
                    shutil.copyfileobj(stream, file)

    def _open(self, path: str) -> Any:
        return self.files.open_input_stream(path, compression=None)  # else what is named .gz would be unpacked

    def _put(self, name: str, writer: Callable[[BinaryIO], object]) -> None:
        path = f"{self.path}/{name}"
        if self.folder:
            self.files.create_dir(path.rpartition("/")[0])
        with self.files.open_output_stream(path, compression=None) as stream:
            writer(stream)

    def _files(self) -> list[tuple[str, int]]:
        """The names of all that is below, as they stand there, and their sizes in bytes."""
        if self.folder:  # Arrow would follow links, and go round in circles
            below = untrusted.files_below(self.folder) if self.folder.is_dir() else ()
            return [(str(path.relative_to(self.folder)), path.stat().st_size) for path in below]
        selector: Any = self._fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        found = [info for info in self.files.get_file_info(selector) if info.type == self._fs.FileType.File]
        return [(info.path.removeprefix(f"{self.path.rstrip('/')}/"), info.size) for info in found]


def _own(name: Path) -> bool:
    """Whether it is a run's own file: no checkpoint, and nothing hidden."""
    return name.parts[:1] != ("checkpoints",) and not any(p.startswith(".") and p != ".." for p in name.parts)


def _copy(file: Path, stream: BinaryIO) -> None:
    with open(file, "rb") as source:
        shutil.copyfileobj(source, stream)


def flush_folder(path: Path) -> None:
    """Force a folder's entries (new names, renames) to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
