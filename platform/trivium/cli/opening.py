"""Opening the run folder that a command is given, before torch is imported."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from trivium.config.import_places import beside, look_in

if TYPE_CHECKING:
    from trivium.run_folder.place import Opened


def open_run(options: argparse.Namespace) -> Opened:
    """The run of `accepts_run`, with the user's modules found if any is trusted.

    Raises:
        ConfigError: there is no run.
    """
    from trivium.run_folder import place

    run = place.open_run(options.run)
    if options.trust:
        look_in(os.getcwd(), *(beside(options.config_dir) if options.config_dir else ()))
    return run


def check_learner(run: Opened, options: argparse.Namespace, *, without_data: bool = False) -> None:
    """Find what can be found wrong with a run without torch.

    Args:
        without_data: the command does not need what the run was trained on.

    Raises:
        ConfigError: its config can't be built, its data are gone, or it lacks the checkpoint asked for.
    """
    from trivium.config.checks.places import check_paths
    from trivium.config.errors import refuse
    from trivium.config.problems import Found
    from trivium.run_folder.place import require_checkpoint
    from trivium.training import builder

    builder.check_learner(run.config, trusted=options.trust)
    if not without_data:
        found = Found()
        check_paths({"data": run.config.get("data")}, lambda _: str(run.dir / "config.yaml"), found)
        refuse(found)
    if hasattr(options, "checkpoint"):
        require_checkpoint(run, options.checkpoint)
