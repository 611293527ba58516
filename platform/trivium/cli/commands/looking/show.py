"""`trivium show`: print a config as it would run, or as it ran."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.boundary import strict_json
from trivium.cli.arguments import accepts_config
from trivium.config.import_places import look_in

HELP = "print the resolved config of an experiment or a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_config(parser)


def run(options: argparse.Namespace) -> Any:
    """Print the config as YAML; returns it."""
    import yaml

    from trivium.boundary.credentials import masked
    from trivium.config.composing import compose, read

    config: Any
    if len(options.overrides) == 1 and Path(options.overrides[0]).is_dir():
        config = masked(read(Path(options.overrides[0])))
    else:
        look_in(os.getcwd())
        config = compose(options.overrides, options.config_dir)
    if not options.json:
        print(yaml.safe_dump(config, sort_keys=False), end="")
    return strict_json.finite(config, as_text=True)
