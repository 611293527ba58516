"""`trivium translate`: translate the user's images into the other domain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trivium.cli.on_images import IMAGES, accepts_images, is_folder, on_images, read

HELP = "translate images into the other domain of a CycleGAN"
DEFAULT = "translations.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_images(parser, out=IMAGES, default=DEFAULT)
    parser.add_argument("--back", action="store_true", help="from the second domain to the first")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Translate; returns the run, the checkpoint and the files. A grid shows each row of originals above their
    translations."""

    def use(model: Any, path: Path, out: Path) -> dict[str, Any]:
        from trivium.data import pictures

        _, images = read(model, path)
        translated = model.translate(images, back=options.back)
        above = images if images.shape == translated.shape else None
        files = pictures.write(translated, out, folder=is_folder(options), above=above)
        return {"images": len(translated), "files": files}

    return on_images(options, "translate", DEFAULT, use)
