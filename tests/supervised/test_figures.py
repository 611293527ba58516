"""Curves and worst examples: their points by hand, and which samples are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trivium.data.source import Signature, Tensors
from trivium.supervised import worst
from trivium.supervised.figures import captioned_figure, curve_points, curves_figure, lines_figure
from trivium.supervised.metrics import average_precision, roc_auc
from trivium.supervised.tasks.classification import Classification
from trivium.supervised.tasks.regression import Regression


def test_points_by_hand() -> None:
    points = curve_points(torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([True, False, True, False]))
    assert points is not None
    assert points["recall"].tolist() == [0, 0.5, 1, 1]
    assert points["false_positive_rate"].tolist() == [0, 0, 0.5, 1]
    assert points["precision"].tolist() == [1, 1, 2 / 3, 0.5]
    assert curve_points(torch.rand(3), torch.ones(3, dtype=torch.bool)) is None


def test_the_areas_under_the_points_are_the_scores() -> None:
    torch.manual_seed(0)
    score, positive = (torch.rand(200) * 20).round() / 20, torch.rand(200) > 0.6
    points = curve_points(score, positive)
    assert points is not None
    area = np.trapezoid(points["recall"], points["false_positive_rate"])
    assert area == pytest.approx(roc_auc(score, positive).item(), abs=1e-6)
    precision = (np.diff(points["recall"]) * points["precision"][1:]).sum()
    assert precision == pytest.approx(average_precision(score, positive).item(), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_curves_are_drawn(classes: int) -> None:
    probability, target = torch.rand(50, classes).softmax(1), torch.randint(0, classes, (50,))
    figure = curves_figure(probability, target, [f"c{k}" for k in range(classes)], title="test")
    assert figure.shape == (360, 1080, 3)
    assert figure.dtype == np.uint8
    curves_figure(probability[:1], target[:1], [f"c{k}" for k in range(classes)])  # one sample has no curve


def test_text_with_signs_of_mathematics_is_drawn() -> None:
    assert lines_figure([("a $", "b_$x^2\n\t"), ("", "")]).shape[1] == 1080
    assert captioned_figure(torch.rand(7, 3, 4, 4), ["$"] * 7).shape[1] == 1080


def test_the_worst_of_a_classifier() -> None:
    task = Classification(num_outputs=2, class_names=("cat", "dog"))
    rows = {"probability": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), "target": torch.tensor([1, 1, 0])}
    found = task.worst(rows)
    assert found.badness_N.tolist() == pytest.approx([0.9, 0.2, 0.4])
    assert found.captions(0) == "dog (10%), said cat (90%)"


def test_the_worst_of_a_regression() -> None:
    task = Regression(num_outputs=2, target_names=("a", "b"), target_mean=(0, 0), target_std=(1, 100))
    rows = {"prediction": torch.tensor([[1.0, 0.0], [0.0, 50.0]]), "target": torch.tensor([[0.0, 0.0], [0.0, 350.0]])}
    found = task.worst(rows)
    assert found.badness_N.tolist() == [1, 3]
    assert found.captions(1) == "b 350, said 50"


def test_the_rows_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(worst, "lines_figure", lambda lines, title: drawn.extend(lines))
    source = Tensors(x=torch.arange(40.0)[:, None] * 2 + 1, y=torch.arange(40))
    preparation = {"kind": "table", "numbers": {"size": {"mean": 1.0, "std": 0.5, "missing": False}}, "categories": {}}
    signature = Signature("classification", preparation=preparation)
    badness = worst.Worst(torch.arange(40.0), lambda i: f"row {i}")
    worst.worst_figure(badness, source, signature, torch.device("cpu"), title="")
    assert drawn[0] == ("row 39", f"{(39 * 2 + 1) * 0.5 + 1}")
    assert [heading for heading, _ in drawn] == [f"row {i}" for i in range(39, 27, -1)]
    monkeypatch.setattr(worst, "captioned_figure", lambda image, captions, title: drawn.append((image, captions)))
    images = Tensors(x=torch.zeros(3, 1, 2, 2) - 1)
    standardised = Signature(preparation={"kind": "image", "mean": [0.5], "std": [0.5]})
    worst.worst_figure(worst.Worst(torch.rand(3), str), images, standardised, torch.device("cpu"), title="")
    assert drawn[-1][0].abs().max() == 0
