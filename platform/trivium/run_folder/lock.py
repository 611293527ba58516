"""A run folder belongs to one process at a time, which holds a lock that the system frees however it ends.

Two files, for on Ray two processes have to do with a folder: the one that trains or resumes holds `.lock`, and rank 0,
which may live a moment longer than its driver, holds `.lock-rank-0`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from trivium.config.errors import ConfigError

RUN, RANK_0 = ".lock", ".lock-rank-0"
NAMES = (RUN, RANK_0)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network disks have none
ASKED_S = 0.2  # longer than `is_held` may hold one
log = logging.getLogger("trivium")


class Taken(Exception):
    """A run folder was removed while its run trained, and another process trains there now."""


class Held:
    """A lock that this process holds.

    Args:
        dir: the run folder.
        name: of the lock's file.
        descriptor: of that file.
    """

    def __init__(self, dir: Path, name: str, descriptor: int) -> None:
        self._dir, self._name = dir, name
        self._descriptor = descriptor

    def keep(self) -> None:
        """Take the lock again if its file was removed.

        Raises:
            Taken: another process was first.
            OSError: it can't be written.
        """
        if _is_at(self._descriptor, self._dir / self._name):
            return
        try:
            again = _locked(self._dir, self._name)
        except BlockingIOError:
            what = f"{self._dir} was removed, and is another run's now{_holder(self._dir / self._name)}"
            raise Taken(f"{what}: this run stops here") from None
        os.close(self._descriptor)
        self._descriptor = again

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


@contextlib.contextmanager
def alone_in(dir: Path, name: str = RUN) -> Iterator[Held]:
    """Hold one of a run folder's locks; the folder is made if it is not there.

    Raises:
        ConfigError: another process holds it, or it can't be written.
    """
    try:
        held = Held(dir, name, _locked(dir, name))
    except BlockingIOError:
        raise ConfigError([f"{dir} is being trained by another process{_holder(dir / name)}"]) from None
    except OSError as error:
        raise ConfigError([f"the run folder {dir} can't be written: {error.strerror or error}"]) from error
    try:
        yield held
    finally:
        held.release()


def is_held(dir: Path, *names: str) -> bool:
    """Whether a process holds one of a run folder's locks (no name: any of them), on this machine or another one that
    shares the folder."""
    return any(_is_held(dir / name) for name in names or NAMES)


def _locked(dir: Path, name: str) -> int:
    """The descriptor of a lock that is held. Raises BlockingIOError if another process holds it, other OSErrors."""
    until = time.monotonic() + ASKED_S
    while True:
        dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(dir / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, f"{name} is not a file")
            if _lock(descriptor, until) and _is_at(descriptor, dir / name):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who held it took the folder away, or only asked: try again


def _lock(descriptor: int, until: float) -> bool:
    """Whether it is held now; False asks for another try, at most until a time."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if time.monotonic() > until:
            raise
        time.sleep(0.02)
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("the disk has no locks: let no other process train in this run folder")
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _holder(path: Path) -> str:
    """Who holds a lock, in parentheses; empty if the file does not say so."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        with open(path, "rb") as file:
            said = json.loads(file.read(1000))
        return f" ({int(said['pid'])} on {re.sub(r'[^A-Za-z0-9.-]', '?', str(said['host']))})"
    return ""
