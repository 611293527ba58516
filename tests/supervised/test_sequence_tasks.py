"""Tasks whose targets are labels, tags, hidden tokens, values ahead and sequences without an alignment."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torchmetrics.functional.text import bleu_score, char_error_rate

from trivium.data.source import UNSCORED
from trivium.supervised.sequence_metrics import bleu, edit_distance, ngram_counts
from trivium.supervised.tasks.ctc import CTC, collapsed
from trivium.supervised.tasks.forecasting import Forecasting
from trivium.supervised.tasks.masked_language_modelling import MaskedLanguageModelling
from trivium.supervised.tasks.multi_label import MultiLabel
from trivium.supervised.tasks.tagging import Tagging


def scores(task: Any, output: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of the whole batch, after a check that the sums over its halves give the same."""
    whole = task.totals(output, batch)
    halves = [
        task.totals(output[part], {name: column[part] for name, column in batch.items()})
        for part in (slice(0, 1), slice(1, None))
    ]
    added = {name: halves[0][name] + halves[1][name] for name in whole}
    found = {name: value.item() for name, value in task.scores(whole).items()}
    assert {name: value.item() for name, value in task.scores(added).items()} == pytest.approx(found)
    assert set(found) == set(task.evaluates)
    return found


def test_labels_by_hand() -> None:
    task = MultiLabel(num_outputs=2, class_names=("red", "round"))
    batch = {"y": torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])}
    logit = math.log(3)  # a probability of 3/4
    output = logit * torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]])
    # Right are 1, -; 1; -. Of red: 2 hits, 2 labels, 3 chosen: F1 = 4/5; of round: no hit: F1 = 0.
    expected = {"loss": (4 * math.log(4 / 3) + 2 * math.log(4)) / 6, "accuracy": 4 / 6, "exact_match": 1 / 3, "f1": 0.4}
    assert scores(task, output, batch) == pytest.approx(expected, rel=1e-5)
    rows = task.rows(torch.tensor([[2.0, 0.0], [1.0, 5.0], [0.0, 3.0]]), batch)
    final = {name: value.item() for name, value in task.final_scores({}, rows).items()}
    assert final == {"roc_auc": 1.0, "average_precision": 1.0}
    assert task.count(batch) == 6


def test_tags_by_hand_where_padding_does_not_count() -> None:
    task = Tagging(num_outputs=3, class_names=("a", "b", "c"))
    batch = {"y": torch.tensor([[0, 1, UNSCORED], [2, 2, 1]])}
    output = torch.zeros(2, 3, 3)
    output[0, 2, 0] = 50.0  # at the padding: no matter
    output[0, 1, 1] = math.log(2)  # probabilities 1/4, 1/2, 1/4
    # Predicted are 0, 1; 0, 0, 0. F1 of a: 2 / (2 + 3), of b: 2 / (2 + 1), of c: 0.
    expected = {
        "loss": (4 * math.log(3) + math.log(2)) / 5,
        "accuracy": 0.4,
        "f1": (0.4 + 2 / 3) / 3,
        "exact_match": 0.5,
    }
    assert scores(task, output, batch) == pytest.approx(expected, rel=1e-5)
    assert task.count(batch).item() == 5


def test_hidden_tokens_by_hand() -> None:
    task = MaskedLanguageModelling(vocab_size=4)
    batch = {"y": torch.tensor([[0, UNSCORED], [UNSCORED, 3]])}
    output = torch.zeros(2, 2, 4)
    output[0, 1] = 50 * torch.eye(4)[2]
    assert scores(task, output, batch) == pytest.approx({"loss": math.log(4), "perplexity": 4.0, "accuracy": 0.5})
    assert task.loss(output, batch).item() == pytest.approx(2 * math.log(4))


def test_forecasts_by_hand_in_the_units_of_each_series() -> None:
    task = Forecasting(num_outputs=4, target_names=("a", "b"), target_mean=(5.0, 0.0), target_std=(1.0, 10.0))
    x = torch.zeros(2, 3, 2)
    x[:, -1] = 1.0
    batch = {"x": x, "y": torch.tensor([[[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0], [0.0, 1.0]]])}
    output = torch.tensor([[1.0, 2.0, 1.0, 3.0], [1.0, 1.0, 0.0, 3.0]])  # errors: a 0 1 0 0, b 0 0 0 2
    assert task.answers(output)["values"].tolist() == [[[6, 20], [6, 30]], [[6, 10], [5, 30]]]
    expected = {"loss": 5 / 8, "mae": (1 / 4 + 2 / 4 * 10) / 2, "rmse": (0.5 + 10) / 2}
    # The last values, 1, are wrong by 0 1 0 1 and 1 2 0 0.
    assert scores(task, output, batch) == pytest.approx(expected | {"skill": 1 - 3 / 5})
    assert Forecasting(
        num_outputs=4, target_names=("a", "b"), target_mean=(5.0, 0.0), target_std=(1.0, 10.0), loss="mae"
    ).loss(output, batch).item() == pytest.approx(3)


