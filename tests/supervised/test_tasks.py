from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from trivium.data.texts.vocabulary import END, PAD
from trivium.learner import construct
from trivium.supervised.tasks.language_modelling import LanguageModelling
from trivium.supervised.tasks.regression import Regression, require_same_shape
from trivium.supervised.tasks.sequence_to_sequence import SequenceToSequence
from trivium.supervised.tasks.task import TASKS, named_task


def numbers(scores: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in scores.items()}


def added(*totals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([t[name] for t in totals]).sum(0) for name in totals[0]}


def test_regression_by_hand_in_the_targets_units() -> None:
    task = Regression(num_outputs=1, target_mean=[10.0], target_std=[2.0])
    batch = {"y": torch.tensor([[8.0], [10.0], [12.0]])}  # standardised: -1, 0, 1
    output = torch.tensor([[-1.0], [0.5], [0.0]])  # errors: 0, 1, -2 in units
    parts = [task.totals(output[i : i + 1], {"y": batch["y"][i : i + 1]}) for i in range(3)]
    for totals in (task.totals(output, batch), added(*parts)):
        scores = numbers(task.scores(totals))
        assert scores == pytest.approx(
            {"loss": 1.25 / 3, "rmse": math.sqrt(5 / 3), "mae": 1.0, "r2": 1 - 5 / 8}, rel=1e-5
        )
    assert task.rows(output, batch)["prediction"].flatten().tolist() == [8.0, 11.0, 10.0]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("mse", 0.0 + 1 + 9), ("mae", 0.0 + 1 + 3), ("huber", 0.0 + 0.5 + 2.5), ("rmse", 3 * math.sqrt(10 / 3))],
)
def test_each_loss_of_regression_by_hand(loss: Any, expected: float) -> None:
    task = Regression(num_outputs=1, loss=loss)
    batch = {"y": torch.zeros(3, 1)}
    assert task.loss(torch.tensor([[0.0], [1.0], [3.0]]), batch).item() == pytest.approx(expected)
    assert task.count(batch) == 3


def test_outputs_of_another_shape_are_refused_instead_of_broadcast() -> None:
    with pytest.raises(ValueError, match=r"output has the shape \[3\], the target \[3, 1\]"):
        require_same_shape(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"\[3\]"):
        Regression(num_outputs=1).loss(torch.zeros(3), {"y": torch.zeros(3, 1)})


def test_language_modelling_by_hand() -> None:
    task = LanguageModelling(vocab_size=4)
    batch = {"y": torch.tensor([[0, 1], [2, 3]])}
    uniform = torch.zeros(2, 2, 4)
    assert task.loss(uniform, batch).item() == pytest.approx(4 * math.log(4))
    scores = numbers(task.scores(task.totals(uniform, batch)))
    assert scores == pytest.approx({"loss": math.log(4), "perplexity": 4.0, "accuracy": 0.25})
    assert task.count(batch) == 4


def test_padding_of_sequences_does_not_count() -> None:
    task = SequenceToSequence(vocab_size=6)
    batch = {"y": torch.tensor([[4, END, PAD], [5, 4, END]])}
    output = torch.zeros(2, 3, 6)
    output[0, 2] = 100 * torch.eye(6)[3]  # at the padding: no matter
    assert task.count(batch).item() == 5
    assert task.loss(output, batch).item() == pytest.approx(5 * math.log(6))
    written = torch.tensor([[4, END, 5, 5], [5, 3, END, PAD]])  # longer than the targets; the second has a mistake
    totals = task.totals(output, {**batch, "generated": written})
    assert numbers(task.scores(totals)) == pytest.approx(
        {"loss": math.log(6), "token_accuracy": 0.0, "exact_match": 0.5, "bleu": 0.0, "edit_distance": 1 / 3}
    )


def test_padding_that_a_model_writes_before_the_end_is_a_mistake() -> None:
    batch = {"y": torch.tensor([[4, 5, END]]), "generated": torch.tensor([[4, PAD, 5, END]])}
    task = SequenceToSequence(vocab_size=6)
    scores = numbers(task.scores(task.totals(torch.zeros(1, 3, 6), batch)))
    assert (scores["exact_match"], scores["edit_distance"]) == (0.0, 0.5)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_that_data_may_name_can_be_made_from_what_data_offer(name: str) -> None:
    offered = {"num_outputs": 2, "class_names": ("a", "b"), "target_names": ("a", "b"), "target_std": (1.0, 1.0)}
    offered["target_mean"] = (0.0, 0.0)
    task = construct(named_task(name), **offered, vocab_size=5, input_shape=(3,))
    assert set(task.evaluates.values()) <= {"min", "max"}


def test_a_task_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"names the task 'clustering'; choose task=<.*regression"):
        named_task("clustering")
    with pytest.raises(ValueError, match="has no target"):
        named_task("")


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        (Regression(num_outputs=1), torch.zeros(3), r"float32 \[3\]; must be float32 \[3, 1\]"),
        (Regression(num_outputs=1), torch.zeros(3, 1, dtype=torch.float64), "float64"),
        (Regression(num_outputs=1), None, "regression needs y"),
        (LanguageModelling(vocab_size=4), torch.tensor([[0, 4]]), r"holds 4 in row 0; must be in \[0, 4\)"),
        (LanguageModelling(vocab_size=4), torch.tensor([1]), r"int64 \[1\]; must be int64 \[1, T\]"),
        (SequenceToSequence(vocab_size=4), torch.tensor([[0, 1], [-1, 0]]), "holds -1 in row 1"),
    ],
)
def test_targets_that_a_task_cannot_use_are_told(task: Any, y: torch.Tensor | None, message: str) -> None:
    problem = task.wrong_target({"x": torch.zeros(1)} if y is None else {"y": y})
    assert re.search(message, problem)


@pytest.mark.parametrize(
    ("task", "y", "right", "wrong"),
    [
        (Regression(num_outputs=2), torch.zeros(3, 2), (3, 2), (3, 1)),
        (LanguageModelling(vocab_size=4), torch.zeros(2, 5, dtype=torch.int64), (2, 5, 4), (2, 5, 3)),
        (SequenceToSequence(vocab_size=4), torch.zeros(2, 5, dtype=torch.int64), (2, 5, 4), (2, 4)),
    ],
)
def test_outputs_that_a_task_cannot_use_are_told(task: Any, y: torch.Tensor, right: Any, wrong: Any) -> None:
    assert task.wrong_target({"y": y}) is None
    assert task.wrong_output(torch.zeros(right), {"y": y}) is None
    assert f"{list(wrong)}; must be float {list(right)}" in task.wrong_output(torch.zeros(wrong), {"y": y})
