"""`trivium predict`: say what a trained model makes of the user's own files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from trivium.cli import continuing
from trivium.cli.arguments import accepts_checkpoint, accepts_run
from trivium.cli.continuing import accepts_prompt
from trivium.cli.errors import UsageError
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import print_table

HELP = "predict for a table's rows, images or texts, or continue a text, without the training data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_run(parser)
    parser.add_argument(
        "input",
        nargs="?",
        type=os.path.expanduser,
        metavar="PATH",
        help="a .csv or .parquet table, an image or a .txt file, a folder of them, or - for standard input",
    )
    accepts_checkpoint(parser)
    parser.add_argument("--scores", action="store_true", help="add a column with the probability of each class")
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        metavar="FILE",
        help="a .csv or .parquet file; - for standard output (default: predictions.csv in the run)",
    )
    accepts_prompt(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Predict; returns the run, the checkpoint, the number of rows and the file; or the text."""
    from trivium.config.errors import ConfigError

    if (options.input is None) == (options.prompt is None):
        raise UsageError("predict: name either a file, a folder or -, or a text to continue with --prompt")
    path = Path(options.input or "-")
    if options.input not in (None, "-") and not path.exists():
        raise ConfigError([f"{path}: there is no such file or folder"])
    if options.out == "-" and options.json:
        raise ConfigError(["--out -: standard output is for --json; name a file"])
    if options.out not in (None, "-") and Path(options.out).suffix not in (".csv", ".parquet"):
        raise ConfigError([f"--out {options.out}: must end in .csv or .parquet"])
    with importing_torch():
        opened = open_run(options)
        check_learner(opened, options, without_data=True)
        from trivium import loaded
        from trivium.data.inputs import files

    model = loaded.load(opened, checkpoint=options.checkpoint, trusted=options.trust)
    if options.prompt is not None:
        [text] = continuing.texts(model, options, num=1, seed=0)
        if not options.json:
            print(text)
        return {"dir": str(opened.dir), "checkpoint": model.checkpoint, "text": text}
    if model.signature is None or "predict" not in model.abilities:
        raise ConfigError(
            [f"{opened.dir} can't predict; it can {', '.join(model.abilities) or 'do nothing of the kind'}"]
        )
    try:
        rows, inputs = (
            files.read_standard_input(model.signature)
            if options.input == "-"
            else files.read_inputs(path, model.signature)
        )
        table = files.with_answers(rows, model.predict(inputs), model.signature, every_class=options.scores)
    except ValueError as error:
        where = "standard input" if options.input == "-" else str(path)
        raise ConfigError([f"{where}: {error}" if str(path) not in str(error) else str(error)]) from error
    result = {"dir": str(opened.dir), "checkpoint": model.checkpoint, "rows": len(table), "file": None}
    if options.out == "-":
        table.to_csv(sys.stdout, index=False)
        return result
    out = Path(options.out) if options.out else opened.dir / "predictions.csv"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(out) if out.suffix == ".parquet" else table.to_csv(out, index=False)
    except OSError as error:
        raise ConfigError([f"--out {out} can't be written: {error.strerror or error}"]) from error
    if not options.json:
        print_table([("checkpoint", model.checkpoint), ("rows", str(len(table))), ("file", str(out))])
    return result | {"file": str(out)}
