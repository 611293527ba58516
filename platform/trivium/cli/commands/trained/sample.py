"""`trivium sample`: draw new samples from a generative model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.cli import continuing
from trivium.cli.arguments import accepts_checkpoint, accepts_run, accepts_way_to_sample, count
from trivium.cli.continuing import accepts_prompt
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import print_table

HELP = "draw new samples from a generative model: a grid, single images, an array, or texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_run(parser)
    accepts_checkpoint(parser)
    parser.add_argument("--num", type=count, metavar="N", help="how many (default: 64; 1 text)")
    parser.add_argument(
        "--class", dest="label", type=int, metavar="K", help="of a conditional model (default: the classes in turn)"
    )
    accepts_way_to_sample(parser)
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        metavar="PLACE",
        help="FILE.png for a grid, FILE.npy for the array, DIR/ for single images (default: samples.png in the run)",
    )
    ways = parser.add_mutually_exclusive_group()
    for name, what in (("interpolate", "between two latents"), ("traverse", "along single latent dimensions")):
        ways.add_argument(
            f"--{name}",
            type=steps,
            nargs="?",
            const=8,
            metavar="STEPS",
            help=f"samples {what}, N rows of STEPS (default: 8); --out FILE.gif shows them one after the other",
        )
    accepts_prompt(parser)


def steps(text: str) -> int:
    """A whole number >= 2."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 2")
    return int(text)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Sample; returns the run, the checkpoint, the seed and the files that were written, or the texts."""
    with importing_torch():
        opened = open_run(options)
        check_learner(opened, options, without_data=True)
        from trivium import loaded
        from trivium.cli.ways import write_ways
        from trivium.config.errors import ConfigError
        from trivium.data import pictures

    model = loaded.load(opened, checkpoint=options.checkpoint, trusted=options.trust)
    if "continue_text" in model.abilities:
        texts = continuing.texts(model, options, num=options.num or 1, seed=options.seed)
        if not options.json:
            print("\n\n".join(texts))
        return {"dir": str(opened.dir), "checkpoint": model.checkpoint, "seed": options.seed, "texts": texts}
    out = Path(options.out) if options.out else opened.dir / "samples.png"
    given = {name: getattr(options, name) for name in ("steps", "guidance", "truncation")}
    how = {name: value for name, value in given.items() if value is not None}
    dimensions: list[int] = []
    try:
        if options.interpolate or options.traverse:
            if options.traverse:
                ways, dimensions = model.traverse(options.num or 10, steps=options.traverse, label=options.label, **how)
            else:
                ways = model.interpolate(
                    options.num or 8, steps=options.interpolate, seed=options.seed, label=options.label, **how
                )
            samples = ways.reshape(-1, *ways.shape[2:])
            files = write_ways(ways, out, folder=str(options.out or "").endswith(os.sep))
        else:
            samples = model.sample(options.num or 64, seed=options.seed, label=options.label, **how)
            files = pictures.write(samples, out, folder=str(options.out or "").endswith(os.sep))
    except (TypeError, ValueError) as error:
        raise ConfigError([f"{opened.dir} can't be sampled so: {error}"]) from error
    except OSError as error:
        raise ConfigError([f"--out {out} can't be written: {error.strerror or error}"]) from error
    result = {"dir": str(opened.dir), "checkpoint": model.checkpoint, "seed": options.seed, "files": files}
    if dimensions:
        result["dimensions"] = dimensions
    if not options.json:
        shown = files[0] if len(files) == 1 else f"{len(files)} in {out}"
        rows = [("dimensions", ", ".join(map(str, dimensions)))] if dimensions else []
        print_table([("checkpoint", model.checkpoint), ("samples", str(len(samples))), *rows, ("file", shown)])
    return result
