"""The report of a run: one HTML file that opens anywhere and loads nothing.

It is made from what lies in the run folder, of a finished run or of one that was killed. The folder may come from a
stranger: every text is escaped, and the page's own policy forbids whatever might slip through.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import time
from collections.abc import Collection, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trivium.boundary import untrusted
from trivium.boundary.credentials import mask
from trivium.report.curves import Axis, Series, number, panel, value_text
from trivium.report.page import page
from trivium.report.record import Record, as_dict, panels_of, repeat_command, series_of, split_command
from trivium.run_folder.place import resume_arguments
from trivium.tracking.film import FOLDER

NAME = "report.html"
MAX_FIGURE_BYTES = 16_000_000  # a larger one is only linked
MAX_FIGURES_BYTES = 100_000_000  # of all together: then the rest is only linked
MAX_METRICS = 300  # of which curves are drawn
MAX_FILES = 200  # listed
MAX_WARNINGS = 20  # shown


def write_report(dir: Path, *, trusted: Collection[str] = (), place: str | None = None) -> Path:
    """Write `report.html` into a run folder, whole or not at all; one that is there is replaced.

    Args:
        dir: a run folder. `metrics.jsonl`, `result.json` and the rest may be missing or damaged.
        trusted: the modules of the user's own that may be imported to find the command that repeats the run.
        place: where the run is opened, if not at `dir`: its URL in a bucket.

    Returns:
        The path of the report.

    Raises:
        OSError: the folder can't be read or written.
    """
    record = Record(Path(dir), trusted=trusted, place=place)
    sections = [_headline, _warnings, _curves, _figures, _config, _environment, _repeat, _files, _footer]
    text = page(f"{record.name} · Trivium", "\n".join(section(record) for section in sections))
    staged = record.dir / f".{NAME}"
    staged.unlink(missing_ok=True)
    with open(staged, "x", encoding="utf-8", errors="replace") as stream:  # x: never through a link to elsewhere
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return staged.replace(record.dir / NAME)


def picture_size(content: bytes) -> tuple[str, int, int] | None:
    """The media type, width and height of a PNG or GIF; None of anything else."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        return "image/png", int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content[:6] in (b"GIF87a", b"GIF89a") and len(content) >= 10:
        return "image/gif", int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    return None


def duration(seconds: float) -> str:
    """3.2 s, 2 min 49 s, 3 h 5 min, 2 d 4 h."""
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    scales = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    size, unit, smaller, below = next(scale for scale in scales if whole >= scale[0])
    rest = whole % size // smaller
    return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")


