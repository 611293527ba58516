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


def curves_figure(
    probability_NK: Tensor, target_N: Tensor, class_names: Sequence[str], *, title: str = "", width: int = 1080
) -> np.ndarray:
    """Three panels: the ROC curve, precision over recall, and the reliability of the probabilities.

    Of two classes the curves are the second's; of more there is one for each against the rest, for the ten classes with
    the most samples. The reliability panel shows how often predictions of a confidence are right, in 10 bins, and how
    many there are: on the diagonal the model knows how sure it may be.

    Args:
        probability_NK: float [N, K], on any device.
        target_N: int64 [N].
        class_names: K names.
        title: stands above.
        width: of the picture, in pixels.

    Returns:
        uint8 [width / 3, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probability, target = probability_NK.double().cpu(), target_N.cpu()
    figure = Figure(figsize=(width / 100, width / 300), dpi=100, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    roc, precision, reliability = (figure.add_subplot(1, 3, k + 1) for k in range(3))
    counts = target.bincount(minlength=len(class_names))
    shown = [1] if len(class_names) == 2 else counts.argsort(descending=True)[:10].sort().values.tolist()
    for k in shown:
        points = curve_points(probability[:, k], target == k)
        if points is None:
            continue
        name = class_names[k]
        roc.plot(points["false_positive_rate"], points["recall"], linewidth=1.2, label=name)
        precision.plot(points["recall"], points["precision"], linewidth=1.2, label=name)
    roc.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
    _panel(roc, "ROC", "false positive rate", "true positive rate")
    _panel(precision, "precision and recall", "recall", "precision")
    if roc.get_lines()[1:]:
        roc.legend(fontsize=6, loc="lower right", frameon=False)

    confidence, predicted = probability.max(1)
    bins = (confidence * 10).ceil().long().sub(1).clamp(0, 9)
    number = bins.bincount(minlength=10)
    right = (predicted == target).double()
    filled = number > 0
    mean = [right.new_zeros(10).index_add(0, bins, part)[filled] / number[filled] for part in (confidence, right)]
    reliability.bar(
        (np.arange(10) + 0.5) / 10, (number / max(1, int(number.max()))).numpy(), width=0.09, color="#dde3e8"
    )
    reliability.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
    reliability.plot(mean[0].numpy(), mean[1].numpy(), marker="o", markersize=4, color="#0b7285", linewidth=1.2)
    _panel(reliability, "calibration (bars: how many)", "confidence", "share that is right")
    if title:
        figure.suptitle(title, color=INK, fontsize=11)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curve_points(score_N: Tensor, positive_N: Tensor) -> dict[str, np.ndarray] | None:
    """The points of the ROC curve and of precision over recall, from the highest threshold to the lowest.

    Args:
        score_N: float [N].
        positive_N: bool [N].

    Returns:
        `recall`, `false_positive_rate` and `precision`, float64 [M] each, beginning with (0, 0, 1); M - 1 different
        scores. None unless both kinds occur.
    """
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return None
    value, order = score_N.double().sort(descending=True)
    last = np.append(np.diff(value.numpy()) != 0, True)  # of equal scores
    hits = positive_N[order].long().cumsum(0).numpy()[last]
    taken = np.flatnonzero(last) + 1
    return {
        "recall": np.append(0.0, hits / positives),
        "false_positive_rate": np.append(0.0, (taken - hits) / negatives),
        "precision": np.append(1.0, hits / taken),
    }


def lines_figure(lines: Sequence[tuple[str, str]], *, title: str = "", width: int = 1080) -> np.ndarray:
    """Lines of text as a picture: a heading and what it says, cut to fit.

    Args:
        lines: pairs; line breaks and tabulators are shown as such.
        title: stands above.
        width: of the picture, in pixels.

    Returns:
        uint8 [H, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 0.45 + 0.42 * len(lines)
    figure = Figure(figsize=(width / 100, height), dpi=100, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.01, 1 - 0.22 / height, title, color=INK, fontsize=11, va="center")
    fits = int(width / 7.3)
    for i, (heading, text) in enumerate(lines):
        top = 0.45 + 0.42 * i
        figure.text(
            0.01, 1 - (top + 0.08) / height, _visible(heading)[:fits], color="#0b7285", fontsize=8.5, va="center"
        )
        shown = _visible(text)
        shown = shown if len(shown) <= fits else f"{shown[: fits - 4]} ..."
        figure.text(0.01, 1 - (top + 0.25) / height, shown, color=INK, fontsize=8.5, va="center", family="monospace")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def captioned_figure(
    image_NCHW: Tensor, captions: Sequence[str], *, columns: int = 6, title: str = "", width: int = 1080
) -> np.ndarray:
    """Images with a line of text below each.

    Args:
        image_NCHW: float [N, C, H, W] in [0, 1]; C is 1 or 3.
        captions: N lines.
        columns: images in a row.
        title: stands above.
        width: of the picture, in pixels.

    Returns:
        uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(captions) // columns)
    ratio = image_NCHW.shape[2] / image_NCHW.shape[3]
    height = rows * (width / columns / 100 * ratio + 0.3) + 0.3
    figure = Figure(figsize=(width / 100, height), dpi=100, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, caption in enumerate(captions):
        axes = figure.add_subplot(rows, columns, i + 1)
        image = image_NCHW[i].clamp(0, 1).cpu().permute(1, 2, 0).numpy()
        axes.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(_visible(caption), fontsize=8, color=INK, y=-0.05, va="top")
        axes.set_axis_off()
    figure.suptitle(title, color=INK, fontsize=11)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def matrices_figure(
    matrices: Sequence[tuple[np.ndarray, Sequence[str], Sequence[str]]], *, title: str = "", width: int = 1080
) -> np.ndarray:
    """Matrices of shares beside one another, darker where the share is greater.

    Args:
        matrices: float [T, S] in [0, 1] each, with the names of its T rows and S columns.
        title: stands above.
        width: of the picture, in pixels.

    Returns:
        uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tallest = max(shares.shape[0] / shares.shape[1] for shares, _, _ in matrices)
    height = 0.9 + width / 100 / len(matrices) * min(2.0, tallest)
    figure = Figure(figsize=(width / 100, height), dpi=100, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, (shares, rows, columns) in enumerate(matrices):
        axes = figure.add_subplot(1, len(matrices), i + 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(float(shares.max()), 1e-6))
        size = max(4.0, min(9.0, 220 / max(len(rows), len(columns)) / len(matrices) * 3))
        upright = 0 if all(len(name) == 1 for name in columns) else 90
        axes.set_xticks(range(len(columns)), [_visible(name) for name in columns], fontsize=size, rotation=upright)
        axes.set_yticks(range(len(rows)), [_visible(name) for name in rows], fontsize=size)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, colors=INK)
        axes.spines[:].set_visible(False)
    figure.suptitle(title, color=INK, fontsize=11)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _visible(text: str) -> str:
    """Without line breaks, and without what matplotlib would take for mathematics."""
    return text.replace("\n", "\u23ce").replace("\t", "\u21e5").replace("$", r"\$")


def _panel(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, color=INK, fontsize=9)
    axes.set_xlabel(x, color=INK, fontsize=8)
    axes.set_ylabel(y, color=INK, fontsize=8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(labelsize=7, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


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
