from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from states import same_bits, through_a_file
from torch import nn
from torch.nn import functional as F

from trivium.data.batches import Batches
from trivium.data.digits import digits
from trivium.data.made_up.reversal import reversal
from trivium.data.source import Signature, Splits, Tensors
from trivium.declared import load_state_dict, load_weights, state_dict, undeclared
from trivium.learner import Learner, Run
from trivium.supervised.learner import Supervised
from trivium.supervised.models.mlp import MLP
from trivium.supervised.models.sequences.attention_rnn import AttentionRNN
from trivium.supervised.tasks.classification import Classification

ADAMW = functools.partial(torch.optim.AdamW, weight_decay=0.01, fused=True)


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


def build(data: Splits, *, run: Run | None = None, hidden: tuple[int, ...] = (32,), **keywords: Any) -> Supervised:
    run = run or Run()
    torch.manual_seed(run.seed)
    dropout = keywords.pop("dropout", 0.0)
    model = keywords.pop("model", functools.partial(MLP, hidden=hidden, dropout=dropout))
    smoothing = keywords.pop("label_smoothing", 0.0)
    task = functools.partial(Classification, label_smoothing=smoothing) if smoothing else None
    settings: dict[str, Any] = {"optimizer": ADAMW, "batch_size": 64, "lr": 3e-3} | keywords
    return Supervised(run=run, data=data, model=model, task=task, **settings)


def test_it_is_a_learner(data: Splits) -> None:
    assert isinstance(build(data), Learner)


def test_weights_are_those_of_a_loop_written_by_hand_bit_for_bit(data: Splits) -> None:
    classifier = build(data, dropout=0.2)
    torch.manual_seed(0)
    model = MLP(input_shape=(1, 8, 8), num_outputs=10, hidden=(32,), dropout=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    batches = Batches(len(data.train), 64, run=Run())
    random_state = torch.get_rng_state()
    expected = []
    for _ in range(45):
        index = batches.next()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.train.batch(index)["x"]), data.train.batch(index)["y"])
        loss.backward()
        optimizer.step()
        expected.append(loss.item())

    torch.set_rng_state(random_state)
    assert [classifier.step()["loss"].item() for _ in range(45)] == expected
    assert same_bits(dict(classifier.model.state_dict()), dict(model.state_dict()))


def test_accumulating_micro_batches_equals_one_large_batch(data: Splits) -> None:
    sgd = functools.partial(torch.optim.SGD, momentum=0.9)
    whole = build(data, optimizer=sgd, lr=0.1, label_smoothing=0.1)
    parts = build(data, optimizer=sgd, lr=0.1, label_smoothing=0.1, accumulate=4)
    for _ in range(25):
        torch.testing.assert_close(whole.step()["loss"], parts.step()["loss"], rtol=1e-4, atol=1e-5)
    assert parts.counters() == whole.counters() == {"samples": 25 * 64, "epochs": 25 * 64 / 1257}
    torch.testing.assert_close(dict(whole.model.state_dict()), dict(parts.model.state_dict()), rtol=1e-3, atol=1e-5)


