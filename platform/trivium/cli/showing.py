"""What several commands print: tables, and how a run ended."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.run_folder.folder import Result


def show_result(result: Result, options: argparse.Namespace) -> dict[str, Any]:
    """Print how a run ended, unless JSON was asked for; returns the result as JSON."""
    if not options.json:
        print(f"ended: {result.reason}, after {result.elapsed_s:.1f} s of training")
        names = [n for n in result.metrics if n.startswith("test/")]
        print_table([(n, f"{result.metrics[n]:.6g}") for n in names])
        print_table([("run", str(result.dir)), ("report", str(result.dir / "report.html"))])
    for sentence in result.lost:
        print(f"trivium: error: {sentence}", file=sys.stderr)
    return result.as_json()


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Print a name and a value, which may have several lines, in each row."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        for first, line in zip(itertools.chain([name], itertools.repeat("")), value.splitlines() or [""], strict=False):
            print(f"  {first:<{width}}  {line}".rstrip())
