"""Data from strangers: what a run folder or a bucket holds may have been written by anybody.

A name from there must stay inside, a file must be a regular one of a bounded size, and what it holds plain data of a
bounded depth and of the shape that its reader expects. Whatever is refused raises `Refused` with one line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

MAX_DEPTH = 32  # of folders, and of groups within groups
MAX_CONFIG_BYTES = 256_000
MAX_JSON_BYTES = 4_000_000
MAX_ROWS_BYTES = 500_000_000

LOCKS = (".lock", ".lock-rank-0")  # see `trivium.run_folder.lock`
FILES = (
    "config.yaml",
    "environment.json",
    "signature.json",
    "result.json",
    "metrics.jsonl",
    "report.html",
    "log.txt",
    *LOCKS,
)
FOLDERS = ("checkpoints", "figures", "wandb", "tensorboard")
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
    stat.S_IFREG: "a file",
}


class Refused(ValueError):
    """Something is not what Trivium would have written there; the text says in one line what and why."""


# ----------------------------------------------------------------------------------------------- names


def inside(name: str) -> PurePosixPath:
    """A relative path that a key of a bucket, an entry of an archive or a manifest names, once it is known to be one
    that stays below where it is used.

    Raises:
        Refused: it is empty or absolute, or has a part that is empty, `.` or `..`, or a character that can't be shown.

    Example:
        figures/a.png -> figures/a.png;  ../a, /a, a//b, a/../b, "" -> Refused.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
        raise Refused(f"the name {name!r} leads out of its folder, or is none")
    return PurePosixPath(name)


# ----------------------------------------------------------------------------------------------- files


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file; never waits, as for the writer of a pipe.

    Args:
        limit: the most bytes that it may have.

    Raises:
        Refused: it is no regular file, or has more bytes.
        OSError: it can't be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise Refused(f"{path} is {_kind(mode)}, not a file")
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        raise Refused(f"{path} has {size:,} bytes, at most {limit:,} are read")
    return content


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        Refused, OSError: see `read_bytes`; or it is not JSON, or deeper than `MAX_DEPTH`.
    """
    return parse_json(read_bytes(path, limit), str(path))


def parse_json(content: bytes, name: str) -> Any:
    """See `read_json`; `name` is that of the file."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is not valid JSON: {_first_line(error)}") from None
    _require_shallow(value, name)
    return value


def read_yaml(path: Path, limit: int = MAX_CONFIG_BYTES) -> Any:
    """What a YAML file holds: nested dicts, lists and scalars. Tags are not followed. An alias is refused: Trivium
    writes none, and a few lines of them unfold to gigabytes.

    Raises:
        Refused, OSError: see `read_bytes`; or it is not YAML, deeper than `MAX_DEPTH`, or holds something else.
    """
    return parse_yaml(read_bytes(path, limit), str(path))


def parse_yaml(content: bytes, name: str) -> Any:
    """See `read_yaml`; `name` is that of the file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise Refused(f"{name}:{_line(event)}: is nested deeper than {MAX_DEPTH} levels")
            if isinstance(event, yaml.AliasEvent):
                raise Refused(f"{name}:{_line(event)}: holds an alias, *{event.anchor}; write it out")
        value = yaml.load(text, Loader=loader)
    except Refused:
        raise
    except Exception as error:  # a tag such as !!int before something else raises whatever Python happens to
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or _first_line(error)
        raise Refused(f"{name}{f':{mark.line + 1}' if mark else ''}: is not valid YAML: {what}") from None
    for node in _nodes(value):
        if not isinstance(node, dict | list | str | int | float | None):
            raise Refused(f"{name}: holds a {type(node).__name__}; valid are groups, lists, texts, numbers")
    return value


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _require_shallow(value: Any, name: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise Refused(f"{name} is nested deeper than {MAX_DEPTH} levels")


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from node.values()
    elif isinstance(node, list | tuple):
        yield from node


def _nodes(value: Any) -> Iterator[Any]:
    """A tree's nodes and the keys of its dicts."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(_children(node))
        waiting.extend(node if isinstance(node, dict) else ())


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "something else")


# ----------------------------------------------------------------------------------------------- folders


