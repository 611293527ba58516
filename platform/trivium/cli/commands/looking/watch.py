"""`trivium watch`: follow a run that another process trains, until it ends."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from trivium.cli.errors import UsageError, printable

HELP = "follow a run until it ends: a line for each row that it logs"
EVERY_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=os.path.expanduser, metavar="RUN", help="a run folder, also one on a shared disk")
    parser.add_argument("--metric", action="append", metavar="NAME", help="what to show (default: all but time/...)")
    parser.add_argument("--rows", type=int, default=5, metavar="N", help="of the past to begin with (default: 5)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print rows until the run has ended; returns how it did, see `trivium.run_folder.state.describe`."""
    from trivium.run_folder.state import describe

    dir = Path(options.run)
    if not (dir / "config.yaml").is_file():
        raise UsageError(f"watch: {dir}: there is no run folder")
    seen = -1
    while True:
        state = describe(dir)  # before the rows: one that ends now has written its last row already
        rows = _rows(dir)
        first = max(0, len(rows) - max(0, options.rows)) if seen < 0 else min(seen, len(rows))
        for row in rows[first:]:
            if not options.json:
                print(printable(_line(row, options.metric)), flush=True)
        seen = len(rows)
        if state["state"] != "running":
            break
        time.sleep(EVERY_S)
    if not options.json:
        said = [state["state"], state["progress"], str(state["error"] or "").partition("\n")[0]]
        print(printable("  ".join(filter(None, said))))
    return state


def _rows(dir: Path) -> list[dict[str, Any]]:
    """The rows that are whole; a resumed run may have cut some off."""
    from trivium.boundary.untrusted import Refused
    from trivium.tracking.tracker import read_rows

    try:
        return read_rows(dir / "metrics.jsonl")
    except (OSError, Refused):
        return []


def _line(row: dict[str, Any], metrics: list[str] | None) -> str:
    names = metrics or [name for name in row if "/" in name and not name.startswith(("time/", "system/"))]
    values = [f"{name} {row[name]:.4g}" for name in names if isinstance(row.get(name), int | float)]
    return "  ".join([f"{row.get('step', 0):>10,}", *values])
