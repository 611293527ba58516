"""The command `trivium`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see `trivium.cli.entry.main`."""
    from trivium.cli import entry

    return entry.main(arguments)
