"""`trivium data check`: show what a data set is taken to be, before anything is trained on it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.cli.arguments import accepts_config
from trivium.cli.errors import UsageError
from trivium.cli.importing import importing_torch
from trivium.cli.showing import print_table
from trivium.config.import_places import look_in

HELP = "show what a file, a folder or data=... is taken to be: types, classes, missing values, examples"
DEFAULTS = ["learner=supervised", "model=mlp", "budget.epochs=1"]  # a config needs them; they are not used
KINDS = {".csv": "table", ".tsv": "table", ".parquet": "table", ".zip": "image_folder", ".txt": "text"}
PICTURES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", choices=["check"], help="check")
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        metavar="FILE.png",
        default="data_check.png",
        help="where images are drawn (default: data_check.png)",
    )
    accepts_config(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build the data set alone and print what it is; returns that as JSON."""
    from trivium.config.composing import compose

    typed = [part for item in options.overrides for part in _of_path(item)]
    if not typed:
        raise UsageError("data check: name a file or a folder, or a data set as data=table data.path=...")
    if not any(item.partition("=")[0] in ("experiment", "learner", "agent") for item in typed):
        typed = [*DEFAULTS, *typed]
    look_in(os.getcwd())
    _require_target(typed)
    with importing_torch():
        config = compose(typed, options.config_dir)
        from trivium.data.shown import describing
        from trivium.training import builder

    data = builder.build_data(config)
    found = describing.described(data)
    if pictures := _draw(data, Path(options.out)):
        found["pictures"] = pictures
    if not options.json:
        _print(found)
    return found


def _of_path(item: str) -> list[str]:
    """A path as the data set that it is; anything else as it is.

    Raises:
        UsageError: no data set is read from such a file.
    """
    if "=" in item:
        return [item]
    path = Path(os.path.expanduser(item))
    if not path.exists():
        raise UsageError(f"data check: {item}: there is no such file or folder, and it is no key=value")
    kind = "image_folder" if path.is_dir() else KINDS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"data check: {item}: valid are a folder of images, or files {', '.join(sorted(KINDS))}")
    return [f"data={kind}", f"data.path={path}"]


def _require_target(typed: list[str]) -> None:
    """A table has a column to predict: what it could be is in the file.

    Raises:
        UsageError: none is named; names the columns.
        ConfigError: the file can't be read.
    """
    given = dict(item.split("=", 1) for item in typed if "=" in item)
    if given.get("data") != "table" or "data.target" in given or "data.path" not in given:
        return
    from trivium.boundary.places import find_data
    from trivium.config.errors import ConfigError
    from trivium.data.table import read_frame

    path = find_data(given["data.path"])
    try:
        columns = ", ".join(map(str, read_frame(path)))
    except ValueError as error:
        raise ConfigError([f"data.{error}"]) from error
    raise UsageError(f"data check: {path}: choose the column to predict, data.target=<{columns}>")


def _draw(data: Any, out: Path) -> str | None:
    """A grid of the first images of the training split, if they are images."""
    import torch
    from PIL import Image

    from trivium.config.errors import ConfigError
    from trivium.data.pictures import image_grid

    rows = data.train.batch(torch.arange(min(PICTURES, len(data.train))))
    images = rows[data.signature.inputs[0]]
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        return None
    least, most = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    if float(least.min()) < 0 or float(most.max()) > 1:  # standardised
        images = (images - least) / (most - least).clamp(min=1e-6)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_grid(images, columns=8, width=640)).save(out)
    except (OSError, ValueError) as error:
        raise ConfigError([f"--out {out} can't be written: {error}"]) from error
    return str(out)


def _print(found: dict[str, Any]) -> None:
    print(f"task: {found['task'] or 'none: there is no target'}")
    print("rows:", ", ".join(f"{name} {number:,}" for name, number in found["rows"].items()))
    print("tensors:")
    print_table([(name, _tensor(column)) for name, column in found["columns"].items()])
    if "features" in found:
        print("columns:")
        print_table([(name, _feature(feature)) for name, feature in found["features"].items()])
    if "classes" in found:
        print("classes (train, val, test):")
        print_table([(name, ", ".join(f"{n:,}" for n in counts)) for name, counts in found["classes"].items()])
    for name, of in found.get("target", {}).items():
        print(f"target {name}: {of['least']:.4g} to {of['most']:.4g}, mean {of['mean']:.4g}, std {of['std']:.4g}")
    if "vocabulary" in found:
        first = found["vocabulary"]["first"]
        shown = f": {' '.join(map(repr, first))} ..." if first else ""
        print(f"vocabulary: {found['vocabulary']['size']:,} tokens{shown}")
    for number, example in enumerate(found["examples"], start=1):
        print(f"example {number}:")
        print_table([(name, _value(value)) for name, value in example.items()])
    if "pictures" in found:
        print(f"pictures: {found['pictures']}")
    for name, count in found["repeated"].items():
        if count:
            share = count / found["rows"][name]
            print(f"warning: {count:,} rows of {name} ({share:.1%}) have inputs that an earlier split holds too")


def _tensor(column: dict[str, Any]) -> str:
    each = f"[{', '.join(map(str, column['shape']))}]" if column["shape"] else "a number"
    return f"{column['dtype']}, {each} a row, {column['least']:.4g} to {column['most']:.4g}"


def _feature(feature: dict[str, Any]) -> str:
    missing = f", {feature['missing']:,} missing" if feature["missing"] else ""
    if feature["kind"] == "number":
        return f"number, mean {feature['mean']:.4g}, std {feature['std']:.4g}{missing}"
    more = ", ..." if feature["values"] > len(feature["first"]) else ""
    unknown = missing.replace("missing", "missing or not in the training split")
    return f"{feature['values']} categories: {', '.join(feature['first'])}{more}{unknown}"


def _value(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and ("\n" in value or not value.strip()) else str(value)
    return text if len(text) <= 300 else f"{text[:300]} ..."