def test_two_workers_average_to_the_gradient_of_the_whole_batch(data: Splits) -> None:
    def gradient(run: Run) -> torch.Tensor:
        classifier = build(data, run=run, optimizer=torch.optim.SGD, lr=1e-3)
        index = classifier.batches.next()
        F.cross_entropy(classifier.model(data.train.batch(index)["x"]), data.train.batch(index)["y"]).backward()
        return torch.cat([p.grad.flatten() for p in classifier.model.parameters() if p.grad is not None])

    class Unwrapped(Run):  # a rank without its process group
        def wrap(self, module: Any) -> Any:
            return module

    halves = [gradient(Unwrapped(rank=rank, world_size=2)) for rank in range(2)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, gradient(Run()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("updates", [7, 19, 20], ids=["mid-epoch", "before the epoch's end", "across it"])
def test_a_resumed_run_ends_with_the_same_bits(data: Splits, updates: int) -> None:
    keywords: dict[str, Any] = {
        "dropout": 0.3, "warmup_epochs": 640 / 1257, "decay_epochs": 3.05, "max_grad_norm": 0.5, "accumulate": 2,
    }  # fmt: skip
    uninterrupted = build(data, **keywords)
    logs = []
    for i in range(updates + 25):
        if i == updates:
            state, random_state = through_a_file(state_dict(uninterrupted)), torch.get_rng_state()
        logs.append(uninterrupted.step())

    resumed = build(data, run=Run(seed=0), **keywords)
    resumed.step()  # whatever it did before is forgotten
    load_state_dict(resumed, state)
    torch.set_rng_state(random_state)
    assert same_bits([resumed.step() for _ in range(25)], logs[updates:])
    assert same_bits(state_dict(resumed), state_dict(uninterrupted))
    assert resumed.evaluate(final=True) == uninterrupted.evaluate(final=True)


def test_its_state_is_declared_whole(data: Splits) -> None:
    keywords: dict[str, Any] = {"dropout": 0.3, "warmup_epochs": 0.1, "decay_epochs": 3.0, "ema": 0.9, "accumulate": 2}
    assert undeclared(build(data, **keywords)) == []
    assert undeclared(build(data, run=Run(precision="fp16"))) == []


def test_weights_of_any_rank_can_be_loaded_alone(data: Splits) -> None:
    trained, fresh = build(data), build(data, batch_size=8, optimizer=torch.optim.SGD)
    for _ in range(20):
        trained.step()
    load_weights(fresh, through_a_file(state_dict(trained)))
    assert fresh.evaluate() == trained.evaluate()
    assert fresh.counters()["samples"] == 0


def test_a_resumed_fp16_run_keeps_its_loss_scale(data: Splits) -> None:
    first = build(data, run=Run(precision="fp16"))
    for _ in range(3):
        first.step()
    first.scaler.update(8.0)
    second = build(data, run=Run(precision="fp16"))
    load_state_dict(second, through_a_file(state_dict(first)))
    assert second.scaler.get_scale() == 8.0
    assert same_bits([first.step() for _ in range(3)], [second.step() for _ in range(3)])


def test_evaluation_and_figures_touch_no_training_state_and_no_rng(data: Splits) -> None:
    classifier = build(data, dropout=0.3)
    classifier.step()
    before = through_a_file(state_dict(classifier))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    assert classifier.figures() == {}
    scores = classifier.evaluate(), classifier.evaluate(final=True)
    figures = classifier.figures()

    assert same_bits(state_dict(classifier), before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))
    assert scores == (classifier.evaluate(), classifier.evaluate(final=True))
    assert [p.grad is None for p in classifier.model.parameters()] == [False] * 4
    assert figures["confusion"].dtype == np.uint8
    assert figures["confusion"].shape[2] == 3


class Frozen(nn.Module):
    """A network whose normalisation is meant to stay in evaluation mode."""

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1).eval()
        self.head = nn.Linear(64, num_outputs)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.drop(self.head(self.norm(x).flatten(1)))
        return y


def test_evaluation_gives_every_part_its_own_mode_back(data: Splits) -> None:
    classifier = build(data, model=Frozen)
    modes = {name: m.training for name, m in classifier.model.named_modules()}
    assert modes == {"": True, "norm": False, "head": True, "drop": True}
    assert classifier.evaluate() == classifier.evaluate()  # without dropout
    assert {name: m.training for name, m in classifier.model.named_modules()} == modes


def test_evaluation_by_hand() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.0, 1.0986123]))  # probabilities 1/4 and 3/4

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(x), 2)

    val = Tensors(x=torch.zeros(5, 1, 2, 2), y=torch.tensor([0, 1, 1, 1, 1]))
    test = Tensors(x=torch.zeros(4, 1, 2, 2), y=torch.tensor([0, 0, 0, 1]))
    signature = Signature("classification", offers={"num_outputs": 2, "class_names": ("no", "yes")})
    classifier = build(Splits(val, val, test, signature), model=Constant, batch_size=2, label_smoothing=0.5)
    assert classifier.evaluate() == pytest.approx({"loss": (np.log(4) + 4 * np.log(4 / 3)) / 5, "accuracy": 0.8})
    # F1 of "no" is 0, of "yes" 2 / (2 + 3)
    final = {"loss": (3 * np.log(4) + np.log(4 / 3)) / 4, "accuracy": 0.25, "f1": 0.2, "balanced_accuracy": 0.5}
    # All scores are equal; the confidence is 3/4 where a quarter is right.
    final |= {"roc_auc": 0.5, "average_precision": 0.25, "calibration_error": 0.5}
    assert classifier.evaluate(final=True) == pytest.approx(final)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_learns_in_every_precision(data: Splits, precision: Any) -> None:
    classifier = build(data, run=Run(precision=precision), hidden=(64,), max_grad_norm=1.0)
    losses = [classifier.step()["loss"] for _ in range(150)]
    assert all(loss.shape == () and not loss.requires_grad for loss in losses)
    assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}
    assert losses[-1] < 0.25 < 2 < losses[0]
    assert classifier.evaluate()["accuracy"] > 0.9


def test_logs_the_rate_and_the_norm_when_they_are_used(data: Splits) -> None:
    classifier = build(data, lr=0.4, warmup_epochs=128 / 1257, decay_epochs=128 * 3 / 1257, max_grad_norm=1e-3)
    rates = []
    for _ in range(6):
        logs = classifier.step()
        rates.append(logs["lr"].item())
        assert classifier.optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])
        assert logs["grad_norm"] > 1e-3  # before clipping
        clipped = torch.cat([p.grad.flatten() for p in classifier.model.parameters() if p.grad is not None])
        assert clipped.norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert rates == pytest.approx([0.2, 0.4, 0.3414214, 0.2, 0.0585786, 0.0], abs=1e-7)
    assert build(data).step().keys() == {"loss"}


