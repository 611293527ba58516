"""`trivium evaluate`: measure what a run has learned."""

from __future__ import annotations

import argparse
from typing import Any

from trivium.cli.arguments import accepts_checkpoint, accepts_run, accepts_way_to_act, count
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import print_table

HELP = "measure a run's checkpoint on held-out data or fresh episodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_run(parser)
    accepts_checkpoint(parser)
    parser.add_argument("--episodes", type=count, metavar="K", help="how many an agent plays (default: as configured)")
    accepts_way_to_act(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate; returns what `trivium.trained.evaluate` does."""
    with importing_torch():
        opened = open_run(options)
        check_learner(opened, options)
        from trivium import trained

    result = trained.evaluate(
        opened,
        checkpoint=options.checkpoint,
        episodes=options.episodes,
        deterministic=options.deterministic,
        trusted=options.trust,
    )
    if not options.json:
        print(f"{result['checkpoint']} of {result['dir']}")
        print_table([(name, f"{value:.6g}") for name, value in result["metrics"].items()])
    return result
