"""Where a run is: the folder or the bucket that it is opened at, and what its config says. Imports no torch.

Its contents may have been written by a stranger, see `trivium.boundary.untrusted`. The `storage` of its config is
where the run was once kept; only what the user types decides where it is read and written.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

from trivium.boundary import credentials, untrusted
from trivium.boundary.places import is_bucket
from trivium.boundary.untrusted import Refused
from trivium.checkpoints.storage import Bucket, checkpoint_names, join
from trivium.config import constructors, hints
from trivium.config.composing import read
from trivium.config.errors import Config, ConfigError

T = TypeVar("T")

ALIASES = ("best", "last")  # of checkpoints
COPY_OF = ".bucket"  # in a local copy: the URL that it is a copy of


class Opened(NamedTuple):
    """A run that is there.

    Attributes:
        dir: its folder here, absolute; of a run in a bucket a copy without the checkpoints.
        config: see `trivium.config.read`.
        bucket: its own URL, if it was opened in a bucket.
    """

    dir: Path
    config: Config
    bucket: str | None

    @property
    def checkpoints_place(self) -> str:
        return checkpoints_of(self.dir, self.bucket)


def checkpoints_of(dir: Path, bucket: str | None) -> str:
    """Where the checkpoints of a run are."""
    return join(bucket or dir, "checkpoints")


def open_run(place: Path | str | Opened) -> Opened:
    """The run at a folder's path or a bucket's URL; one in a bucket is brought here first.

    Raises:
        ConfigError: there is no run, it can't be read, or what is there is refused, see `trivium.boundary.untrusted`.
    """
    if isinstance(place, Opened):
        return place
    try:
        return (
            _open_bucket(str(place)) if is_bucket(place) else _open_folder(Path(os.path.expanduser(place)).absolute())
        )
    except Refused as error:
        raise ConfigError([str(error)]) from error


def _open_folder(dir: Path) -> Opened:
    if not dir.is_dir():
        raise ConfigError([hints.no_run_folder(dir)])
    config = _read(dir)
    storage = config["storage"]
    if is_bucket(storage) and not (dir / "checkpoints").is_dir():
        kept = credentials.mask(join(storage, config["name"], dir.name))
        raise ConfigError([f"{dir} is a copy of a run in a bucket, without its checkpoints; open {kept}"])
    return Opened(dir, config, None)


def _open_bucket(url: str) -> Opened:
    refuse_credentials(url)
    bare = url.partition("?")[0].rstrip("/")
    parts = bare.partition("://")[2].split("/")
    if len(parts) < 2:
        raise ConfigError([f"{url} is not the URL of a run, which ends in <name>/<date-time>-<id>"])
    dir = Path("runs", *(untrusted.inside(part) for part in parts[-2:])).absolute()
    bucket = reach(url, lambda: Bucket(url))
    if os.path.lexists(dir):
        if _copied_from(dir) != bare:
            raise ConfigError([f"{dir} is not a copy of {bare}, whose files would replace it; move it out of the way"])
        untrusted.check_folder(dir)
    if bucket.folder and bucket.folder.is_dir():
        untrusted.check_folder(bucket.folder)
    if "config.yaml" not in reach(url, bucket.own_files):
        raise ConfigError([f"{url} is not the URL of a run: it has no config.yaml"])
    dir.mkdir(parents=True, exist_ok=True)
    mark_copy(dir, url)
    reach(url, lambda: bucket.pull(dir, anew=True))
    return Opened(dir, _read(dir), url)


def _read(dir: Path) -> Config:
    if os.path.lexists(dir / "config.yaml"):  # else it is any folder, however large
        try:
            untrusted.check_folder(dir)
        except OSError as error:
            raise ConfigError([f"{error.filename or dir} can't be read: {error.strerror}"]) from error
    return read(dir)


def bucket_of(config: Config, dir: Path) -> str | None:
    """The URL of a run that is about to begin, if its config, which the user typed, says so. Raises ConfigError if that
    holds credentials."""
    storage = config["storage"]
    if not is_bucket(storage):
        return None
    refuse_credentials(storage)
    return join(storage, config["name"], dir.name)


def resume_arguments(
    config: Config, place: Path | str, trusted: Collection[str], config_dir: Path | str | None = None
) -> list[str]:
    """The arguments after `trivium` that continue a run; more may be needed, see `trivium.training.ends.finished`.

    Args:
        trusted: the modules that may be imported for the run; of those that it needs, these are named.
        config_dir: where the user's YAML is, beside which such modules may be.
    """
    modules = [module for module in constructors.to_trust(config) if constructors.is_trusted(module, trusted)]
    arguments = ["resume", str(place), *(word for module in modules for word in ("--trust", module))]
    return [*arguments, "--config-dir", os.path.abspath(config_dir)] if modules and config_dir else arguments


def mark_copy(dir: Path, url: str) -> None:
    """Note in a run's folder of which URL it is the copy."""
    (dir / COPY_OF).write_text(url.partition("?")[0].rstrip("/"), encoding="utf-8")


def _copied_from(dir: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return untrusted.read_bytes(dir / COPY_OF, 10_000).decode()
    with contextlib.suppress(ConfigError):  # copied before copies were marked
        config = read(dir)
        return (bucket_of(config, dir) or "").partition("?")[0]
    return None


def reach(url: str, use: Callable[[], T]) -> T:
    """What `use` returns, which talks to a bucket.

    Raises:
        ConfigError: it failed.
    """
    try:
        return use()
    except Refused as error:
        raise ConfigError([f"{credentials.mask(url)}: {error}"]) from error
    except (OSError, ValueError) as error:
        raise ConfigError([f"{credentials.mask(url)} can't be reached: {str(error).splitlines()[0]}"]) from error


def refuse_credentials(url: str) -> None:
    """
    Raises:
        ConfigError: the URL holds some; names the variable to use.
    """
    if problem := credentials.problem(url):
        raise ConfigError([f"{credentials.mask(url)}: {problem}"])


# ----------------------------------------------------------------------------------------------- before torch is there


def require_checkpoint(run: Opened, name: str) -> None:
    """
    Raises:
        ConfigError: the run has no checkpoint of this name, or none at all.
    """
    names = checkpoint_names(run.checkpoints_place)
    if name not in (*ALIASES, *names):
        valid = ", ".join((*ALIASES, *names))
        raise ConfigError([f"--checkpoint {name}: {run.dir} has no such checkpoint; valid: {valid}"])


def require_writable(config: Config, dir: Path | None) -> None:
    """Try whether a run that is about to begin can be written where it is to be.

    Raises:
        ConfigError: it can't.
    """
    storage = config["storage"]
    bucket = reach(storage, lambda: Bucket(storage)) if is_bucket(storage) else None
    here = Path("runs") if bucket else Path(storage)
    _try_writing(f"--dir {dir}" if dir else f"storage={storage}", dir or here)
    if bucket and bucket.folder:
        _try_writing(f"storage={storage}", bucket.folder)
    elif bucket:
        reach(storage, lambda: bucket.try_writing(f".trivium-{secrets.token_hex(4)}"))


def _try_writing(what: str, folder: Path) -> None:
    """Into a folder, or the nearest above it that is there."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise ConfigError([f"{what}: {above} can't be written: {error.strerror or error}"]) from error
