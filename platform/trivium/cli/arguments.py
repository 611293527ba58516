"""The command line: what each command takes. What else is typed is refused with what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

EPILOG = """\
examples:
  trivium train                                   an MLP on digits, in seconds
  trivium train experiment=ppo_cartpole seed=1    an experiment, with a value changed
  trivium train experiment=vae_digits launch=ray launch.workers=2
  trivium play runs/ppo_cartpole/20260101-120000-ab12
  trivium resume runs/ppo_cartpole/20260101-120000-ab12
  trivium list experiments
"""
KINDS = {
    "experiments": ["experiment"],
    "learners": ["learner", "agent"],
    "models": ["model"],
    "data": ["data"],
    "tasks": ["task"],
    "envs": ["env"],
}
FIGURE = "figures/play.gif"  # where `play` draws, in the run folder, if nothing else is said


class UsageError(Exception):
    """The command line is not one of trivium's.

    Args:
        lines: each says what was typed and what is valid.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = list(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command, with its name as `command`. They may be placed anywhere among the overrides, of which
    argparse alone accepts only the first unbroken series.

    Raises:
        UsageError: there is no such command, or it does not accept what was typed.
        SystemExit: help or the version was asked for and printed.
    """
    parser, commands = _parser()
    if arguments[0] not in commands and not arguments[0].startswith("-"):
        raise UsageError(_no_such_command(arguments[0], commands, parser))
    options, rest = parser.parse_known_args(arguments)
    flags = [text for text in rest if text.startswith("-")]
    if flags:
        raise UsageError(*_unknown_options(flags, arguments, options, commands))
    if rest and not hasattr(options, "overrides"):
        _require_no_option(rest[0], commands[options.command])
        raise UsageError(f"{rest[0]}: one argument too many")
    if rest:
        options.overrides = [*options.overrides, *rest]
    _require_places(options, parser=commands[options.command])
    return options


def _require_places(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """A run folder in its place, and no option among the overrides."""
    run, overrides = getattr(options, "run", ""), getattr(options, "overrides", [])
    if re.match(r"[+~]*[\w.]+=", run) and not Path(run).exists():
        usage = f"trivium {options.command} RUN{f' {run}' if hasattr(options, 'overrides') else ''}"
        raise UsageError(f"{options.command}: {run}: a run folder comes first: {usage}")
    for text in overrides:
        _require_no_option(text, parser)


def _require_no_option(text: str, parser: argparse.ArgumentParser) -> None:
    key, _, value = text.partition("=")
    option = parser._option_string_actions.get(f"--{key.replace('_', '-')}")
    if option:
        name = option.option_strings[-1]
        meant = name if option.nargs == 0 else f"{name} {shlex.quote(value) if value else option.metavar or 'VALUE'}"
        raise UsageError(f"{text}: is an option; did you mean '{meant}'?")


def print_help() -> None:
    """What there is, for a command line without a word."""
    _parser()[0].print_help()


# ------------------------------------------------------------------------------------------- what was meant


def _no_such_command(word: str, commands: dict[str, argparse.ArgumentParser], parser: argparse.ArgumentParser) -> str:
    near = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
    if f"--{word}" in parser._option_string_actions:
        hint = f"did you mean 'trivium --{word}'?"
    elif "=" in word:
        hint = f"did you mean 'trivium train {word}'?"
    elif (Path(word) / "config.yaml").is_file():
        hint = f"did you mean 'trivium resume {word}'?"
    elif near:
        hint = f"did you mean '{near[0]}'?"
    else:
        from trivium.config import hints

        meant = hints.for_word(word)
        hint = f"did you mean 'trivium train {meant}'?" if meant else f"valid: {', '.join(commands)}"
    return f"{word}: there is no such command; {hint}"


def _unknown_options(
    flags: list[str],
    arguments: Sequence[str],
    options: argparse.Namespace,
    commands: dict[str, argparse.ArgumentParser],
) -> Iterator[str]:
    """A line for each: options and keys of the config are easily taken for each other."""
    own = list(commands[options.command]._option_string_actions)
    valid = [name for name in own if name.startswith("--")]
    tree: dict[str, Any] = {}
    changeable: tuple[str, ...] = ()
    fixed = options.command == "resume"  # a run's config, but for some groups
    if hasattr(options, "overrides"):
        from trivium.config import composing, hints
        from trivium.config.library import Library

        library = Library(getattr(options, "config_dir", None))
        tree = composing.keys([] if fixed else options.overrides, library.config_dir)
        changeable = composing.RESUMABLE
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            after = [*arguments, "--"][arguments.index(flag) + 1]
            value = "" if after.startswith("-") or "=" in after else after
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.7)
        elsewhere = [command for command, parser in commands.items() if name in parser._option_string_actions]
        meant = hints.for_option(name, value, tree, library, exactly=bool(near or elsewhere)) if tree else None
        if meant and fixed and not meant.startswith(changeable):
            key = name.lstrip("-").replace("-", "_")
            hint = f"{key} can't change when a run is resumed; valid: {', '.join(changeable)}"
        elif name.lstrip("-") in commands:
            hint = f"did you mean 'trivium {' '.join(filter(None, [name.lstrip('-'), value]))}'?"
        elif meant:
            hint = f"did you mean '{meant}'?"
        elif near:
            hint = f"did you mean '{near[0]}'?"
        elif elsewhere:
            hint = f"it is one of trivium {', '.join(elsewhere)}; valid here: {', '.join(valid)}"
        else:
            hint = f"valid: {', '.join(valid)}"
        yield f"{name}: there is no such option; {hint}"


# ------------------------------------------------------------------------------------------- the parser


class _Version(argparse.Action):
    """argparse's own must be told the version beforehand, which takes an import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"trivium {version('trivium')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line with the nearest valid word, in place of argparse's usage and list of choices."""
        choice = re.search(r"argument (\w+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            message = _no_such_choice(choice[1], choice[2], [c.strip(" '") for c in choice[3].split(",")])
        elif message == "the following arguments are required: command":
            valid = next(action.choices for action in self._actions if action.choices)
            message = f"no command; valid: {', '.join(valid)}"
        elif message == "the following arguments are required: RUN":
            from trivium.config import hints

            message += hints.newest_run()
        command = self.prog.partition(" ")[2]
        raise UsageError(f"{command}: {message}" if command else message)


def _no_such_choice(what: str, got: str, valid: list[str]) -> str:
    kinds = [kind for kind, groups in KINDS.items() if kind in valid and got.removesuffix("s") in groups]
    near = kinds or difflib.get_close_matches(got, valid, n=1, cutoff=0.6)
    if not near and what == "kind":
        from trivium.config import hints

        meant = hints.for_word(got)
        near = [f"trivium show {meant}"] if meant else []
    hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid)}"
    return f"{got}: there is no such {what}; {hint}"


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 1")
    return int(text)


def _folder(text: str) -> Path:
    return Path(os.path.expanduser(text))


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of its commands by name."""
    parser = _Parser(
        prog="trivium",
        description="Train supervised networks, generative models and reinforcement-learning agents, one way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=name)
        added.add_argument(
            "--json", action="store_true", help="print the result, or the error, as one line of JSON, stdout's last"
        )
        added.add_argument("--trace", action="store_true", help="show where an error came from")
        return added

    def takes_config(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "overrides",
            nargs="*",
            default=[],
            metavar="key=value",
            help="experiment=..., group=option, dotted.key=value",
        )
        added.add_argument("--config-dir", type=_folder, metavar="DIR", help="a folder with YAML groups of your own")

    def takes_run(added: argparse.ArgumentParser) -> None:
        added.add_argument("run", type=os.path.expanduser, metavar="RUN", help="a run folder, or its URL in a bucket")
        added.add_argument(
            "--trust",
            action="append",
            default=[],
            metavar="MODULE",
            help="a module of yours that the run's config may build",
        )
        added.add_argument(
            "--config-dir", type=_folder, metavar="DIR", help="a folder of yours, beside which such a module is found"
        )

    def takes_way_to_act(added: argparse.ArgumentParser) -> None:
        ways = added.add_mutually_exclusive_group()
        ways.set_defaults(deterministic=None)
        ways.add_argument("--deterministic", action="store_true", default=None, help="act by the policy's best guess")
        ways.add_argument(
            "--stochastic", action="store_false", dest="deterministic", default=None, help="sample the actions"
        )

    train = command("train", "train something new")
    takes_config(train)
    train.add_argument(
        "--dir", type=os.path.expanduser, metavar="PATH", help="the run folder (default: a new one under storage)"
    )
    resume = command("resume", "continue a run from its newest sound checkpoint")
    takes_run(resume)
    resume.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. budget.epochs=20")
    for added in (train, resume):
        added.add_argument("--quiet", action="store_true", help="no progress")
    evaluate = command("evaluate", "measure a run's checkpoint on held-out data or fresh episodes")
    takes_run(evaluate)
    evaluate.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or step-...")
    evaluate.add_argument(
        "--episodes", type=_count, metavar="K", help="how many an agent plays (default: as configured)"
    )
    takes_way_to_act(evaluate)
    play = command("play", "watch an agent play, in a window or as a GIF or MP4")
    takes_run(play)
    play.add_argument(
        "--to",
        type=os.path.expanduser,
        metavar="PLACE",
        help="window, FILE.gif or FILE.mp4 (default: a window where there is a "
        f"display, else {FIGURE} in the run folder)",
    )
    play.add_argument("--episodes", type=_count, default=1, metavar="K", help="how many (default: 1)")
    takes_way_to_act(play)
    play.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same episodes (default: 0)")
    play.add_argument("--max-steps", type=_count, metavar="N", help="cut an episode after so many steps")
    play.add_argument("--size", type=_count, default=640, metavar="PX", help="the picture's longer side, at most")
    play.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or step-...")
    status = command("status", "tell how runs go: finished, failed, stopped, killed or running, and how far")
    status.add_argument(
        "places", nargs="*", type=_folder, metavar="PATH", help="run folders, or folders of runs (default: runs)"
    )
    listing = command("list", "list what there is to train")
    listing.add_argument("kind", nargs="?", choices=list(KINDS))
    listing.add_argument("--config-dir", type=_folder, metavar="DIR", help="a folder with YAML groups of your own")
    takes_config(command("show", "print the resolved config of an experiment or a run"))
    command("doctor", "tell what this machine offers and what is wrong with it")
    return parser, dict(commands.choices)
