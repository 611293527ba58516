"""The command `trivium`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see `trivium.cli.commands.main`."""
    from trivium.cli.commands import main

    return main(arguments)
