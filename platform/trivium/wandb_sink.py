"""Weights & Biases, in a thread of its own: a step never waits for it, and what fails in it fails alone.

Online when the user is logged in and the server answers within seconds, offline files otherwise. A resumed run
continues the run of the same id: steps that W&B has are not sent again, rows of metrics.jsonl that it lacks are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import netrc
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from trivium.tracking import Row, read_rows

log = logging.getLogger("trivium")

CONNECT_S = 3.0  # how long a server may take to accept a connection before the run goes offline
INIT_S = 10.0  # how long W&B itself may take to reach its server
FLUSH_S = 1.0  # how long a row may wait in memory: a SIGKILL loses no older one (W&B's default is 15)
FINISH_S = 30.0  # how long the end of a run waits for uploads; what is not uploaded stays in local files


class WandbSink:
    """One W&B run.

    Args:
        dir: the run folder; W&B's files go to `wandb/` in it.
        run_id: W&B's id of the run, the same for all resumes.
        name, project: as shown by W&B.
        config: logged as the run's config.
    """

    def __init__(self, dir: Path, *, run_id: str, name: str, project: str, config: Mapping[str, Any]) -> None:
        self.dir = dir
        self._id = run_id
        self._settings: dict[str, Any] = {"id": run_id, "name": name, "project": project, "config": dict(config)}
        self._before = read_rows(dir / "metrics.jsonl")  # of these W&B lacks what a kill kept from it
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, row: Row) -> None:
        self._queue.put(("log", row))

    def figures(self, step: int, paths: Mapping[str, Path]) -> None:
        self._queue.put(("figures", (step, {name: (path.suffix, path.read_bytes()) for name, path in paths.items()})))

    def finish(self, *, failed: bool) -> None:
        self._queue.put(("finish", int(failed)))
        self._thread.join(FINISH_S)
        if self._thread.is_alive():
            log.warning("W&B did not finish within %g s; its files are in %s", FINISH_S, self.dir / "wandb")

    # ------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        try:
            run, last_step = self._open()
            resumed_at = last_step
            waiting: dict[int, dict[str, Any]] = {}
            for row in self._before:
                last_step = _send(run, row, {}, last_step)
            while True:
                kind, content = self._queue.get()
                if kind == "log":
                    last_step = _send(run, content, waiting.pop(content["step"], {}), last_step)
                elif kind == "figures" and content[0] > last_step:
                    waiting[content[0]] = self._media(*content)  # for the row of the same step, which comes next
                elif kind == "figures" and content[0] > resumed_at:
                    last_step += 1  # those of the run's end, whose row has gone
                    run.log(self._media(*content), step=last_step, commit=True)
                elif kind == "finish":
                    run.finish(exit_code=content)
                    for copy in (self.dir / "wandb").glob(".*-*"):
                        copy.unlink()
                    return
        except Exception as error:
            log.warning("W&B tracking stopped (%s); the run goes on, metrics.jsonl has every row", _first_line(error))

    def _media(self, step: int, pictures: dict[str, tuple[str, bytes]]) -> dict[str, Any]:
        """W&B's copies of pictures; those in figures/ may have moved on."""
        import wandb

        media: dict[str, Any] = {}
        for name, (suffix, content) in pictures.items():
            path = self.dir / "wandb" / f".{name}-{step}{suffix}"
            path.write_bytes(content)
            media[f"figures/{name}"] = (
                wandb.Image(str(path)) if suffix == ".png" else wandb.Video(str(path), format="gif")
            )
        return media

    def _open(self) -> tuple[Any, int]:
        """The W&B run and the last step that it has."""
        import wandb

        while list((self.dir / "wandb").glob(f"*{time.strftime('%Y%m%d_%H%M%S')}-{self._id}")):
            time.sleep(0.1)  # W&B names folders by the second, and would write over the one of this second
        mode = choose_mode()
        common = {**self._settings, "dir": str(self.dir), "resume": "allow"}
        if mode == "online":
            try:
                run = wandb.init(mode=mode, settings=_settings(init_timeout=INIT_S), **common)
                return run, run.step - 1 if run.resumed else -1
            except Exception as error:
                wandb.teardown()  # else the id counts as in use
                log.warning("W&B can't be reached (%s); writing offline files", _first_line(error))
                mode = "offline"
        last = max((step for file in wandb_files(self.dir, self._id) for step in logged_steps(file)), default=-1)
        return wandb.init(mode=mode, settings=_settings(), **common), last


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def choose_mode() -> Literal["online", "offline", "disabled"]:
    """`disabled`, `offline` or `online`: WANDB_MODE if set; else online if logged in and the server accepts a
    connection within `CONNECT_S`."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked == "disabled" or asked == "offline":
        return asked  # type: ignore[return-value]
    host = urlsplit(_base_url())
    if not logged_in():
        return "offline"
    try:
        with socket.create_connection((host.hostname or "", host.port or 443), timeout=CONNECT_S):
            return "online"
    except OSError:
        return "offline"


def logged_in() -> bool:
    """Whether W&B would find credentials, by looking where it looks; never prompts."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        path = os.environ.get("NETRC") or _netrc_path()
        return netrc.netrc(path).authenticators(urlsplit(_base_url()).netloc) is not None
    return False


def _netrc_path() -> str:
    candidates = [os.path.expanduser(name) for name in ("~/.netrc", "~/_netrc")]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def _base_url() -> str:
    import wandb

    return str(wandb.setup().settings.base_url)


def _settings(**more: Any) -> Any:
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_transaction_log_flush_interval=FLUSH_S,
        finish_timeout=FINISH_S - 5,
        **more,
    )


def _send(run: Any, row: Row, media: dict[str, Any], last_step: int) -> int:
    """Log a row unless W&B has its step; the test results of a run's end go to the summary."""
    test = {k: v for k, v in row.items() if k.startswith("test/")}
    if test:
        run.summary.update(test)
    elif row["step"] > last_step:
        last_step = row["step"]
        # A step that is given is held back until the next one unless it is committed: a kill would lose it.
        run.log({**{k: v for k, v in row.items() if k != "step"}, **media}, step=last_step, commit=True)
    return last_step


# ----------------------------------------------------------------------------------------------- reading back


def wandb_files(dir: Path, run_id: str) -> list[Path]:
    """The local transaction logs of a W&B run, one for each time it was started."""
    return sorted((dir / "wandb").glob(f"*-{run_id}/run-{run_id}.wandb"))


def logged_steps(path: Path) -> list[int]:
    """The steps of all history rows in a transaction log."""
    return [record.history.step.num for record in records(path) if record.WhichOneof("record_type") == "history"]


def records(path: Path) -> Iterator[Any]:
    """The records of a W&B transaction log, up to the first that was cut short by a kill.

    The format is LevelDB's log: after 7 bytes of file header, blocks of 32 KiB hold chunks, each with a header of
    CRC-32, length and type (1 whole, 2 first, 3 middle, 4 last); a chunk never crosses a block, and up to 6 bytes
    at a block's end are padding.
    """
    from wandb.proto import wandb_internal_pb2 as proto

    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        chunk = content[position + 7 : position + 7 + length]
        if kind not in (1, 2, 3, 4) or len(chunk) < length:
            return
        position += 7 + length
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):
            record = proto.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            yield record


def history(path: Path) -> list[dict[str, Any]]:
    """The history rows in a transaction log, as nested dicts with `_step`."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *parents, name = item.nested_key or [item.key]
                inner = row
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                inner[name] = json.loads(item.value_json)
            rows.append({**row, "_step": record.history.step.num})
    return rows