def size_text(count: int | None) -> str:
    """A number of bytes: 812 B, 13 kB, 2.4 MB; empty for None."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


# ----------------------------------------------------------------------------------------------- sections


def _headline(record: Record) -> str:
    kind = "test/" if any(k.startswith("test/") for k in record.metrics) else "eval/"
    shown = {k: v for k, v in record.metrics.items() if k.startswith(kind)}
    first = kind + str(record.monitored).partition("/")[2]
    numbers = [
        f"<div><dt>{escape(k)}</dt><dd title={v!r}>{value_text(v)}</dd></div>"
        for k, v in sorted(shown.items(), key=lambda item: item[0] != first)
    ]
    state = "" if record.state == "finished" else f"<span class='state open'>{record.state}</span>"
    ended = _ended(record)
    if record.state != "finished" and numbers and kind == "eval/":
        ended += "<p class=soft>The numbers are those of its last evaluation.</p>"
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(record))
    return (
        f"<h1>{escape(record.name)}{state}</h1>{ended}"
        + (f"<dl class=numbers>{''.join(numbers)}</dl>" if numbers else "")
        + (f"<dl class=facts>{facts}</dl>" if facts else "")
    )


def _ended(record: Record) -> str:
    """What ended the run, as HTML."""
    if record.state == "failed":
        error, place = (escape(str(record.result.get(key) or "")) for key in ("error", "place"))
        return f"<div class=note><pre>{error}</pre>" + (f"<p class=soft>at {place}</p>" if place else "") + "</div>"
    if record.state == "running":
        return "<p class=soft>This run has not ended yet.</p>"
    if record.state == "killed":
        return "<p class=soft>This run has no result, and no process here trains it: it was killed.</p>"
    reason = re.sub(r"\b\d{5,18}\b", lambda digits: f"{int(digits[0]):,}", str(record.result.get("reason", "")))
    return f"<p class=soft>Ended: {escape(reason)}.</p>" if reason else ""


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    """Names and values, as HTML."""
    result, last = record.result, record.rows[-1] if record.rows else {}
    if record.state != "finished" and (progress := record.progress):
        yield "Progress", escape(progress)
    elapsed_s = number(result.get("elapsed_s")) or record.metrics.get("time/elapsed_s")
    if elapsed_s is not None and elapsed_s >= 0:
        yield "Training time", duration(elapsed_s)
    if (updates := number(result.get("updates", last.get("updates")))) is not None:
        yield "Updates", value_text(updates)
    counters = as_dict(result.get("counters")) or {record.axis: last.get("step"), "epochs": last.get("epochs")}
    for unit, value in counters.items():
        if (count := number(value)) is not None:
            yield escape(str(unit).replace("_", " ").capitalize()), value_text(count)
    if record.state == "finished" and (checkpoint := result.get("checkpoint")):
        yield "Result of checkpoint", escape(str(checkpoint)) + escape(_which(record, str(checkpoint)))
    elif record.checkpoints:
        yield "Newest checkpoint", escape(record.checkpoints[-1])


def _which(record: Record, checkpoint: str) -> str:
    step = re.fullmatch(r"step-(\d{1,18})", checkpoint)
    if step and record.best and int(step[1]) == record.best[0]:
        return f", the best by {record.monitored}"
    return ", the last" if step and int(step[1]) == record.last_step else ""


def _warnings(record: Record) -> str:
    """What the run warned of, each text once, the newest last."""
    texts = list(dict.fromkeys(reversed(record.warnings)))[:MAX_WARNINGS][::-1]
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<h2>Warnings</h2><ul class=soft>{lines}</ul>" if lines else ""


def _curves(record: Record) -> str:
    if not record.rows:
        return "<h2>Curves</h2><p class=soft>Nothing has been logged yet.</p>"
    names = list(dict.fromkeys(k for row in record.rows for k in row if "/" in k))[:MAX_METRICS]
    steps = [float(row["step"]) for row in record.rows]
    low, high = min(0.0, *steps), max(steps)
    axis = Axis(low, high if high > low else low + 1.0)

    def draw(title: str, members: list[str]) -> str:
        series = [Series(m.partition("/")[0], series_of(record.rows, m)) for m in members]
        best = record.best if record.monitored in members else None
        return panel(title, series, axis, record.axis, best) if any(s.known for s in series) else ""

    drawn = "".join(draw(title, members) for title, members in panels_of(names, record.monitored))
    machine = "".join(draw(name, [name]) for name in names if name.startswith(("time/", "system/")))
    return f"<h2>Curves</h2><div class=panels>{drawn}</div>" + (
        f"<details><summary>Time and system</summary><div class=panels>{machine}</div></details>" if machine else ""
    )


def _figures(record: Record) -> str:
    drawn, room = [], MAX_FIGURES_BYTES
    folder = record.dir / "figures"
    for path in untrusted.files_below(folder) if folder.is_dir() and _is_inside(folder, record.dir) else ():
        if path.suffix not in (".png", ".gif") or path.name.startswith(".") or path.parent == folder / FOLDER:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        caption = f"<figcaption><b>{escape(name)}</b>{_link(path, record.dir)}</figcaption>"
        content = b""
        with contextlib.suppress(untrusted.Refused):
            content = untrusted.read_bytes(path, min(MAX_FIGURE_BYTES, room))
        size = picture_size(content)
        if size is None:
            drawn.append(f"<figure>{caption}<p class=soft>Not shown: damaged, or larger than 16 MB.</p></figure>")
            continue
        room -= len(content)
        media, width, height = size
        zoom = max(1, 320 // max(width, height, 1))
        drawn.append(
            f'<figure>{caption}<img alt="{escape(name)}" width="{width * zoom}" height="{height * zoom}"'
            + (' class="pixelated"' if zoom > 1 else "")
            + f' src="data:{media};base64,{base64.b64encode(content).decode()}"></figure>'
        )
    return f"<h2>Figures</h2><div class=pictures>{''.join(drawn)}</div>" if drawn else ""


def _config(record: Record) -> str:
    text = escape(mask(record.config_text.strip())) or "There is no config.yaml that can be read."
    return f"<h2>Config</h2><pre{' class=long' if text.count(chr(10)) > 24 else ''}>{text}</pre>"


def _environment(record: Record) -> str:
    shown = {k.replace("_gb", " (GB)").replace("_", " "): v for k, v in record.environment.items() if k != "command"}
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(_plain(v))}</td></tr>" for k, v in shown.items())
    return f"<h2>Environment</h2><table>{rows}</table>" if rows else ""


def _repeat(record: Record) -> str:
    recorded = str(record.environment.get("command") or "")
    quoted = shlex.join(split_command(recorded))  # what a shell would act on is in quotes
    repeats = repeat_command(record.config, recorded, record.trusted)
    commands = {"Train another run with this config": repeats} if repeats else {}
    if recorded and quoted != repeats:
        commands["The command that started this run"] = quoted
    if record.state != "finished":
        place = record.place or record.dir.absolute()
        commands["Continue this run"] = shlex.join(["trivium", *resume_arguments(record.config, place, record.trusted)])
    blocks = "".join(
        f"<h3>{title}</h3><div class=command><code>{escape(mask(command))}</code><button>Copy</button></div>"
        for title, command in commands.items()
    )
    return f"<h2>Repeat</h2>{blocks}" if blocks else ""


def _files(record: Record) -> str:
    found = list(_listed(record.dir))
    rows = "".join(
        f"<tr><td>{_link(path, record.dir)}</td><td>{size_text(_bytes(path))}</td></tr>" for path in found[:MAX_FILES]
    )
    more = f"<p class=soft>and {len(found) - MAX_FILES:,} more</p>" if len(found) > MAX_FILES else ""
    return f"<h2>Files</h2><table class=files>{rows}</table>{more}"


def _footer(record: Record) -> str:
    return f"<footer>Written by Trivium, {time.strftime('%Y-%m-%d %H:%M')}.</footer>"


# ----------------------------------------------------------------------------------------------- parts


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {'is missing' if v is None else v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _link(path: Path, dir: Path) -> str:
    name = path.relative_to(dir).as_posix() + ("/" if path.is_dir() and not path.is_symlink() else "")
    target = f" → {os.readlink(path)}" if path.is_symlink() else ""
    if not _is_inside(path, dir):
        return escape(name + target)
    return f'<a href="./{quote(os.fsencode(name))}">{escape(name)}</a>{escape(target)}'


def _is_inside(path: Path, dir: Path) -> bool:
    """Whether a path of a run folder stays in it, also where it is a link."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(dir))


def _listed(dir: Path) -> Iterator[Path]:
    """The files and folders of a run; of checkpoints and figures what is in them."""
    for path in sorted(dir.iterdir()):
        if path.name in ("checkpoints", "figures") and path.is_dir():
            yield from (p for p in sorted(path.iterdir()) if not p.name.startswith("."))
        elif path.name != NAME and not path.name.startswith("."):
            yield path


def _bytes(path: Path) -> int | None:
    """The size of a file or of all files in a folder; None of a link."""
    if path.is_symlink():
        return None
    files = untrusted.files_below(path) if path.is_dir() else [path]
    return sum(f.lstat().st_size for f in files)
