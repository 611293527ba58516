"""`trivium resume`: continue a run, with some of its config changed."""

from __future__ import annotations

import argparse
from typing import Any

from trivium.cli.arguments import accepts_changes, accepts_run, trains
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import show_result

HELP = "continue a run from its newest sound checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_run(parser)
    accepts_changes(parser)
    trains(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Resume; returns the result, which is the old one if nothing was left to do."""
    from trivium.tracking.progress import Display

    with importing_torch():
        opened = open_run(options)
        if options.overrides or not (opened.dir / "result.json").exists():
            check_learner(opened, options)
        if options.overrides:
            from trivium.config.composing import apply_overrides

            apply_overrides(opened.config, options.overrides)
        from trivium import launch

    result = launch.resume(
        opened,
        options.overrides,
        trusted=options.trust,
        config_dir=options.config_dir,
        display=Display(quiet=options.quiet),
    )
    return show_result(result, options)
