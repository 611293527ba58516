"""`trivium upscale`: enlarge the user's images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trivium.cli.on_images import accepts_images, on_images

HELP = "enlarge images of any size with an SRGAN"
DEFAULT = "enlarged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_images(parser, out="DIR", default=DEFAULT)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Enlarge each image at its own size; returns the run, the checkpoint and the files, which have the images' names
    and the ending `.png`."""

    def use(model: Any, path: Path, out: Path) -> dict[str, Any]:
        from trivium.data import pictures
        from trivium.data.inputs import files

        channels = model.signature.offers["input_shape"][0]
        written = []
        for file, image in files.read_images(path, grey=channels == 1):
            below = file.relative_to(path) if path.is_dir() else Path(file.name)
            place = out / below.with_name(f"{below.stem}.png")
            written.append(pictures.write_one(model.upscale(image[None])[0], place))
        return {"images": len(written), "files": written}

    return on_images(options, "upscale", DEFAULT, use)
