"""`trivium cross-validate`: train and test once for each fold of a data set."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from pathlib import Path
from typing import Any

from trivium.cli.arguments import accepts_config, count, trains
from trivium.cli.importing import importing_torch
from trivium.cli.showing import print_table
from trivium.config.import_places import look_in

HELP = "train and test once for each fold of a data set; shows mean and spread"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_config(parser)
    parser.add_argument("--folds", type=count, default=5, metavar="K", help="how many parts the rows have (default: 5)")
    parser.add_argument(
        "--dir", type=os.path.expanduser, metavar="PATH", help="where the runs lie; folds that it holds are continued"
    )
    trains(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate; returns what `trivium.search.cross_validation.cross_validate` does."""
    from trivium.config.composing import compose
    from trivium.tracking.progress import Display

    look_in(os.getcwd())
    with importing_torch():
        config = compose(options.overrides, options.config_dir)
        from trivium.search import cross_validation

    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    dir = Path(options.dir) if options.dir else Path(config["storage"]) / f"{config['name']}-folds" / stamp
    result = cross_validation.cross_validate(
        options.overrides,
        folds=options.folds,
        dir=dir,
        config_dir=options.config_dir,
        display=Display(quiet=options.quiet),
    )
    if not options.json:
        print(f"{len(result['folds'])} folds: mean, standard deviation, least and greatest")
        rows = {
            name: f"{of['mean']:.6g} +- {of['std']:.3g} ({of['min']:.6g} to {of['max']:.6g})"
            for name, of in result["metrics"].items()
        }
        print_table([*rows.items(), ("runs", str(dir))])
    return {"dir": str(dir), **result}
