"""`trivium status`: report how runs go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trivium.cli.arguments import folder
from trivium.cli.errors import UsageError, printable

HELP = "report how runs go: finished, failed, stopped, killed or running, and how far"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places", nargs="*", type=folder, metavar="PATH", help="run folders, or folders of runs (default: runs)"
    )


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each run; returns the runs as `trivium.run_folder.state.describe` does."""
    from trivium.run_folder.state import describe, runs_below

    found: list[dict[str, Any]] = []
    for place in options.places or [Path("runs")]:
        runs = runs_below(place)
        if not runs:
            raise UsageError(f"status: {place}: there is no run folder")
        found += map(describe, runs)
    if not options.json:
        for one in found:
            said = [one["state"], one["progress"], str(one["error"] or "").partition("\n")[0]]
            print(printable("  ".join([one["dir"], *filter(None, said)])))
    return found
