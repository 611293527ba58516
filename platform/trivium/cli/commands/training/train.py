"""`trivium train`: compose a config and train it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.cli.arguments import accepts_config, trains
from trivium.cli.importing import importing_torch
from trivium.cli.showing import show_result
from trivium.config.import_places import look_in

HELP = "train something new"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_config(parser)
    parser.add_argument(
        "--dir", type=os.path.expanduser, metavar="PATH", help="the run folder (default: a new one under storage)"
    )
    trains(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train; returns the result."""
    from trivium.config.composing import compose
    from trivium.run_folder.place import require_writable
    from trivium.tracking.progress import Display

    dir = None if options.dir is None else Path(options.dir)
    look_in(os.getcwd())
    with importing_torch():
        config = compose(options.overrides, options.config_dir, options.dir)
        require_writable(config, options.dir and Path(options.dir))
        from trivium import launch  # torch: not before the config is known to be right

    result = launch.train(config, dir=dir, config_dir=options.config_dir, display=Display(quiet=options.quiet))
    return show_result(result, options)
