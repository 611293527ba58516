"""`trivium reconstruct`: encode the user's images and restore them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trivium.cli.on_images import IMAGES, accepts_images, is_folder, on_images, read

HELP = "show what an autoencoder makes of images"
DEFAULT = "reconstructions.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_images(parser, out=IMAGES, default=DEFAULT)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Reconstruct; returns the run, the checkpoint, the mean squared error of a pixel, and the files. A grid shows each
    row of originals above what was made of them."""

    def use(model: Any, path: Path, out: Path) -> dict[str, Any]:
        from trivium.data import pictures

        _, images = read(model, path)
        again = model.reconstruct(images)
        files = pictures.write(again, out, folder=is_folder(options), above=images)
        return {"images": len(again), "error": float(((again - images) ** 2).mean()), "files": files}

    return on_images(options, "reconstruct", DEFAULT, use)
