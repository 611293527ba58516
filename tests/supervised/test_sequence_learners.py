"""Each kind of data with a model and the task that it names: learns, resumes, and two halves are the whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import same_bits, through_a_file
from torch import nn

from trivium.data.made_up.adding import adding
from trivium.data.made_up.dates import dates
from trivium.data.made_up.digit_images import digit_pairs, digit_strips
from trivium.data.series import series
from trivium.data.source import Splits
from trivium.data.texts.masked_text import masked_text
from trivium.data.texts.tagged import tagged
from trivium.declared import load_state_dict, state_dict
from trivium.learner import Run
from trivium.supervised.learner import Supervised
from trivium.supervised.models.mlp import MLP
from trivium.supervised.models.sequences.bert import BERT
from trivium.supervised.models.sequences.recurrent import Recurrent
from trivium.supervised.models.sequences.t5 import T5

BOTH_WAYS = functools.partial(Recurrent, hidden_size=12, bidirectional=True, per_step=True)
SMALL_BERT = functools.partial(BERT, num_layers=1, width=16, num_heads=2, dropout=0.1)
KINDS: dict[str, tuple[Callable[[Path], Splits], Callable[..., nn.Module]]] = {
    "adding": (lambda _: adding(num_samples=99, length=8, val_samples=9), functools.partial(Recurrent, hidden_size=8)),
    "dates": (lambda _: dates(num_samples=200, val_samples=20), functools.partial(T5, width=16, num_layers=1)),
    "labels": (lambda _: digit_pairs(num_samples=200, val_samples=20), functools.partial(MLP, hidden=(16,))),
    "ctc": (lambda _: digit_strips(num_samples=200, val_samples=20, max_digits=2), BOTH_WAYS),
    "series": (lambda _: series(history=10, horizon=3), functools.partial(MLP, hidden=(16,))),
    "masked": (lambda folder: masked_text(path=text(folder), context=16, copies=2), SMALL_BERT),
    "tagged": (lambda folder: tagged(path=tags(folder), max_length=8), BOTH_WAYS),
    "tagged by BERT": (
        lambda folder: tagged(path=tags(folder), max_length=8), functools.partial(SMALL_BERT, per_step=True),
    ),
}  # fmt: skip


def text(folder: Path) -> str:
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    return str(folder / "text.txt")


def tags(folder: Path) -> str:
    line = ["to X", "be VERB", "or X", "not X"]
    (folder / "tags.txt").write_text("\n\n".join("\n".join(line[i % 3 : 4]) for i in range(200)))
    return str(folder / "tags.txt")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_and_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    make, model = KINDS[kind]
    data = make(tmp_path)

    def learner(**keywords: Any) -> Supervised:
        torch.manual_seed(0)
        adam = functools.partial(torch.optim.Adam)
        return Supervised(run=Run(), data=data, model=model, optimizer=adam, batch_size=32, lr=5e-3, **keywords)

    whole = learner()
    before = whole.evaluate()
    losses = [whole.step()["loss"].item() for _ in range(6)]
    state, random_state = through_a_file(state_dict(whole)), torch.get_rng_state()
    after = [whole.step() for _ in range(6)]
    scores = whole.evaluate(final=True)
    assert set(before) == set(whole.task.evaluates) <= set(scores)
    assert after[-1]["loss"].item() < losses[0]

    resumed = learner()
    load_state_dict(resumed, state)
    torch.set_rng_state(random_state)
    assert same_bits([resumed.step() for _ in range(6)], after)
    assert resumed.evaluate(final=True) == scores


@pytest.mark.parametrize("kind", ["ctc", "masked", "tagged", "series", "labels"])
def test_two_workers_and_micro_batches_make_the_gradient_of_the_whole(kind: str, tmp_path: Path) -> None:
    make, model = KINDS[kind]
    data = make(tmp_path)

    def gradient(run: Run, **keywords: Any) -> torch.Tensor:
        torch.manual_seed(0)
        learner = Supervised(
            run=run, data=data, model=model, optimizer=torch.optim.SGD, batch_size=32, lr=1e-30, **keywords
        )
        for module in learner.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "rate"):
                module.rate = 0.0
        counts.append(learner)
        learner.step()
        return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])

    class Half(Run):  # a rank without its process group, that knows what the other one counts
        def wrap(self, module: Any) -> Any:
            return module

        def sum(self, value: torch.Tensor) -> torch.Tensor:
            first = counts[0]
            index = type(first.batches)(len(data.train), 32, run=Run()).next()
            return torch.as_tensor(first.task.count(data.train.batch(index)))

    counts: list[Supervised] = []
    whole = gradient(Run())
    torch.testing.assert_close(gradient(Run(), accumulate=4), whole, rtol=1e-3, atol=1e-5)
    halves = [gradient(Half(rank=rank, world_size=2)) for rank in range(2)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-3, atol=1e-5)
