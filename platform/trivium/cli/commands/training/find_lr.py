"""`trivium find-lr`: try learning rates in one short training, and suggest one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.cli.arguments import accepts_config, count
from trivium.cli.importing import importing_torch
from trivium.cli.showing import print_table
from trivium.config.import_places import look_in

HELP = "try learning rates in one short training, draw the losses and suggest a rate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_config(parser)
    parser.add_argument("--lowest", type=float, default=1e-6, metavar="LR", help="the first rate (default: 1e-6)")
    parser.add_argument("--highest", type=float, default=1.0, metavar="LR", help="the last rate (default: 1)")
    parser.add_argument("--updates", type=count, default=150, metavar="N", help="between them (default: 150)")
    parser.add_argument(
        "--out", type=os.path.expanduser, default="find_lr.png", metavar="FILE.png", help="(default: find_lr.png)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the suggestion, the losses by rate and the picture's file."""
    from trivium.config.composing import compose

    look_in(os.getcwd())
    with importing_torch():
        config = compose(options.overrides, options.config_dir)
        from PIL import Image

        from trivium.config.errors import ConfigError
        from trivium.search import finders

    found = finders.find_lr(config, lowest=options.lowest, highest=options.highest, updates=options.updates)
    if not found.rates:
        raise ConfigError([f"--lowest {options.lowest:g}: the loss of the first update is not finite"])
    out = Path(options.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(finders.rates_figure(found)).save(out)
    except (OSError, ValueError) as error:
        raise ConfigError([f"--out {out} can't be written: {error}"]) from error
    if not options.json:
        use = f"learner.lr={found.suggestion:.1e}" if found.suggestion else "none: the loss never fell"
        print_table([("suggested", use), ("tried", f"{len(found.rates)} updates"), ("picture", str(out))])
    return {
        "suggestion": found.suggestion,
        "rates": [{"lr": rate.lr, "loss": rate.loss} for rate in found.rates],
        "file": str(out),
    }
