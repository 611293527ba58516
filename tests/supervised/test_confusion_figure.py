from __future__ import annotations

import numpy as np
import pytest
import torch

from trivium.supervised.figures import confusion_figure


def test_a_right_answer_is_green_an_error_red_and_nothing_white() -> None:
    confusion = torch.tensor([[5, 0], [5, 0]])
    figure = confusion_figure(confusion, ["a", "b"], width=400)
    assert figure.dtype == np.uint8
    assert figure.shape == (400, 400, 3)
    pixels = figure.reshape(-1, 3).astype(int)

    def near(colour: tuple[int, int, int]) -> int:
        return int((abs(pixels - colour).max(1) <= 2).sum())

    assert near((13, 115, 89)) > 5000  # all of class 0 right
    assert near((191, 38, 31)) > 5000  # all of class 1 taken for class 0
    assert near((255, 255, 255)) > 10000


def test_many_classes_and_classes_without_samples_can_be_drawn() -> None:
    assert confusion_figure(torch.eye(60).long(), [f"class {i}" for i in range(60)], width=300).shape == (300, 300, 3)
    assert confusion_figure(torch.zeros(3, 3).long(), "abc", title="val", width=300).shape == (300, 300, 3)


def test_names_must_fit_the_classes() -> None:
    with pytest.raises(ValueError, match="class_names has 2 names for 3 classes"):
        confusion_figure(torch.eye(3).long(), "ab")
