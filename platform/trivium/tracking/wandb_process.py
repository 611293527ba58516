"""The process that talks to Weights & Biases, so that the one that trains never does.

It is started by `trivium.tracking.wandb_sink`, reads one JSON message a line from stdin, writes warnings to stderr, and
ends with the pipe: when the training process is killed, it still writes all rows that it was sent. Its only heavy
import is wandb.

Online when the user is logged in and the server answers within seconds, offline files otherwise. A resumed run
continues the run of the same id: steps that W&B has are not sent again, rows that it lacks are.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import netrc
import os
import shutil
import ssl
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from trivium.boundary.untrusted import MAX_ROWS_BYTES, read_bytes
from trivium.tracking import wandb_identity

log = logging.getLogger("trivium")

ANSWER_S = 3.0  # how long a server may take to answer before the run goes offline
INIT_S = 10.0  # how long W&B itself may take to reach its server
FLUSH_S = 1.0  # how long a row may wait in memory: a kill of this process too loses no older one (W&B's default is 15)
COPIES = ".figures-"  # how the folder of pictures that wait to be sent begins
FINISH_S = 30.0  # how long the end of a run waits for uploads; what is not uploaded stays in local files


def main(lines: Iterable[str] | None = None) -> None:
    """Serve one run: the first message opens it, the others are its rows and pictures.

    Messages: `{"dir", "copies"}` and keywords of `wandb.init`, `id`, `name`, `project` and `config` among them; then
    `{"row": {...}}`, `{"figures": {name: path}, "step"}` with paths of copies in the folder `copies`, `{"artifact":
    path of a folder, "metadata": {...}}`, and `{"finish": exit code}`. Without the last the run counts as crashed.
    """
    messages = map(json.loads, lines if lines is not None else sys.stdin)
    settings = next(messages)
    dir, copies = Path(settings.pop("dir")), settings.pop("copies", None)
    (dir / "wandb").mkdir(exist_ok=True)
    os.environ["WANDB_DATA_DIR"] = str(dir / "wandb")  # what W&B stages of artifacts
    for variable in wandb_identity.OWN:  # what W&B might refuse of these must not matter: it is told them otherwise
        os.environ.pop(variable, None)
    try:
        with open(dir / "wandb" / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the process of the run that was killed may still be writing
            for left in (dir / "wandb").glob(f"{COPIES}*"):
                if left.name != copies:
                    shutil.rmtree(left, ignore_errors=True)
            _serve(dir, settings, messages)
    except Exception as error:
        log.warning(f"W&B tracking stopped ({_first_line(error)}); the run goes on, metrics.jsonl has every row")
        for _ in messages:
            pass  # an open pipe keeps the other side from failing


def _serve(dir: Path, settings: dict[str, Any], messages: Iterator[dict[str, Any]]) -> None:
    run, last_step = _open(dir, settings)
    resumed_at, exit_code = last_step, 1
    waiting: dict[int, dict[str, str]] = {}
    for message in messages:
        if "row" in message:
            row = message["row"]
            last_step = _send(run, row, waiting.pop(row["step"], {}), last_step)
        elif "figures" in message and message["step"] > last_step:
            waiting[message["step"]] = message["figures"]  # for the row of the same step, which comes next
        elif "figures" in message and message["step"] > resumed_at:
            last_step += 1  # those of the run's end, whose row has gone
            run.log(_media(message["figures"]), step=last_step, commit=True)
        elif "artifact" in message:
            _keep_model(run, Path(message["artifact"]), message["metadata"])
        elif "finish" in message:
            exit_code = message["finish"]
    run.finish(exit_code=exit_code)


def _open(dir: Path, settings: dict[str, Any]) -> tuple[Any, int]:
    """The W&B run and the last step that it has."""
    import wandb

    while any(
        path.name.endswith(f"{time.strftime('%Y%m%d_%H%M%S')}-{settings['id']}") for path in (dir / "wandb").glob("*")
    ):
        time.sleep(0.1)  # W&B names folders by the second, and would write over the one of this second
    mode = choose_mode()
    common = {**settings, "dir": str(dir), "resume": "allow"}
    if mode == "online":
        try:
            run = wandb.init(mode=mode, settings=_settings(init_timeout=INIT_S), **common)
            return run, run.step - 1 if run.resumed else -1
        except Exception as error:
            wandb.teardown()  # else the id counts as in use
            log.warning(f"W&B can't be reached ({_first_line(error)}); writing offline files")
            mode = "offline"
    last = max((step for file in wandb_files(dir, settings["id"]) for step in logged_steps(file)), default=-1)
    return wandb.init(mode=mode, settings=_settings(), **common), last


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def choose_mode() -> Literal["online", "offline", "disabled"]:
    """`disabled`, `offline` or `online`: WANDB_MODE if set; else online if logged in and the server answers within
    `ANSWER_S`. What W&B would refuse of the environment is told and taken out of it."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked == "disabled":
        return "disabled"
    if asked not in ("", "online", "run", "shared", "offline", "dryrun"):
        log.warning(f"WANDB_MODE={asked} is none of online, offline, disabled: online if W&B can be reached")
        del os.environ["WANDB_MODE"]
    refused = drop_refused()
    if asked in ("offline", "dryrun") or "WANDB_BASE_URL" in refused:
        return "offline"
    return "online" if logged_in() and _answers(_base_url()) else "offline"


