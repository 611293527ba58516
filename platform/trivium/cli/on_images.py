"""What the commands share that give a trained model the user's own images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.cli.arguments import accepts_checkpoint, accepts_run
from trivium.cli.importing import importing_torch
from trivium.cli.opening import check_learner, open_run
from trivium.cli.showing import print_table

if TYPE_CHECKING:
    from trivium.loaded import Trained

IMAGES = "FILE.png for a grid, FILE.npy for the array, DIR/ for single images"
TABLE = "a .csv or .parquet file"


def accepts_images(parser: argparse.ArgumentParser, *, out: str, default: str) -> None:
    """The run, a checkpoint, the images, and where the result goes.

    Args:
        out: what `--out` may be.
        default: the name of the result in the run's folder.
    """
    accepts_run(parser)
    parser.add_argument("input", type=os.path.expanduser, metavar="PATH", help="an image, or a folder of images")
    accepts_checkpoint(parser)
    parser.add_argument(
        "--out", type=os.path.expanduser, metavar="PLACE", help=f"{out} (default: {default} in the run)"
    )


def on_images(
    options: argparse.Namespace, ability: str, default: str, use: Callable[[Trained, Path, Path], dict[str, Any]]
) -> dict[str, Any]:
    """Load the model and let it use the images.

    Args:
        ability: the method of `Trained` that is needed.
        default: see `accepts_images`.
        use: called with the model, the images' place and the result's; returns what is added to the result.

    Returns:
        The run, the checkpoint, and what `use` returned.

    Raises:
        ConfigError: there are no such images, the model lacks the ability, or the result can't be written.
    """
    from trivium.config.errors import ConfigError

    path = Path(options.input)
    if not path.exists():
        raise ConfigError([f"{path}: there is no such file or folder"])
    with importing_torch():
        opened = open_run(options)
        check_learner(opened, options, without_data=True)
        from trivium import loaded
    model = loaded.load(opened, checkpoint=options.checkpoint, trusted=options.trust)
    if ability not in model.abilities:
        can = ", ".join(model.abilities) or "do nothing of the kind"
        raise ConfigError([f"{opened.dir} can't {ability}; it can {can}"])
    out = Path(options.out) if options.out else opened.dir / default
    try:
        added = use(model, path, out)
    except ValueError as error:
        raise ConfigError([str(error) if str(path) in str(error) else f"{path}: {error}"]) from error
    except OSError as error:
        raise ConfigError([f"--out {out} can't be written: {error.strerror or error}"]) from error
    result = {"dir": str(opened.dir), "checkpoint": model.checkpoint, **added}
    if not options.json:
        rows = {k: v for k, v in result.items() if k not in ("dir", "files")}
        files = result.get("files", [])
        shown = {"file": files[0] if len(files) == 1 else f"{len(files)} in {out}"} if files else {}
        print_table([(name, str(value)) for name, value in {**rows, **shown}.items()])
    return result


def read(model: Trained, path: Path) -> tuple[Any, Any]:
    """A table with the column `file`, and the images as the model's training had them, [n, C, H, W]."""
    from trivium.data.inputs import files

    assert model.signature is not None
    return files.read_inputs(path, model.signature)


def is_folder(options: argparse.Namespace) -> bool:
    """Whether `--out` is written as a folder, with a slash at its end."""
    return str(options.out or "").endswith(os.sep)


def write_table(table: Any, out: Path) -> list[str]:
    """Write a pandas frame; returns the file's path.

    Raises:
        ValueError: the name has another ending.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out {out}: must end in .csv or .parquet")
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(out) if out.suffix == ".parquet" else table.to_csv(out, index=False)
    return [str(out)]
