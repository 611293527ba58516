"""`trivium encode`: write the codes of the user's images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trivium.cli.on_images import TABLE, accepts_images, on_images, read, write_table

HELP = "write the codes that an autoencoder gives images"
DEFAULT = "codes.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_images(parser, out=f"{TABLE}, or .npy for the array", default=DEFAULT)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Encode; returns the run, the checkpoint, the length of a code, and the file: a table with the columns `file`,
    `code_0`, `code_1`, ..., or the array."""

    def use(model: Any, path: Path, out: Path) -> dict[str, Any]:
        import numpy as np
        import pandas as pd

        rows, images = read(model, path)
        codes = model.encode(images)
        flat = codes.reshape(len(codes), -1)
        if out.suffix == ".npy":
            out.parent.mkdir(parents=True, exist_ok=True)
            np.save(out, codes)
            files = [str(out)]
        else:
            named = pd.DataFrame(flat, columns=[f"code_{i}" for i in range(flat.shape[1])])
            files = write_table(pd.concat([rows, named], axis=1), out)
        return {"images": len(codes), "numbers": flat.shape[1], "files": files}

    return on_images(options, "encode", DEFAULT, use)
