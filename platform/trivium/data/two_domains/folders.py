"""Two folders of images, one for each domain."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Range, Seed
from trivium.data.image_folder import SHOWN, SUFFIXES, THREADS, Mode, opened, pixels
from trivium.data.source import Signature, Splits, Tensors
from trivium.data.splitting import split_rows


@checks_keywords
def two_folders(
    *,
    path: str,
    other_path: str,
    size: Annotated[int, Range(ge=4)],
    mode: Mode = "auto",
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.1,
    split_seed: Seed = 0,
) -> Splits:
    """Images of two domains that do not belong together in pairs: all that lie in two folders and in folders below.

    Where one folder has fewer images, they come more often, so that the domains are of one length. Images are scaled
    and cropped as `image_folder` does; of files with the same bytes in a folder only the first is used.

    Args:
        path, other_path: the folders of domain A and of domain B, see `find_data`.
        size: pixels of a side, >= 4.
        mode: `grey` (1 channel) or `colour` (3), in both domains; `auto`: colour, unless all images are grey.
        val_fraction, test_fraction, split_seed: of each domain, see `trivium.data.splitting.split_rows`.

    Returns:
        Columns `x`, float32 [n, C, size, size] of domain A, and `other`, of domain B.

    Raises:
        ValueError: a number is out of range, a folder is not there or holds fewer than 3 different images, or an image
            can't be decoded; names the files.
    """
    opened_of = {name: _opened(find_data(place), name) for name, place in (("path", path), ("other_path", other_path))}
    everything = [image for images in opened_of.values() for image in images]
    grey = mode == "grey" or (mode == "auto" and all(image.mode in ("L", "1", "I;16") for image in everything))
    parts: list[list[torch.Tensor]] = []
    for name, images in opened_of.items():
        array = torch.from_numpy(np.stack([pixels(image, (size, size), grey) for image in images]))
        index = split_rows(
            len(array), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed,
            rows="different images", names=f"{name}: ",
        )  # fmt: skip
        parts.append([array[torch.from_numpy(rows)] for rows in index])
    shape = (1 if grey else 3, size, size)
    train, val, test = (_alike(a, b) for a, b in zip(*parts, strict=True))
    signature = Signature(
        offers={"input_shape": shape, "other_shape": shape, "paired": False},
        preparation={"kind": "image", "scale": 255},
    )
    return Splits(train, val, test, signature)


def _alike(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    """Both as long as the longer one."""
    most = torch.arange(max(len(a), len(b)))
    return Tensors(x=a[most % len(a)], other=b[most % len(b)])


def _opened(folder: Path, name: str) -> list[Image.Image]:
    if not folder.is_dir():
        raise ValueError(f"{name}={folder}: there is no such folder")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ValueError(f"{name}={folder} holds no image ({', '.join(SUFFIXES)})")
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(opened, files))
    wrong = [f"{file} ({result})" for file, result in zip(files, results, strict=True) if isinstance(result, str)]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(f"images can't be decoded: {'; '.join(wrong[:SHOWN])}{more}")
    different = {result[1]: result[0] for result in reversed(results) if not isinstance(result, str)}
    return list(reversed(different.values()))