def check_folder(dir: Path) -> None:
    """A run folder, before anything in it is read or written: it must not lead elsewhere, nor hold what can't be read.

    Raises:
        Refused: it holds a link that leads out of it or in a circle, a pipe, a socket, a device, a folder where a file
            belongs or the reverse, or folders deeper than `MAX_DEPTH`.
        OSError: it can't be read.
    """
    root = os.path.realpath(dir)
    for name, belongs in (*((n, stat.S_IFREG) for n in FILES), *((n, stat.S_IFDIR) for n in FOLDERS)):
        with contextlib.suppress(OSError):  # it is not there, or a link that the next check is about
            mode = os.stat(os.path.join(root, name)).st_mode
            if stat.S_IFMT(mode) != belongs:
                raise Refused(f"{dir / name} is {_kind(mode)}, not {KINDS[belongs]}")
    for entry, depth in _entries(root):
        if depth > MAX_DEPTH:
            raise Refused(f"{dir} holds folders nested deeper than {MAX_DEPTH} levels")
        if entry.is_symlink():
            _check_link(entry.path, root)
        elif not (entry.is_file() or entry.is_dir()):
            raise Refused(f"{entry.path} is {_kind(entry.stat(follow_symlinks=False).st_mode)}, not a file")


def _check_link(path: str, root: str) -> None:
    # W&B links each run's logs to one in the user's cache; nobody here reads or writes it.
    if PurePosixPath(path).relative_to(root).match("wandb/*run-*/logs/debug-core.log"):
        return
    if not f"{os.path.realpath(path)}/".startswith(f"{root.rstrip('/')}/"):
        raise Refused(f"{path} is a link out of the run folder: remove it if the run is yours")
    try:
        os.stat(path)
    except FileNotFoundError:
        pass  # such as `last`, after its checkpoint was lost
    except OSError:
        raise Refused(f"{path} is a link that leads in a circle: remove it if the run is yours") from None


def _entries(root: str) -> Iterator[tuple[os.DirEntry[str], int]]:
    """All that is below a folder, with its depth from 1; links are not followed, nor folders below `MAX_DEPTH`."""
    waiting = [(root, 1)]
    while waiting:
        folder, depth = waiting.pop()
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            yield entry, depth
            if depth <= MAX_DEPTH and entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, depth + 1))


def files_below(dir: Path) -> Iterator[Path]:
    """The regular files below a folder, sorted; no links, and none deeper than `MAX_DEPTH`."""
    found = [e.path for e, depth in _entries(str(dir)) if depth <= MAX_DEPTH and e.is_file(follow_symlinks=False)]
    return map(Path, sorted(found))


# ----------------------------------------------------------------------------------------------- shapes


Shape = Any
"""What a value must look like: a type; a dict of the shapes that keys must have (others may be there); or a predicate
whose docstring says in words what it asks for."""


def require(value: Any, shape: Shape, where: str = "") -> None:
    """Check a value that was read against the shape that its reader expects.

    Args:
        where: names the value in the error.

    Raises:
        Refused: it has another shape; names the dotted key and what belongs there.
    """
    if isinstance(shape, dict):
        require(value, dict, where)
        for key, of_key in shape.items():
            path = f"{where}.{key}" if where else key
            if key not in value:
                raise Refused(f"{path} is missing")
            require(value[key], of_key, path)
        return
    of_type = isinstance(shape, type)
    if not (isinstance(value, shape) if of_type else shape(value)):
        noun = f"a {shape.__name__}" if of_type else shape.__doc__
        shown = f"{value!r:.40}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
        raise Refused(f"{where or 'it'} is {shown}, not {noun}")


def count(value: Any) -> bool:
    """a whole number >= 0"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def finite(value: Any) -> bool:
    """a finite number"""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that no float can be
        return False


def text(value: Any) -> bool:
    """a text of one line, without control characters"""
    return isinstance(value, str) and value.isprintable()


def optional(shape: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """`null`, or what fits another shape."""

    def fits(value: Any) -> bool:
        return value is None or shape(value)

    fits.__doc__ = f"{shape.__doc__} or null"
    return fits


def by_name(shape: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A dict with texts as `text` for keys, every value of which fits a shape."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(text(key) and shape(item) for key, item in value.items())

    fits.__doc__ = f"a group of which each key has {shape.__doc__}"
    return fits


def list_of(shape: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A list every item of which fits a shape."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and all(map(shape, value))

    fits.__doc__ = f"a list, each item {shape.__doc__}"
    return fits