def drop_refused() -> list[str]:
    """Take out of the environment what W&B would refuse, one variable of which ends the whole tracking; their names."""
    import wandb

    refused: list[str] = []
    while True:
        try:
            wandb.setup()
            return refused
        except ValueError as error:  # pydantic's is one
            details: list[Any] = getattr(error, "errors", list)()
            field, value = (str(details[0]["loc"][0]), str(details[0]["input"])) if details else ("", "")
            holders = [name for name, held in os.environ.items() if name.startswith("WANDB_") and held == value]
            if not holders:
                raise
            refused.append(max(holders, key=lambda name: name.lower().endswith(field)))
            what = "is no address; writing offline files" if field == "base_url" else f"is ignored: {details[0]['msg']}"
            log.warning(f"{refused[-1]}={os.environ.pop(refused[-1])} {what}")


def _answers(url: str) -> bool:
    """Whether a server answers an HTTP request, whatever it says, within `ANSWER_S`; looking up its name counts."""
    answered: list[bool] = []

    def ask() -> None:
        # Nothing secret is sent, and nothing of the answer is used: which certificates hold, W&B knows better.
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S, context=unverified):
                answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return bool(answered)


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

    ours: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "disable_git": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_transaction_log_flush_interval": FLUSH_S,
        "finish_timeout": FINISH_S - 5,
        **more,
    }
    return wandb.Settings(**{name: value for name, value in ours.items() if not _is_set_by_user(name)})


def _is_set_by_user(setting: str) -> bool:
    """Whether one of W&B's settings has a variable in the environment, which then counts."""
    return any(os.environ.get(f"WANDB_{name}".upper()) for name in (setting, f"_{setting.removeprefix('x_')}"))


def _send(run: Any, row: dict[str, Any], pictures: dict[str, str], last_step: int) -> int:
    """Log a row unless W&B has its step; the test results of a run's end go to the summary."""
    test = {k: v for k, v in row.items() if k.startswith("test/")}
    if test:
        run.summary.update(test)
    elif row["step"] > last_step:
        last_step = row["step"]
        # A step that is given is held back until the next one unless it is committed: a kill would lose it.
        run.log({k: v for k, v in row.items() if k != "step"} | _media(pictures), step=last_step, commit=True)
    return last_step


def _keep_model(run: Any, folder: Path, metadata: dict[str, Any]) -> None:
    """Log a folder of weights as a model. Its files are not copied: they stay where they are in the run folder."""
    import wandb

    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
    artifact.add_dir(str(folder), policy="immutable")
    run.log_artifact(artifact, aliases=["best"])


def _media(pictures: dict[str, str]) -> dict[str, Any]:
    import wandb

    return {
        f"figures/{name}": wandb.Video(path, format="gif") if path.endswith(".gif") else wandb.Image(path)
        for name, path in pictures.items()
    }


# ----------------------------------------------------------------------------------------------- reading back


def wandb_files(dir: Path, run_id: str) -> list[Path]:
    """The local transaction logs of a W&B run, one for each time it was started."""
    folders = (folder for folder in (dir / "wandb").glob("*") if folder.name.endswith(f"-{run_id}"))
    return sorted(file for folder in folders if (file := folder / f"run-{run_id}.wandb").is_file())


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

    content, position, parts = read_bytes(path, MAX_ROWS_BYTES), 7, b""
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


def _warn_on_stderr() -> None:
    """Nothing else writes there: W&B's own service dies of a pipe that nobody reads, which ours is once the training
    process was killed."""
    logging.basicConfig(format="%(message)s", stream=os.fdopen(os.dup(2), "w", buffering=1))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _leave() -> None:
    """End this process; W&B's own end may wait for a server that accepted a connection and stays silent."""
    import wandb

    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(ANSWER_S)
    os._exit(0)


if __name__ == "__main__":
    _warn_on_stderr()
    main()
    _leave()
