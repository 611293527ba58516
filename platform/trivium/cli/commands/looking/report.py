"""`trivium report`: write a run's report again, or compare any number of runs on one page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.cli.arguments import folder
from trivium.cli.errors import UsageError
from trivium.cli.showing import print_table

HELP = "compare runs on one HTML page, or write one run's report again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("places", nargs="+", type=folder, metavar="RUN", help="run folders, or folders of runs")
    parser.add_argument(
        "--out", type=os.path.expanduser, metavar="FILE.html", help="of a comparison (default: comparison.html)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the file, and how many runs it is about."""
    from trivium.config.errors import ConfigError
    from trivium.report.comparison import write_comparison
    from trivium.report.searches import RESULTS
    from trivium.report.writing import write_report
    from trivium.run_folder.state import runs_below

    runs: list[Path] = []
    for place in options.places:
        below = runs_below(place)
        if not below:
            raise UsageError(f"report: {place}: there is no run folder")
        runs += [run for run in below if run not in runs]
    try:
        searches = [place for place in options.places if (place / RESULTS).is_file()]
        if len(runs) == 1 and options.out is None and not searches:
            file = write_report(runs[0])
        else:
            file = write_comparison(runs, Path(options.out or "comparison.html"), searches)
    except OSError as error:
        raise ConfigError([f"{options.out or 'the report'} can't be written: {error.strerror or error}"]) from error
    if not options.json:
        print_table([("runs", str(len(runs))), ("report", str(file))])
    return {"file": str(file), "runs": len(runs)}
