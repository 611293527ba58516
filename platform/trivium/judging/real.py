"""Real images, and what a classifier makes of them and of others.

Shapes: N images, X... the shape of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trivium.data.inputs.prepared import prepared
from trivium.data.source import Source, Splits
from trivium.learner import Features, Predicts
from trivium.loaded import CHUNK, Trained
from trivium.quality.classes import agreement
from trivium.quality.neighbours import nearest

MOST_REAL = 10_000  # held-out images, for the distances


class Seen(NamedTuple):
    """What a classifier makes of images."""

    feature_ND: Tensor
    class_N: Tensor


class Real:
    """The images of a data set, as a classifier sees them.

    Attributes:
        image_NX: held-out images: all of the test split, or as many of them, chosen by chance, as are compared with.
        seen: what the classifier makes of them.
    """

    def __init__(self, data: Splits, judging: Trained, seed: int) -> None:
        self.data, self.judging, self.seed = data, judging, seed
        rows = _chosen(data.test, MOST_REAL, seed)
        self.image_NX, self.label_N = rows["x"].float(), rows.get("y")
        self.seen = self.look(self.image_NX)
        assert judging.signature is not None
        self.num_classes = int(judging.signature.offers["num_outputs"])

    def look(self, image_NX: Tensor) -> Seen:
        """What the classifier makes of images, float [N, X...] in [0, 1]."""
        learner, signature = self.judging.learner, self.judging.signature
        assert isinstance(learner, Features)
        assert isinstance(learner, Predicts)
        assert signature is not None
        features, classes = [], []
        for part in image_NX.split(CHUNK):
            inputs = prepared(part, signature)
            features.append(learner.features(inputs))
            classes.append(learner.predict(inputs)["classes"])
        return Seen(torch.cat(features), torch.cat(classes))

    def of_training(self, num: int) -> Tensor:
        """Training images, chosen by chance."""
        return _chosen(self.data.train, num, self.seed)["x"].float()

    def nearest_of_training(self, image_NX: Tensor) -> Tensor:
        """The distance of images to the nearest training image, float32 [N]."""

        def parts() -> Iterator[Tensor]:
            for index_B in torch.arange(len(self.data.train)).split(CHUNK):
                yield self.data.train.batch(index_B)["x"].flatten(1)

        return nearest(image_NX.flatten(1), parts())

    def accuracy(self) -> float | None:
        """Of the classifier on the held-out images; None if the data have no classes."""
        if self.label_N is None or self.label_N.shape != self.seen.class_N.shape:
            return None
        return agreement(self.seen.class_N, self.label_N)


def require_classifier(judging: Trained, data: Splits) -> None:
    """
    Raises:
        ValueError: it is no classifier, or not one of such images.
    """
    about = judging.signature
    if about is None or about.task != "classification" or not isinstance(judging.learner, Features):
        raise ValueError(f"--classifier is a {type(judging.learner).__name__} that sorts nothing into classes")
    if tuple(about.inputs) != ("x",) or about.preparation.get("kind") != "image":
        raise ValueError("--classifier does not classify images")
    theirs, ours = list(about.offers["input_shape"]), list(data.signature.offers["input_shape"])
    if theirs != ours:
        raise ValueError(f"--classifier was trained on images {theirs}, the run on {ours}")


def _chosen(source: Source, most: int, seed: int) -> dict[str, Tensor]:
    """Rows of a source: all, or as many chosen by chance: those at its beginning may be of one kind."""
    size = len(source)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:most]
    return source.batch(order)
