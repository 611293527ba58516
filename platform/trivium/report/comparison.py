"""Any number of runs on one page: curves, a table that sorts and filters, settings that differ, pictures."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from trivium.boundary import untrusted
from trivium.boundary.credentials import mask
from trivium.report.curves import Axis, Series, panel, value_text
from trivium.report.groups import Group, curve_of, differences, grouped
from trivium.report.page import page
from trivium.report.record import Record
from trivium.report.searches import STYLE as OF_SEARCHES
from trivium.report.searches import search_section
from trivium.report.writing import MAX_FIGURE_BYTES, duration, picture_size

MAX_GROUPS = 40  # of which curves are drawn: of more the first
MAX_METRICS = 60
MAX_PICTURES_BYTES = 30_000_000
SIDE_BY_SIDE = 8  # pictures of one name

STYLE = """
.other0{--c:var(--eval)}
.runs{overflow-x:auto}.runs table{width:auto;min-width:100%}
.runs td,.runs th{padding:6px 18px 6px 0;text-align:left;width:auto;white-space:nowrap;color:var(--ink);
border-top:1px solid var(--line)}
.runs th{border-top:0;color:var(--soft);font-weight:600}
.runs th button{border:0;padding:0;background:none;color:inherit;font-size:13px}
.runs th[aria-sort] button{color:var(--ink)}
.runs th[aria-sort=ascending] button::after{content:" \\2191"}
.runs th[aria-sort=descending] button::after{content:" \\2193"}
input[type=search]{font:inherit;width:min(100%,340px);padding:7px 11px;border:1px solid var(--line);border-radius:6px;
background:var(--page);color:var(--ink);margin-bottom:10px}
"""

SCRIPT = """
const table = document.querySelector('.runs:not(.means) table'), filter = document.querySelector('input[type=search]');
if (table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      const x = key(a), y = key(b), p = parseFloat(x), q = parseFloat(y);
      if (x === '' || y === '') return (x === '') - (y === '');
      return (isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q) * (down ? -1 : 1);
    };
    body.append(...[...body.rows].sort(order));
  }));
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const row of body.rows)
      row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
  });
}
"""


def write_comparison(runs: Sequence[Path], out: Path, searches: Sequence[Path] = ()) -> Path:
    """Write one self-contained HTML page that compares runs. Runs that differ only in their seed are drawn as one
    curve: their mean, of agents the interquartile mean, and its 95 % bootstrap interval.

    Args:
        runs: run folders, at least one; whatever is missing or damaged in them is left out.
        out: the page's file; one that is there is replaced.
        searches: folders of searches, whose pictures come first.

    Raises:
        OSError: it can't be written.
    """
    records = [Record(run) for run in runs]
    groups = grouped(records)
    title = f"{len(records)} runs" if len(records) != 1 else "1 run"
    body = "\n".join(
        [
            f"<h1>{title}, {len(groups)} setting{'s' * (len(groups) != 1)}</h1>",
            *map(search_section, searches),
            _summary(groups),
            _curves(groups[:MAX_GROUPS]),
            _runs(records, out),
            _pictures(groups),
        ]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        page(f"{title} · Trivium", body, script=SCRIPT, style=STYLE + OF_SEARCHES), encoding="utf-8", errors="replace"
    )
    return out


def _metrics(records: Sequence[Record], prefix: str) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record.metrics if name.startswith(prefix))
    return list(names)[:MAX_METRICS]


def _summary(groups: Sequence[Group]) -> str:
    """Means over seeds, where there are several."""
    several = [group for group in groups if len(group.records) > 1]
    names = _metrics([record for group in several for record in group.records], "test/")[:8]
    if not several or not names:
        return ""
    rows = []
    for group in several:
        cells = []
        for name in names:
            values = [record.metrics[name] for record in group.records if name in record.metrics]
            mean = sum(values) / len(values) if values else None
            spread = (
                f" <span class=soft>({value_text(min(values))} to {value_text(max(values))})</span>" if values else ""
            )
            cells.append(f"<td>{value_text(mean)}{spread}</td>")
        rows.append(f"<tr><td>{escape(mask(group.label))}</td><td>{len(group.records)}</td>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("setting", "runs", *names))
    return (
        "<h2>Means over runs that differ only in their seed</h2><div class='runs means'>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curves(groups: Sequence[Group]) -> str:
    records = [record for group in groups for record in group.records]
    names = dict.fromkeys(
        name for record in records for row in record.rows for name in row if name.startswith(("eval/", "train/"))
    )
    ranked = sorted(names, key=lambda name: (name not in {r.monitored for r in records}, name.startswith("train/")))
    panels = []
    for axis_name in dict.fromkeys(record.axis for record in records):
        own = [group for group in groups if group.records[0].axis == axis_name]
        steps = [float(row["step"]) for group in own for record in group.records for row in record.rows]
        if not steps:
            continue
        axis = Axis(min(0.0, *steps), max(*steps, min(0.0, *steps) + 1.0))
        for name in ranked[:MAX_METRICS]:
            series: list[Series] = [curve for group in own if (curve := curve_of(group, name)) is not None]
            if any(curve.known for curve in series):
                panels.append(panel(name, series, axis, axis_name, None))
    return f"<h2>Curves</h2><div class=panels>{''.join(panels)}</div>" if panels else ""


def _runs(records: Sequence[Record], out: Path) -> str:
    """A row for each run: its state, metrics and the settings that differ."""
    differing = differences(records)
    keys = list(dict.fromkeys(key for own in differing.values() for key in own))
    names = _metrics(records, "test/") or _metrics(records, "eval/")
    heads = ["run", "state", "progress", "time", *names, *keys]
    rows = []
    for record in records:
        seconds = record.metrics.get("time/elapsed_s", record.result.get("elapsed_s"))
        seconds = seconds if untrusted.finite(seconds) else None
        cells = [
            f"<td>{_link(record.dir, out)}</td><td>{escape(record.state)}</td><td>{escape(record.progress or '')}</td>",
            f'<td data-value="{seconds or ""}">{duration(float(seconds)) if seconds else ""}</td>',
        ]
        for name in names:
            value = record.metrics.get(name)
            cells.append(f'<td data-value="{"" if value is None else value}">{value_text(value)}</td>')
        own = differing[str(record.dir)]
        cells += [f"<td>{escape(mask(str(own.get(key, ''))))}</td>" for key in keys]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th scope=col><button type=button>{escape(name)}</button></th>" for name in heads)
    return (
        "<h2>Runs</h2><input type=search placeholder='filter' aria-label='filter runs'>"
        f"<div class=runs><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _link(dir: Path, out: Path) -> str:
    path = os.path.relpath(dir, out.parent)
    shown = escape("/".join(dir.absolute().parts[-2:]))
    return f'<a href="{quote(path)}/report.html">{shown}</a>' if (dir / "report.html").is_file() else shown


def _pictures(groups: Sequence[Group]) -> str:
    """The same picture of different settings side by side, of the first run of each."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for group in groups:
        for path in _figures(group.records[0].dir):
            found.setdefault(path.stem, []).append((group.label, path))
    parts, room = [], MAX_PICTURES_BYTES
    for name, own in found.items():
        shown = []
        for label, path in own[:SIDE_BY_SIDE]:
            content = b""
            with contextlib.suppress(untrusted.Refused):
                content = untrusted.read_bytes(path, min(MAX_FIGURE_BYTES, room))
            size = picture_size(content)
            if size is None:
                continue
            room -= len(content)
            source = f"data:{size[0]};base64,{base64.b64encode(content).decode()}"
            caption = f"<figcaption>{escape(mask(label))}</figcaption>"
            shown.append(f'<figure>{caption}<img alt="{escape(name)}" width=360 src="{source}"></figure>')
        if shown:
            parts.append(f"<h3>{escape(name)}</h3><div class=pictures>{''.join(shown)}</div>")
    return f"<h2>Pictures</h2>{''.join(parts)}" if parts else ""


def _figures(dir: Path) -> Iterator[Path]:
    folder = dir / "figures"
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in (".png", ".gif") and not path.is_symlink() and not path.name.startswith("."):
            yield path
