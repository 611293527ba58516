"""Pictures of what a supervised learner does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

INK, PAPER, FAINT = "#1f2933", "#ffffff", "#9aa5b1"
COUNTS_UP_TO = 20  # classes: beyond, the numbers in the cells could not be read


def confusion_figure(confusion: Tensor, class_names: Sequence[str], *, title: str = "", width: int = 720) -> np.ndarray:
    """A confusion matrix: rows are the truth, columns the prediction, right answers on the diagonal in green.

    A cell's shade is its share of the row, on a square-root scale so that a single error can be seen; its number
    is the count. More than 20 classes are drawn without numbers.

    Args:
        confusion: int64 [C, C] on any device, see `metrics.confusion_matrix`.
        class_names: C names.
        title: stands above; the accuracy is appended.
        width: of the picture, in pixels; it is square.

    Returns:
        uint8 [width, width, 3].

    Raises:
        ValueError: there are not C names.
    """
    # Half a second to import, and only pictures need it. Never pyplot: it keeps figures and chooses a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = confusion.cpu().numpy()
    num_classes = len(count)
    if len(class_names) != num_classes:
        raise ValueError(f"class_names has {len(class_names)} names for {num_classes} classes")
    share = np.sqrt(count / np.maximum(count.sum(1, keepdims=True), 1))
    right = np.eye(num_classes, dtype=bool)

    figure = Figure(figsize=(width / 100, width / 100), dpi=100, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(_shade(share, right))
    if num_classes <= COUNTS_UP_TO:
        size = min(13.0, 110 / num_classes)
        for row, column in zip(*np.nonzero(count), strict=True):
            colour = PAPER if share[row, column] > 0.6 else INK
            axes.text(column, row, str(count[row, column]), ha="center", va="center", color=colour, fontsize=size)
    _label(axes, class_names)
    accuracy = count[right].sum() / max(count.sum(), 1)
    score = f"{accuracy:.2%} of {count.sum():,} right"
    axes.set_title(f"{title}: {score}" if title else score, color=INK, fontsize=13, pad=12)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def residual_figure(
    target_NK: Tensor, prediction_NK: Tensor, names: Sequence[str], *, title: str = "", width: int = 720
) -> np.ndarray:
    """Predictions against targets, a panel for each of the first four targets; on the diagonal nothing is wrong.

    Args:
        target_NK, prediction_NK: float [N, K] in the targets' units, on any device.
        names: K names.
        title: stands above.
        width: of the picture, in pixels.

    Returns:
        uint8 [H, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = min(4, len(names))
    columns = 1 if shown == 1 else 2
    rows = -(-shown // columns)
    figure = Figure(figsize=(width / 100, width / 100 * rows / columns), dpi=100, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for k in range(shown):
        axes = figure.add_subplot(rows, columns, k + 1)
        target, prediction = target_NK[:, k].cpu().numpy(), prediction_NK[:, k].cpu().numpy()
        ends = [min(target.min(), prediction.min()), max(target.max(), prediction.max())]
        axes.plot(ends, ends, color=FAINT, linewidth=1)
        axes.scatter(target, prediction, s=12, alpha=0.5, color="#0b7285", linewidths=0)
        axes.set_title(names[k] if shown > 1 or not title else f"{title}: {names[k]}", color=INK, fontsize=12)
        axes.set_xlabel("true", color=INK)
        axes.set_ylabel("predicted", color=INK)
        for spine in axes.spines.values():
            spine.set_color(FAINT)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _shade(share: np.ndarray, right: np.ndarray) -> np.ndarray:
    """From paper to green on the diagonal and to red beside it: float [C, C, 3]."""
    full = np.where(right[..., None], (0.05, 0.45, 0.35), (0.75, 0.15, 0.12))
    shade: np.ndarray = 1 - share[..., None] * (1 - full)
    return shade


def _label(axes: Any, class_names: Sequence[str]) -> None:
    num_classes = len(class_names)
    step = -(-num_classes // 30)  # at most 30 names along an axis
    ticks = range(0, num_classes, step)
    names = [class_names[i] for i in ticks]
    long = max(map(len, names)) > 3 or num_classes > COUNTS_UP_TO
    axes.set_xticks(ticks, names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted", color=INK, fontsize=12)
    axes.set_ylabel("true", color=INK, fontsize=12)
    axes.tick_params(length=0, labelcolor=INK, labelsize=11 if num_classes <= COUNTS_UP_TO else 8)
    axes.set_xticks(np.arange(1, num_classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, num_classes) - 0.5, minor=True)
    if num_classes <= COUNTS_UP_TO:
        axes.grid(which="minor", color="#eceff2", linewidth=1)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
