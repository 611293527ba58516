"""200,000 images of 64 x 64 read from a file while a small network trains, against the same rows held in memory.

python benchmarks/images_on_disk.py [--images 200000] [--updates 200]

Prints samples per second of both (the median of five, alternating), their ratio, and the resident memory of a process
that trains from the file alone. The file of pixels, 2.5 GB, is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from trivium.data.images_on_disk import Decoded, ImagesOnDisk
from trivium.data.source import Signature, Source, Splits, Tensors
from trivium.learner import Run
from trivium.supervised.learner import Supervised
from trivium.supervised.models.lenet import LeNet

SHAPE = (3, 64, 64)
IN_MEMORY = 10_000  # rows: as float32 half a gigabyte


def learner(train: Source) -> Supervised:
    x = torch.rand(64, *SHAPE)
    other = Tensors(x=x, y=torch.arange(64) % 10)
    offers = {"input_shape": SHAPE, "num_outputs": 10, "class_names": tuple("0123456789")}
    data = Splits(train, other, other, Signature("classification", offers=offers))
    sgd = functools.partial(torch.optim.SGD, momentum=0.9)
    return Supervised(run=Run(), data=data, model=LeNet, optimizer=sgd, lr=0.01, batch_size=128)


def samples_per_s(of: Supervised, updates: int) -> float:
    begin = time.perf_counter()
    for _ in range(updates):
        of.step()
    return updates * 128 / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--updates", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.u8"
        random = np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(options.images // 1000):
                file.write(random.integers(0, 256, (1000, *SHAPE), dtype=np.uint8).tobytes())
        labels = np.arange(options.images) % 10
        on_disk = ImagesOnDisk(Decoded(path, SHAPE, labels, labels), np.arange(options.images))
        disk = learner(on_disk)
        samples_per_s(disk, options.updates)
        print(f"resident memory while training from the file: {psutil.Process().memory_info().rss / 2**20:,.0f} MiB")
        memory = learner(Tensors(**on_disk.batch(torch.arange(IN_MEMORY))))
        speeds = [(samples_per_s(disk, options.updates), samples_per_s(memory, options.updates)) for _ in range(5)]
        ours, theirs = (statistics.median(of) for of in zip(*speeds, strict=True))
        ratio = statistics.median(a / b for a, b in speeds)
        print(f"from the file {ours:,.0f} samples/s, from memory {theirs:,.0f}: {ratio:.2f}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
