"""What training offers besides the plain update: weights of classes, balanced sampling, L1, plateaus, unfreezing."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from states import same_bits, through_a_file
from torch import nn
from torch.nn import functional as F

from trivium.data.batches import Batches
from trivium.data.source import Sequences, Signature, Splits, Tensors
from trivium.declared import load_state_dict, state_dict, undeclared
from trivium.learner import Adapts, Run
from trivium.schedules import Plateau
from trivium.supervised.finetuning import freeze
from trivium.supervised.learner import Supervised
from trivium.supervised.models.mlp import MLP
from trivium.supervised.models.sequences.attention_rnn import AttentionRNN
from trivium.supervised.models.sequences.bert import BERT
from trivium.supervised.models.sequences.recurrent import Recurrent
from trivium.supervised.models.sequences.t5 import T5
from trivium.supervised.tasks.classification import Classification

COUNTS = (90, 8, 2)


def imbalanced() -> Splits:
    y = torch.cat([torch.full((count,), k) for k, count in enumerate(COUNTS)])
    x = F.one_hot(y, 3).float() + 0.1 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    offers = {"input_shape": (3,), "num_outputs": 3, "class_names": tuple("abc"), "class_counts": COUNTS}
    rows = Tensors(x=x, y=y)
    return Splits(rows, rows, rows, Signature("classification", offers=offers))


def build(data: Splits | None = None, *, task: Any = None, **keywords: Any) -> Supervised:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"optimizer": torch.optim.SGD, "batch_size": 20, "lr": 0.1} | keywords
    return Supervised(
        run=Run(), data=data or imbalanced(), model=functools.partial(MLP, hidden=(4,)), task=task, **settings
    )


# ------------------------------------------------------------------------------------ classes of different sizes


def test_the_loss_is_the_weighted_mean_of_torch() -> None:
    task = Classification(num_outputs=3, class_names=("a", "b", "c"), class_weights=(1.0, 2.0, 0.5))
    output, batch = torch.randn(8, 3), {"y": torch.tensor([0, 1, 2, 2, 0, 1, 1, 0])}
    mean = task.loss(output, batch) / task.count(batch)
    expected = F.cross_entropy(output, batch["y"], weight=torch.tensor([1.0, 2.0, 0.5]))
    assert mean.item() == pytest.approx(expected.item())
    assert task.totals(output, batch)["loss"].item() == pytest.approx(
        F.cross_entropy(output, batch["y"], reduction="sum").item()
    )


def test_balanced_weights_let_every_class_count_the_same() -> None:
    task = Classification(num_outputs=3, class_names=("a", "b", "c"), class_weights="balanced", class_counts=COUNTS)
    assert task.weight_K is not None
    assert (task.weight_K * torch.tensor(COUNTS)).tolist() == pytest.approx([100 / 3] * 3)
    mixed = {
        "y": torch.tensor([0, 1]),
        "mixed_y": torch.tensor([1, 1]),
        "mixed_weight": torch.tensor([0.25, 1.0]),
    }
    a, b = task.weight_K[0].item(), task.weight_K[1].item()
    assert float(task.count(mixed)) == pytest.approx(0.25 * a + 0.75 * b + b)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"class_weights": (1.0, 2.0)}, "must be 3 numbers >= 0"),
        ({"class_weights": (1.0, -2.0, 1.0)}, "must be 3 numbers >= 0"),
        ({"class_weights": (0.0, 0.0, 0.0)}, "must be 3 numbers >= 0"),
        ({"class_weights": "balanced"}, "needs data that offer class_counts"),
    ],
)
def test_wrong_weights(keywords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(num_outputs=3, class_names=("a", "b", "c"), **keywords)


def test_accumulation_changes_nothing_with_weights() -> None:
    task = functools.partial(Classification, class_weights="balanced")
    whole, parts = build(task=task), build(task=task, accumulate=4)
    for _ in range(5):
        losses = [float(learner.step()["loss"]) for learner in (whole, parts)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_balanced_draws() -> None:
    learner = build(balance=True)
    y = torch.cat([imbalanced().train.batch(learner.batches.next())["y"] for _ in range(300)])
    assert (y.bincount() / len(y)).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    again = Batches(100, 20, run=Run(), weights=learner.batches._weights)
    again.load_state_dict({"samples": 140})
    learner.batches.load_state_dict({"samples": 140})
    assert torch.equal(again.next(), learner.batches.next())
    numbers = Tensors(x=torch.randn(30, 3), y=torch.randn(30, 3))
    data = Splits(numbers, numbers, numbers, Signature("regression", offers=imbalanced().signature.offers))
    with pytest.raises(ValueError, match="balance=true needs rows in memory"):
        build(data, balance=True)


# --------------------------------------------------------------------------------------------- the update


def test_l1_adds_its_gradient_and_is_reported() -> None:
    plain, penalised = build(lr=1.0), build(lr=1.0, l1=0.01)
    before = [p.detach().clone() for p in plain.model.parameters()]
    plain.step()
    logs = penalised.step()
    expected = 0.01 * sum(float(p.abs().sum()) for p in before if p.ndim > 1)
    assert float(logs["l1"]) == pytest.approx(expected, rel=1e-5)
    for start, a, b in zip(before, plain.model.parameters(), penalised.model.parameters(), strict=True):
        moved = 0.01 * start.sign() if start.ndim > 1 else torch.zeros_like(start)
        assert torch.allclose(a - b, moved, atol=1e-6)


def test_a_plateau_by_hand() -> None:
    plateau = Plateau(patience=2, final_ratio=0.05)
    ratios = []
    for loss in (1.0, 0.9, 0.95, math.nan, 0.91, 0.9, 0.8, 0.8, 0.8):
        plateau.judge(loss)
        ratios.append(plateau.ratio)
    assert ratios == [1, 1, 1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
    other = Plateau(patience=2, final_ratio=0.05)
    other.load_state_dict(plateau.state_dict())
    assert other.state_dict() == plateau.state_dict()
    for wrong in ({"ratio": 2.0}, {"best": "x"}, {"without_improvement": -1}):
        with pytest.raises(ValueError, match="plateau"):
            other.load_state_dict({**plateau.state_dict(), **wrong})


def test_the_rate_falls_on_a_plateau_and_is_part_of_the_state() -> None:
    learner = build(schedule="plateau", plateau_patience=1)
    assert isinstance(learner, Adapts)
    assert float(learner.step()["lr"]) == pytest.approx(0.1)
    learner.adapt({"loss": 1.0})
    learner.adapt({"loss": 1.0})
    assert float(learner.step()["lr"]) == pytest.approx(0.01)
    assert undeclared(learner) == []
    again = build(schedule="plateau", plateau_patience=1)
    load_state_dict(again, through_a_file(state_dict(learner)))
    assert same_bits(again.step(), learner.step())
    steady = build()
    steady.adapt({"loss": 1.0})
    assert "lr" not in steady.step()


def test_parameters_wake_after_some_epochs() -> None:
    learner = build(unfreeze={"*.weight": 1.0}, optimizer=functools.partial(torch.optim.SGD, momentum=0.9))
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    for _ in range(5):  # an epoch of 100 samples
        learner.step()
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith(".weight"), name
    learner.step()
    assert not any(torch.equal(p, before[name]) for name, p in learner.model.named_parameters())
    with pytest.raises(ValueError, match=r"unfreeze: nothing\.\* fits no parameter"):
        build(unfreeze={"nothing.*": 1.0})


def test_frozen_batch_normalisation_keeps_its_statistics() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    freeze(model, ["0.*", "1.*"])
    model.train()
    model(torch.randn(16, 3) + 5)
    assert model[1].running_mean.abs().max() == 0
    assert model[3].running_mean.abs().max() > 0
    model.eval()
    model.train()
    assert [module.training for module in model] == [True, False, True, True, True]


# ------------------------------------------------------------------------------------ sequences of similar length


def sentences(task: str) -> Splits:
    """48 of 1 to 12 tokens of 9."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 13, (48,), generator=generator)
    padding = torch.arange(12) >= length[:, None]
    x = torch.randint(3, 9, (48, 12), generator=generator).masked_fill(padding, 0)
    offers: dict[str, Any] = {"vocab_size": 9, "context": 12, "max_length": 12}
    if task == "sequence_to_sequence":
        target = torch.cat([torch.full((48, 1), 1), x[:, :-1]], dim=1)
        rows = Sequences(dict.fromkeys(("source", "target", "y"), length), source=x, target=target, y=x)
        return Splits(rows, rows, rows, Signature(task, ("source", "target"), offers))
    offers |= {"num_outputs": 3, "class_names": tuple("abc")}
    y = (x % 3).masked_fill(padding, -1) if task == "tagging" else x[:, 0] % 3
    padded = {"x": length, "y": length} if task == "tagging" else {"x": length}
    rows = Sequences(padded, x=x, length=length, y=y)
    return Splits(rows, rows, rows, Signature(task, ("x", "length"), offers))


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("classification", functools.partial(BERT, num_layers=1, width=8, num_heads=2, dropout=0.0)),
        ("tagging", functools.partial(Recurrent, hidden_size=8, bidirectional=True, per_step=True)),
        ("sequence_to_sequence", functools.partial(T5, num_layers=1, width=8, num_heads=2)),
        ("sequence_to_sequence", functools.partial(AttentionRNN, hidden_size=8)),
    ],
)
def test_bucketing_cuts_padding_off_and_changes_no_update(
    task: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(batch_of: Any) -> tuple[Supervised, list[int]]:
        data = sentences(task)
        widths: list[int] = []

        def seen(source: Sequences, index_B: torch.Tensor) -> Any:
            batch = batch_of(source, index_B)
            widths.append(batch[data.signature.inputs[0]].shape[1])
            return batch

        monkeypatch.setattr(Sequences, "shortened", seen)
        torch.manual_seed(0)
        learner = Supervised(
            run=Run(), data=data, model=model, optimizer=torch.optim.SGD, batch_size=8, lr=0.1, bucketing=True,
            accumulate=2,
        )  # fmt: skip
        for _ in range(6):
            learner.step()
        return learner, widths

    (short, widths), (whole, padded) = trained(Sequences.shortened), trained(Sequences.batch)
    assert min(widths) < 6
    assert set(padded) == {12}
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(short.model.state_dict()[name], value, msg=name)
    assert short.evaluate()["loss"] == pytest.approx(whole.evaluate()["loss"], rel=1e-4)


def test_bucketing_needs_sequences() -> None:
    with pytest.raises(ValueError, match=r"^learner\.bucketing=true: is for data of sequences that are padded"):
        build(bucketing=True)