def test_ctc_by_hand() -> None:
    task = CTC(num_outputs=3, class_names=("<blank>", "a", "b"))
    batch = {"y": torch.tensor([[1, 0], [1, 2]])}
    output = torch.zeros(2, 2, 3)
    # Of 9 equally probable paths of two steps "a" is read from a_, _a and aa, "ab" from ab alone.
    assert task.loss(output, batch).item() == pytest.approx(math.log(3) + math.log(9), rel=1e-5)
    output[1] = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    found = scores(task, output, batch)  # the first reads nothing, the second ab
    assert (found["error_rate"], found["exact_match"]) == pytest.approx((1 / 3, 0.5))
    assert task.count(batch).item() == 3


def test_a_path_is_collapsed_and_padding_is_not_read() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0], [2, 2, 2, 1, 1, 1]])
    assert collapsed(path).tolist() == [[1, 1, 2, 0, 0, 0], [0] * 6, [2, 1, 0, 0, 0, 0]]
    assert collapsed(path, torch.tensor([4, 6, 2])).tolist() == [[1, 1, 0, 0, 0, 0], [0] * 6, [2, 0, 0, 0, 0, 0]]


def test_the_edit_distance_of_known_words_and_as_torchmetrics_counts_it() -> None:
    def padded(words: list[str]) -> torch.Tensor:
        return torch.tensor([[ord(c) for c in word.ljust(9, "\0")] for word in words])

    first, second = ["kitten", "", "abc", "flaw", "same", "abcdef"], ["sitting", "abc", "", "lawn", "same", "badcfe"]
    found = edit_distance(padded(first), padded(second))
    assert found[:5].tolist() == [3, 3, 3, 2, 0]
    for mine, theirs, distance in zip(first, second, found.tolist(), strict=True):
        if theirs:
            assert char_error_rate([mine], [theirs]).item() * len(theirs) == pytest.approx(distance)


def test_bleu_by_hand_and_as_torchmetrics_computes_it() -> None:
    written, target = torch.tensor([[3, 4, 5, 6, 3, 3]]), torch.tensor([[3, 4, 5, 6, 7, 0]])
    counts = ngram_counts(written, target)
    # 3 and 33 are in the target once and never; 6 tokens for 5.
    assert counts.tolist() == [[4, 3, 2, 1, 5], [6, 5, 4, 3, 6]]
    assert bleu(counts).item() == pytest.approx((4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    short = ngram_counts(written[:, :4], target)
    assert bleu(short).item() == pytest.approx(math.exp(1 - 5 / 4))  # all right, and one too few
    assert bleu(ngram_counts(torch.tensor([[9, 0]]), target)).item() == 0
    assert bleu(ngram_counts(torch.tensor([[3]]), torch.tensor([[3]]))).item() == 1
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 6, (20, 12), generator=generator) for _ in range(2)]
    words = [[" ".join(map(str, row)) for row in tokens.tolist()] for tokens in rows]
    whole = bleu(sum((ngram_counts(*pair) for pair in zip(*(r.split(7) for r in rows), strict=True)), torch.tensor(0)))
    assert whole.item() == pytest.approx(bleu_score(words[0], [[word] for word in words[1]]).item(), rel=1e-5)


SERIES = Forecasting(num_outputs=4, target_names=("a", "b"), target_mean=(0, 0), target_std=(1, 1))


AB = ("a", "b")


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        (MultiLabel(num_outputs=2, class_names=AB), torch.ones(3, 2).long(), r"int64 \[3, 2\]; must be float32"),
        (MultiLabel(num_outputs=2, class_names=AB), torch.tensor([[0.0, 0.5]]), r"holds 0\.5 in row 0"),
        (Tagging(num_outputs=2, class_names=AB), torch.tensor([[0, -1], [0, 2]]), r"holds 2 in row 1; .* \[0, 2\)"),
        (Tagging(num_outputs=2, class_names=AB), torch.tensor([[0, -2]]), "holds -2 in row 0"),
        (MaskedLanguageModelling(vocab_size=2), torch.tensor([[-1, 2]]), "holds 2 in row 0"),
        (CTC(num_outputs=2, class_names=AB), torch.tensor([[1, 2]]), "holds 2 in row 0"),
        (SERIES, torch.zeros(3, 2), r"float32 \[3, 2\];"),
    ],
)  # fmt: skip
def test_targets_that_a_task_cannot_use_are_named(task: Any, y: torch.Tensor, message: str) -> None:
    assert re.search(message, task.wrong_target({"y": y}))