def test_a_schedule_that_was_another_leaves_no_rate_behind(data: Splits) -> None:
    ended, constant = build(data, lr=0.4, decay_epochs=64 / 1257), build(data, lr=0.4)
    assert ended.step()["lr"] == 0.0
    load_state_dict(constant, through_a_file(state_dict(ended)))
    constant.step()
    assert constant.optimizer.param_groups[0]["lr"] == 0.4


def test_the_norm_is_that_of_the_gradient_before_loss_scaling(data: Splits) -> None:
    plain = build(data, run=Run(precision="fp32"), max_grad_norm=1.0).step()
    scaled = build(data, run=Run(precision="fp16"), max_grad_norm=1.0).step()
    assert scaled["grad_norm"].item() == pytest.approx(plain["grad_norm"].item(), rel=0.02)


def test_smoothed_labels_by_hand(data: Splits) -> None:
    classifier = build(data, label_smoothing=0.3)
    index = Batches(len(data.train), 64, run=Run()).next()
    with torch.no_grad():
        log_p = classifier.model(data.train.batch(index)["x"]).log_softmax(1)
    target = 0.7 * F.one_hot(data.train.batch(index)["y"], 10) + 0.3 / 10
    torch.testing.assert_close(classifier.step()["loss"], -(target * log_p).sum(1).mean())


def test_an_update_that_overflows_in_fp16_is_skipped_and_has_no_norm(data: Splits) -> None:
    classifier = build(data, run=Run(precision="fp16"), max_grad_norm=1.0)
    classifier.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = through_a_file(dict(classifier.model.state_dict()))
    logs = classifier.step()
    assert logs["grad_norm"].isnan()
    assert logs["loss"].isfinite()
    assert same_bits(dict(classifier.model.state_dict()), before)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"accumulate": 3}, "accumulate=3 must divide learner.batch_size = 64"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"batch_size": 0}, "batch_size=0: must be an integer >= 1"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm=0\.0: must be a number > 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1\.0"),
        ({"warmup_epochs": 9, "decay_epochs": 5}, "warmup_epochs=9"),
    ],
)
def test_wrong_values_are_named(data: Splits, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data, **keywords)


def test_padding_accumulation_and_workers_change_nothing_where_counts_differ() -> None:
    data = reversal(num_samples=64, max_length=6, val_samples=8)

    def learner(**keywords: Any) -> Supervised:
        model = functools.partial(AttentionRNN, hidden_size=8, embedding=8)
        return build(data, model=model, batch_size=32, optimizer=torch.optim.SGD, lr=0.1, **keywords)

    def gradient(learner: Supervised) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])

    class Half(Run):  # a rank without its process group, that knows what the other one counts
        def wrap(self, module: Any) -> Any:
            return module

        def sum(self, value: torch.Tensor) -> torch.Tensor:
            whole = data.train.batch(Batches(64, 32, run=Run()).next())
            return (whole["y"] != 0).sum()

    whole, parts = learner(), learner(accumulate=4)
    loss, again = whole.step()["loss"], parts.step()["loss"]
    torch.testing.assert_close(again, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(parts), gradient(whole), rtol=1e-3, atol=1e-6)
    halves = [learner(run=Half(rank=rank, world_size=2)) for rank in range(2)]
    losses = [half.step()["loss"] for half in halves]
    torch.testing.assert_close(sum(losses) / 2, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(map(gradient, halves)) / 2, gradient(whole), rtol=1e-3, atol=1e-6)


def test_the_averaged_weights_are_evaluated_and_resume(data: Splits) -> None:
    learner = build(data, ema=0.9)
    for _ in range(30):
        learner.step()
    assert learner.average is not None
    own = copy.deepcopy(learner.model)
    with learner.average.applied():
        averaged = copy.deepcopy(learner.model)
    assert not same_bits(dict(own.state_dict()), dict(averaged.state_dict()))
    scores = learner.evaluate()
    assert same_bits(dict(learner.model.state_dict()), dict(own.state_dict()))
    assert scores == build(data, model=lambda: averaged).evaluate()
    resumed = build(data, ema=0.9)
    load_state_dict(resumed, through_a_file(state_dict(learner)))
    assert resumed.evaluate() == scores
    assert same_bits([resumed.step() for _ in range(3)], [learner.step() for _ in range(3)])


def test_norms_and_biases_are_spared_from_weight_decay_on_request(data: Splits) -> None:
    learner = build(data, decay_norms=False)
    groups = [([p.ndim for p in group["params"]], group["weight_decay"]) for group in learner.optimizer.param_groups]
    assert groups == [([2, 2], 0.01), ([1, 1], 0.0)]
