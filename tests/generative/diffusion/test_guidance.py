"""Classifier-free guidance: its neutral weights, how often a class is hidden, and batches of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_learners import build
from torch import Tensor

from trivium.data.digits import digits
from trivium.generative.diffusion.process import alpha_sigma


@pytest.fixture(scope="module")
def learner() -> Any:
    made = build("conditional ddpm", digits(), ema=0.0, lr=3e-3)
    for _ in range(10):
        made.step()
    return made


class Recorded:
    """Lets through what the network is asked, and keeps the classes."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.labels: list[Tensor | None] = []
        self.handle = network.register_forward_hook(lambda module, args, out: self.labels.append(args[2]))


def sample(learner: Any, **keywords: Any) -> Tensor:
    image: Tensor = learner.sample(2, generator=torch.Generator().manual_seed(0), **keywords)
    return image


def test_weight_one_is_the_conditional_network_alone_and_zero_the_unconditional_one(learner: Any) -> None:
    label = torch.tensor([3, 7])
    recorded = Recorded(learner.network)
    one = sample(learner, label_N=label, guidance=1.0)
    recorded.handle.remove()
    assert one.shape[0] == 2
    assert all(each is not None and torch.equal(each, label) for each in recorded.labels)  # no second pass
    nought = sample(learner, label_N=label, guidance=0.0)
    torch.testing.assert_close(nought, sample(learner, label_N=label.flip(0), guidance=0.0))
    assert not torch.allclose(one, sample(learner, label_N=label.flip(0), guidance=1.0))
    assert not torch.allclose(one, nought)


def test_guidance_goes_on_along_the_line_from_the_unconditional_to_the_conditional_answer() -> None:
    """One step of DDIM by hand: x0 = alpha x - sigma v, v = without + 3 (with - without)."""
    learner = build("conditional ddpm", digits(), ema=0.0, lr=3e-3, target="v")
    for _ in range(5):
        learner.step()
    noise, label = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 7])
    recorded: list[Tensor] = []
    handle = learner.network.register_forward_hook(lambda module, args, out: recorded.append(out.detach()))
    image = learner.decode(noise, label_N=label, steps=1, guidance=3.0)
    handle.remove()
    with_class, without = recorded
    assert not torch.allclose(with_class, without)
    alpha, sigma = alpha_sigma(torch.ones(()), learner.schedule)
    x0 = alpha * noise - sigma * (without + 3 * (with_class - without))
    torch.testing.assert_close(image, (x0.clamp(-1, 1) + 1) / 2)


def test_the_share_of_hidden_classes_is_what_was_asked_for() -> None:
    learner = build("conditional ddpm", digits(), label_dropout=0.2, batch_size=512)
    hidden = torch.cat([learner._draw()[2] for _ in range(20)]).float().mean().item()
    assert hidden == pytest.approx(0.2, abs=0.016)  # 4 standard errors
    recorded = Recorded(learner.network)
    learner.step()
    recorded.handle.remove()
    (label,) = recorded.labels
    assert label is not None
    assert set(label.tolist()) == set(range(11))  # 10 stands for a hidden class
