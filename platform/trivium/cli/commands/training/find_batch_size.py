"""`trivium find-batch-size`: time batch sizes, and suggest the smallest that is nearly as fast as any."""

from __future__ import annotations

import argparse
import os
from typing import Any

from trivium.cli.arguments import accepts_config, count
from trivium.cli.importing import importing_torch
from trivium.config.import_places import look_in

HELP = "time updates with batches of doubling size and suggest one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_config(parser)
    parser.add_argument("--smallest", type=count, default=8, metavar="N", help="the first size (default: 8)")
    parser.add_argument("--largest", type=count, default=8192, metavar="N", help="the last size (default: 8192)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the suggestion and what was measured for each size."""
    from trivium.config.composing import compose

    look_in(os.getcwd())
    with importing_torch():
        compose(options.overrides, options.config_dir)  # what is wrong with it is not the sizes' fault
        from trivium.search import finders

    def show(size: finders.Size) -> None:
        if not options.json:
            speed, memory = f"{size.samples_per_s:,.0f}", f"{size.memory / 2**20:,.0f}"
            print(f"  {size.batch_size:>6}  {speed:>12} samples/s  {memory:>8} MiB", flush=True)

    sizes, suggestion = finders.find_batch_size(
        lambda size: compose([*options.overrides, f"learner.batch_size={size}"], options.config_dir),
        smallest=options.smallest,
        largest=options.largest,
        say=show,
    )
    if not options.json:
        print(f"suggested: learner.batch_size={suggestion}, the smallest with 90 % of the highest throughput")
    return {"suggestion": suggestion, "sizes": [size._asdict() for size in sizes]}
