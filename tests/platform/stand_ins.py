"""Small files in place of the data sets that experiments name and Trivium does not ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_data(folder: Path) -> None:
    """MNIST of noise in its four files, a text, and a table."""
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
