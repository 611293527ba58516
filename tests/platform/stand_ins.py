"""Small files in place of the data sets that experiments name and Trivium does not ship."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_data(folder: Path) -> None:
    """MNIST of noise in its four files, a text, a table, and CIFAR-10 of noise in its archive."""
    random = np.random.default_rng(0)
    (folder / "mnist").mkdir()
    for name, count in (("train", 5300), ("t10k", 40)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / "mnist" / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
    (folder / "tinyshakespeare.txt").write_text("To be, or not to be: that is the question.\n" * 500)
    rows = [f"{i % 50},{('Ulm', 'Bonn')[i % 2]},{100_000 + 1234.5 * (i % 50)}" for i in range(200)]
    (folder / "homes.csv").write_text("\n".join(["size,town,price", *rows]))
    with zipfile.ZipFile(folder / "cifar10-jpeg-subset.zip", "w") as archive:
        for split, count in (("train", 20), ("test", 2)):
            for label, i in itertools.product(("airplane", "bird", *"cdefghij"), range(count)):
                jpeg = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(jpeg, "JPEG")
                archive.writestr(f"{split}/{label}/{i}.jpg", jpeg.getvalue())
