"""`trivium tune`: search for the best settings with Ray Tune."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from trivium.cli.arguments import accepts_config
from trivium.cli.errors import UsageError

HELP = "search for the best settings: key=loguniform(1e-5,1e-2), key=choice(a,b), search=bayes, ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_config(parser)
    parser.add_argument(
        "--dir", type=os.path.expanduser, metavar="PATH", help="the search's folder (default: a new one)"
    )
    parser.add_argument("--resume", type=os.path.expanduser, metavar="DIR", help="continue the search in this folder")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="with --resume: a module of yours that it uses"
    )
    parser.add_argument("--quiet", action="store_true", help="no line for each trial")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Search, and show the ranking; returns what results.json holds."""
    from trivium.config.import_places import look_in
    from trivium.search import settings

    if options.resume is not None and (options.overrides or options.dir):
        raise UsageError("tune: --resume continues a search as it is; it accepts neither key=value nor --dir")
    if options.resume is None:
        look_in(os.getcwd())
        search, config = settings.check(options.overrides, options.config_dir)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        dir = Path(options.dir) if options.dir else Path(config["storage"]) / f"{search.name}-search" / name
    from trivium.search import driver, results
    from trivium.search.watching import Watching

    if options.resume is None:
        driver.begin(search, dir)
    else:
        dir = Path(options.resume)
        search = driver.read(dir, trusted=options.trust, config_dir=options.config_dir)
        if options.trust:
            look_in(os.getcwd())
    watching = Watching(search, quiet=options.quiet or options.json)
    try:
        records = driver.run(search, dir, watching=watching)
    finally:
        watching.close()
    result = results.write(search, dir, records)
    results.track(search, dir, result)
    report = _report(dir, result)
    if not options.json:
        print("\n".join(results.table(result)))
        for key, share in result["importance"].items():
            print(f"  {share:4.0%}  {key}")
        if result["command"]:
            print(f"best: {result['command']}")
        print(f"search {dir}")
        if report:
            print(f"report {report}")
    return result


def _report(dir: Path, result: dict[str, Any]) -> Path | None:
    """Write the page of a search; a search is worth more than its page."""
    from trivium.report.comparison import write_comparison
    from trivium.run_folder.state import runs_below

    runs = [run for trial in result["trials"] for run in runs_below(Path(trial["dir"]))]
    try:
        return write_comparison(runs, dir / "report.html", [dir]) if runs else None
    except Exception as error:
        print(f"no report was written: {type(error).__name__}: {error}", file=sys.stderr)
        return None
