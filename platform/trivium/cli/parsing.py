"""The command line, parsed: the commands are the files in the folders of `trivium.cli.commands`. `trivium.cli.mistakes`
says what was probably meant by one that is not valid."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from trivium.cli import commands, mistakes
from trivium.cli.errors import UsageError

EPILOG = """\
examples:
  trivium train                                   an MLP on digits, in seconds
  trivium train experiment=ppo_cartpole seed=1    an experiment, with a value changed
  trivium train experiment=vae_digits launch=ray launch.workers=2
  trivium play runs/ppo_cartpole/20260101-120000-ab12
  trivium resume runs/ppo_cartpole/20260101-120000-ab12
  trivium list experiments
"""


class Command(Protocol):
    """A module of `trivium.cli.commands`; `--help` imports all, so heavy imports belong in `run`."""

    HELP: str  # one line, in lower case, without a full stop

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what the command accepts, besides `--json` and `--trace`."""

    def run(self, options: argparse.Namespace) -> Any:
        """Do it and print it, unless `options.json`; returns the result as JSON."""


def find() -> dict[str, Command]:
    """All commands by the names that are typed: `do_this.py` in any of the folders is `trivium do-this`."""
    modules = pkgutil.walk_packages(commands.__path__, f"{commands.__name__}.")
    names = {module.name.rpartition(".")[2]: module.name for module in modules if not module.ispkg}
    return {name.replace("_", "-"): importlib.import_module(names[name]) for name in sorted(names)}


def parse(arguments: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """The command that was typed and its options. These may be placed anywhere among the overrides, of which argparse
    alone accepts only the first unbroken series.

    Raises:
        UsageError: there is no such command, or it does not accept what was typed.
        SystemExit: help or the version was asked for and printed.
    """
    found = find()
    parser, parsers = _parser(found)
    if arguments[0] not in found and not arguments[0].startswith("-"):
        raise UsageError(mistakes.no_such_command(arguments[0], parsers, parser))
    options, rest = parser.parse_known_args(arguments)
    flags = [text for text in rest if text.startswith("-")]
    if flags:
        raise UsageError(*mistakes.unknown_options(flags, arguments, options, parsers))
    own = parsers[options.command]
    if rest and not hasattr(options, "overrides"):
        mistakes.require_no_option(rest[0], own)
        raise UsageError(f"{rest[0]}: one argument too many")
    if rest:
        options.overrides = [*options.overrides, *rest]
    mistakes.require_places(options, own)
    return found[options.command], options


def print_help() -> None:
    """What there is, for a command line without a word."""
    _parser(find())[0].print_help()


class _Version(argparse.Action):
    """argparse's own needs the version when the parser is built, which takes an import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"trivium {version('trivium')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line with the nearest valid word, in place of argparse's usage and list of choices."""
        choice = re.search(r"argument (\w+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            message = mistakes.no_such_choice(choice[1], choice[2], [c.strip(" '") for c in choice[3].split(",")])
        elif message == "the following arguments are required: command":
            valid = next(action.choices for action in self._actions if action.choices)
            message = f"no command; valid: {', '.join(valid)}"
        elif message == "the following arguments are required: RUN":
            from trivium.config import hints

            message += hints.newest_run()
        command = self.prog.partition(" ")[2]
        raise UsageError(f"{command}: {message}" if command else message)


def _parser(found: dict[str, Command]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of its commands by name."""
    parser = _Parser(
        prog="trivium",
        description="Train supervised networks, generative models and reinforcement-learning agents, one way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parsers = parser.add_subparsers(metavar="command", required=True)
    for name, command in found.items():
        own = parsers.add_parser(name, help=command.HELP, description=command.HELP, allow_abbrev=False)
        own.set_defaults(command=name, of_a_run=False, changes_a_run=False)
        own.add_argument(
            "--json", action="store_true", help="print the result, or the error, as one line of JSON, stdout's last"
        )
        own.add_argument("--trace", action="store_true", help="show where an error came from")
        command.add_arguments(own)
    return parser, dict(parsers.choices)
