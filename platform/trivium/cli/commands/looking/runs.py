"""`trivium runs`: a table of runs that can be sorted and filtered."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from trivium.cli.arguments import folder
from trivium.cli.errors import UsageError, printable

HELP = "list runs: state, age, metrics; sorted and filtered"
STATES = ("finished", "failed", "stopped", "running", "killed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("places", nargs="*", type=folder, metavar="PATH", help="run folders, or folders of runs")
    parser.add_argument("--state", choices=STATES, help="only runs of this state")
    parser.add_argument("--name", metavar="TEXT", help="only runs whose folder or experiment contains this")
    parser.add_argument("--metric", action="append", metavar="NAME", help="a metric to show (default: up to 3)")
    parser.add_argument("--sort", metavar="NAME", help="age (default), name, state, or a metric, the highest first")
    parser.add_argument("--reverse", action="store_true", help="the other way round")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each run; returns their folders, names, states, ages in seconds, progress and metrics."""
    from trivium.report.record import Record
    from trivium.run_folder.state import runs_below

    found = []
    for place in options.places or [Path("runs")]:
        below = runs_below(place)
        if not below:
            raise UsageError(f"runs: {place}: there is no run folder")
        found += [Record(dir) for dir in below]
    rows = [_row(record) for record in {record.dir: record for record in found}.values()]
    rows = [row for row in rows if options.state in (None, row["state"])]
    rows = [row for row in rows if options.name is None or options.name in f"{row['dir']} {row['name']}"]
    shown = options.metric or _usual([row["metrics"] for row in rows])
    sort = options.sort or "age"
    known = ["age", "name", "state", *dict.fromkeys(name for row in rows for name in row["metrics"])]
    if rows and sort not in known:
        raise UsageError(f"runs: --sort {sort}: no run has such a metric; valid: {', '.join(known)}")
    rows.sort(key=lambda row: _key(row, sort), reverse=options.reverse)
    if not options.json:
        _print(rows, shown)
    return rows


def _row(record: Any) -> dict[str, Any]:
    try:
        age = time.time() - (record.dir / "config.yaml").stat().st_mtime
    except OSError:
        age = math.nan
    return {
        "dir": str(record.dir),
        "name": record.name,
        "state": record.state,
        "age_s": max(0.0, age),
        "progress": record.progress,
        "metrics": {name: value for name, value in record.metrics.items() if name.startswith(("test/", "eval/"))},
    }


def _usual(metrics: list[dict[str, float]]) -> list[str]:
    """Up to three names of what most runs were tested on, without the loss where there is something else."""
    counts: dict[str, int] = {}
    for own in metrics:
        for name in own:
            if name.startswith("test/"):
                counts[name] = counts.get(name, 0) + 1
    names = sorted(counts, key=lambda name: -counts[name])
    return [name for name in names if name != "test/loss"][:3] or names[:1]


def _key(row: dict[str, Any], sort: str) -> Any:
    if sort == "age":
        return row["age_s"]
    if sort in ("name", "state"):
        return (row[sort], row["dir"])
    value = row["metrics"].get(sort)
    return (value is None, -(value or 0.0))


def _print(rows: list[dict[str, Any]], metrics: list[str]) -> None:
    from trivium.report.curves import value_text
    from trivium.report.writing import duration

    table = [["run", "state", "age", "progress", *metrics]]
    for row in rows:
        values = [value_text(row["metrics"][name]) if name in row["metrics"] else "" for name in metrics]
        table.append([row["dir"], row["state"], duration(row["age_s"]), row["progress"] or "", *values])
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    for cells in table:
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()))
