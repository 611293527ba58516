"""Images with one label each, as sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trivium.data.source import Signature, Splits, Tensors

Pair = tuple[np.ndarray, np.ndarray]


def labelled_images(train: Pair, val: Pair, test: Pair, *, class_names: Sequence[str], normalize: bool) -> Splits:
    """Three splits of images held in memory.

    Args:
        train, val, test: float32 [n, C, H, W] in [0, 1] and integers [n] in [0, len(class_names)).
        class_names: in the order of the labels.
        normalize: subtract each channel's mean over the training split and divide by its standard deviation;
            otherwise the pixels stay in [0, 1], as generative models expect them.

    Returns:
        Columns `x`, float32 [n, C, H, W], and `y`, int64 [n].
    """
    preparation: dict[str, object] = {"kind": "image", "scale": 255}
    if normalize:
        mean_C = train[0].mean(axis=(0, 2, 3), dtype=np.float64)
        std_C = np.maximum(train[0].std(axis=(0, 2, 3), dtype=np.float64), 1e-6)
        preparation |= {"mean": mean_C.tolist(), "std": std_C.tolist()}

    def source(images: np.ndarray, labels: np.ndarray) -> Tensors:
        if normalize:
            scale, shift = (1 / std_C)[:, None, None], (mean_C / std_C)[:, None, None]
            images = images * scale.astype(np.float32) - shift.astype(np.float32)
        x = torch.from_numpy(np.ascontiguousarray(images))
        return Tensors(x=x, y=torch.from_numpy(labels.astype(np.int64)))

    offers = {
        "input_shape": tuple(train[0].shape[1:]),
        "num_outputs": len(class_names),
        "class_names": tuple(class_names),
        "class_counts": tuple(np.bincount(train[1], minlength=len(class_names)).tolist()),
    }
    signature = Signature(task="classification", offers=offers, preparation=preparation)
    return Splits(source(*train), source(*val), source(*test), signature)
