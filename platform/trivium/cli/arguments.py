"""Arguments that several commands accept, each declared once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def accepts_config(parser: argparse.ArgumentParser) -> None:
    """Overrides of a config that is composed, and the user's own YAML."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="experiment=..., group=option, dotted.key=value",
    )
    parser.add_argument("--config-dir", type=folder, metavar="DIR", help="a folder with YAML groups of your own")


def accepts_changes(parser: argparse.ArgumentParser) -> None:
    """Overrides of the config in a run folder, of which only some groups may change."""
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. budget.epochs=20")
    parser.set_defaults(changes_a_run=True)


def accepts_run(parser: argparse.ArgumentParser) -> None:
    """A run folder, and which of the user's modules its config may build."""
    parser.add_argument("run", type=os.path.expanduser, metavar="RUN", help="a run folder, or its URL in a bucket")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of yours that the run's config may build",
    )
    parser.add_argument(
        "--config-dir", type=folder, metavar="DIR", help="a folder of yours, next to which such a module is found"
    )


def accepts_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or step-...")


def accepts_way_to_act(parser: argparse.ArgumentParser) -> None:
    """How an agent chooses its actions: `deterministic` is True, False, or None for as configured."""
    ways = parser.add_mutually_exclusive_group()
    ways.set_defaults(deterministic=None)
    ways.add_argument("--deterministic", action="store_true", default=None, help="act by the policy's best guess")
    ways.add_argument(
        "--stochastic", action="store_false", dest="deterministic", default=None, help="sample the actions"
    )


def accepts_way_to_sample(parser: argparse.ArgumentParser) -> None:
    """What decides which samples are drawn; what a model does not know it refuses."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same samples (default: 0)")
    parser.add_argument("--steps", type=count, metavar="N", help="of a diffusion model (default: as configured)")
    parser.add_argument("--guidance", type=float, metavar="W", help="of a conditional diffusion model")
    parser.add_argument(
        "--truncation",
        type=float,
        metavar="PSI",
        help="of a StyleGAN2: how far styles are from their mean, 1: all the way",
    )


def trains(parser: argparse.ArgumentParser) -> None:
    """The command trains a run: it may be quiet, and it goes on when nobody can read what it prints."""
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(of_a_run=True)


def count(text: str) -> int:
    """A whole number >= 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 1")
    return int(text)


def folder(text: str) -> Path:
    """A path, with `~` expanded."""
    return Path(os.path.expanduser(text))
