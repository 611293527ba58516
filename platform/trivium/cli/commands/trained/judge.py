"""`trivium judge`: say how good the samples of a generative model are."""

from __future__ import annotations

import argparse
import os
from typing import Any

from trivium.cli.arguments import accepts_checkpoint, accepts_run, accepts_way_to_sample, count
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import print_table

HELP = "measure how good a generative model's samples are, in the features of a classifier"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_run(parser)
    parser.add_argument(
        "--classifier",
        type=os.path.expanduser,
        required=True,
        metavar="RUN",
        help="a run of a classifier of the same images, such as experiment=lenet_mnist",
    )
    accepts_checkpoint(parser)
    parser.add_argument("--num", type=count, metavar="N", help="samples (default: 5000, at most the test images)")
    accepts_way_to_sample(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge; returns what `trivium.judging.judge.judge` does."""
    with importing_torch():
        opened = open_run(options)
        check_learner(opened, options)
        from trivium.judging import judge

    how = {name: getattr(options, name) for name in ("steps", "guidance", "truncation")}
    result = judge.judge(
        opened,
        classifier=options.classifier,
        num=options.num,
        seed=options.seed,
        checkpoint=options.checkpoint,
        trusted=options.trust,
        **{name: value for name, value in how.items() if value is not None},
    )
    if not options.json:
        by, metrics = result["classifier"], result["metrics"]
        right = "" if by["accuracy"] is None else f", right on {by['accuracy']:.2%} of the test images"
        print(f"{result['checkpoint']} of {result['dir']}, judged by {by['name']} {by['sha256']}{right}")
        rows = []
        for name, value in metrics.items():
            if not name.endswith(("_real", "_noise")):
                others = {word: metrics[f"{name}_{word}"] for word in ("real", "noise") if f"{name}_{word}" in metrics}
                said = ", ".join(f"{word} {other:.4g}" for word, other in others.items())
                rows.append((name, f"{value:.4g}" + (f"   ({said})" if said else "")))
        print_table(rows)
    return result
