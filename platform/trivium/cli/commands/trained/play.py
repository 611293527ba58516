"""`trivium play`: watch an agent play."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.cli.arguments import accepts_checkpoint, accepts_run, accepts_way_to_act, count
from trivium.cli.errors import UsageError
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import print_table

if TYPE_CHECKING:
    from trivium.learner import Episode

HELP = "watch an agent play, in a window or as a GIF or MP4"
FIGURE = "figures/play.gif"  # the file in the run folder where there is no display and no other file is named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_run(parser)
    parser.add_argument(
        "--to",
        type=os.path.expanduser,
        metavar="PLACE",
        help="window, FILE.gif or FILE.mp4 (default: a window where there is a "
        f"display, else {FIGURE} in the run folder)",
    )
    parser.add_argument("--episodes", type=count, default=1, metavar="K", help="how many (default: 1)")
    accepts_way_to_act(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed, the same episodes (default: 0)"
    )
    parser.add_argument("--max-steps", type=count, metavar="N", help="cut an episode after N steps")
    parser.add_argument("--size", type=count, default=640, metavar="PX", help="the picture's longer side, at most")
    accepts_checkpoint(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Play; returns what `trivium.trained.play` does."""
    to = _place(options.to)
    with importing_torch():
        opened = open_run(options)
        check_learner(opened, options)
        from trivium import trained

    if to == Path(FIGURE):
        to = opened.dir / FIGURE

    def show(number: int, episode: Episode) -> None:
        if not options.json:
            print(
                f"  episode {number}: return {episode.total:.6g}, {episode.length:,} steps, {episode.ended}", flush=True
            )

    result = trained.play(
        opened,
        to=to,
        episodes=options.episodes,
        deterministic=options.deterministic,
        seed=options.seed,
        max_steps=options.max_steps,
        size=options.size,
        checkpoint=options.checkpoint,
        trusted=options.trust,
        tell=show,
    )
    if not options.json:
        rows = [("mean return", f"{result['return_mean']:.6g}")] if options.episodes > 1 else []
        rows += [("checkpoint", result["checkpoint"]), ("file", result["file"] or "none: it was shown in a window")]
        print_table(rows)
    return result


def _place(to: str | None) -> Path | None:
    """A file, or None for a window; where nothing is said, a window if there is a display, else `FIGURE`."""
    display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if to is None:
        return None if display else Path(FIGURE)
    if to == "window":
        if not display:
            raise UsageError("play: --to window: there is no display here; --to FILE.gif writes a file")
        return None
    if Path(to).suffix not in (".gif", ".mp4"):
        raise UsageError(f"play: --to {to}: valid are window, FILE.gif, FILE.mp4")
    return Path(to).absolute()
