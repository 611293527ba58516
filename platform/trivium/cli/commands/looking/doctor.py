"""`trivium doctor`: report what this machine offers and what is wrong with it."""

from __future__ import annotations

import argparse
from typing import Any

from trivium.cli.showing import print_table

HELP = "report what this machine offers and what is wrong with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a table and the problems; returns both."""
    from trivium.boundary.credentials import mask
    from trivium.run_folder.environment import doctor

    found, problems = doctor()
    if not options.json:
        print_table([(name, mask(shown)) for name, _, shown in found])
        print("\n".join(f"problem: {mask(p)}" for p in problems) or "nothing is wrong")
    return {**{name: value for name, value, _ in found}, "problems": problems}
