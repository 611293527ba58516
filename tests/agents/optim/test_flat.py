from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trivium.agents.optim.flat import Flat, Optimizer, clipped
from trivium.learner import Run


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(seed: int = 0) -> nn.Sequential:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator(seed))
    return module


def squares(flat: Flat, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        y = flat(theta, x)
        return y.square().mean(), y.detach()

    return loss


# one vector


def test_the_parameters_are_views_of_the_vector_in_order_and_change_with_it() -> None:
    module = net()
    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    flat = Flat(module, Run())
    assert torch.equal(flat.theta, before)
    assert not flat.theta.requires_grad
    flat.theta.mul_(2)
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), 2 * before)
    assert all(p.requires_grad and p.is_leaf for p in module.parameters())


def test_the_parameters_stay_views_after_load_state_dict(saved: Callable[[Any], Any]) -> None:
    flat = Flat(net(), Run())
    state = saved(net(seed=1).state_dict())
    flat.module.load_state_dict(state)
    assert torch.equal(flat.theta, torch.cat([value.flatten() for value in state.values()]))
    flat.theta.zero_()
    assert not any(p.any() for p in flat.module.parameters())


def test_what_is_not_trained_is_left_where_it_is() -> None:
    module = net()
    module[0].requires_grad_(False)
    flat = Flat(module, Run())
    assert flat.theta.numel() == 5 * 2 + 2
    gradient, _ = flat.gradient(squares(flat, torch.ones(4, 3)))
    assert gradient.shape == flat.theta.shape
    flat.theta.zero_()
    assert module[0].weight.any()


def test_the_gradient_is_that_of_autograd() -> None:
    module, x = net(), torch.randn(7, 3, generator=generator(2))
    module(x).square().mean().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    flat = Flat(net(), Run())
    gradient, y = flat.gradient(squares(flat, x))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(y, module(x).detach())
    assert all(p.grad is None for p in flat.module.parameters()), "nothing is accumulated"


def test_what_a_loss_does_not_depend_on_has_the_gradient_0() -> None:
    flat = Flat(nn.ModuleDict({"used": nn.Linear(1, 1), "idle": nn.Linear(1, 1)}), Run())
    gradient, _ = flat.gradient(lambda theta: (flat.module["used"](torch.ones(1, 1)).sum(), None))
    assert gradient.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, [0.6, -0.8]), (10.0, [3, -4]), (math.inf, [3, -4])])
def test_clipped_by_hand(max_norm: float, expected: list[float]) -> None:
    gradient, norm = clipped(torch.tensor([3.0, -4.0]), max_norm)
    assert norm.item() == 5
    assert gradient.tolist() == pytest.approx(expected, rel=1e-6)


def test_clipped_equals_torch_and_leaves_a_gradient_of_0_alone() -> None:
    for scale in (1e-3, 1.0, 1e3):
        gradient = scale * torch.randn(100, generator=generator())
        parameter = nn.Parameter(torch.zeros(100))
        parameter.grad = gradient.clone()
        expected_norm = nn.utils.clip_grad_norm_([parameter], 0.5)
        result, norm = clipped(gradient, 0.5)
        torch.testing.assert_close(result, parameter.grad)
        torch.testing.assert_close(norm, expected_norm)
    assert clipped(torch.zeros(3), 0.5)[0].tolist() == [0, 0, 0]


# optimizers

REFERENCES: dict[str, tuple[dict[str, Any], Callable[..., torch.optim.Optimizer]]] = {
    "adam": ({"eps": 1e-5}, torch.optim.Adam),
    "adam with betas": ({"eps": 1e-8, "betas": (0.8, 0.99)}, torch.optim.Adam),
    "rmsprop": ({"eps": 1e-5}, torch.optim.RMSprop),
    "rmsprop with alpha": ({"eps": 1e-3, "alpha": 0.9}, torch.optim.RMSprop),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_50_updates_are_those_of_torch(name: str) -> None:
    """With another learning rate and another size of gradient at each."""
    keywords, reference = REFERENCES[name]
    theta = torch.randn(200, generator=generator())
    parameter = nn.Parameter(theta.clone())
    ours = Optimizer(theta, kind=name.split()[0], **keywords)  # type: ignore[arg-type]
    theirs = reference([parameter], lr=1.0, **keywords)
    for i in range(50):
        gradient, lr = torch.randn(200, generator=generator(i)) * 10.0 ** (i % 5 - 3), 1e-2 / (1 + i)
        theirs.param_groups[0]["lr"] = lr
        parameter.grad = gradient.clone()
        theirs.step()
        ours.step(gradient, torch.tensor(lr))
    assert (theta - parameter).abs().max() < 1e-6
    assert theta.data_ptr() == ours.theta.data_ptr(), "in place"


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_an_optimizer_goes_on_from_its_state(kind: Any, saved: Callable[[Any], Any]) -> None:
    theta = torch.randn(20, generator=generator())
    first = Optimizer(theta, kind=kind)
    for i in range(3):
        first.step(torch.randn(20, generator=generator(i)), torch.tensor(0.01))
    state = saved(first.state_dict())
    other = Optimizer(theta.clone(), kind=kind)
    other.step(torch.ones(20), torch.tensor(0.0))  # what it knew is forgotten
    other.load_state_dict(state)
    for optimizer in (first, other):
        optimizer.step(torch.ones(20), torch.tensor(0.01))
    assert torch.equal(first.theta, other.theta)
    assert torch.equal(first.square_P, other.square_P)


def test_what_older_checkpoints_hold_of_fp16_is_left_out() -> None:
    optimizer = Optimizer(torch.zeros(2))
    state = optimizer.state_dict()
    optimizer.load_state_dict(state | {"scale": torch.tensor(65536.0), "updates_of_scale": torch.tensor(3.0)})
    with pytest.raises(ValueError, match="optimizer"):
        optimizer.load_state_dict(state | {"other": torch.tensor(0.0)})


def test_fp16_is_refused() -> None:
    with pytest.raises(ValueError, match="precision=fp16: agents train in fp32 or bf16"):
        Flat(net(), Run(precision="fp16"))


def test_forward_passes_are_in_the_precision_of_the_run() -> None:
    x = torch.ones(1, 3)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        flat = Flat(nn.Linear(3, 1), Run(precision=precision))  # type: ignore[arg-type]
        assert flat(flat.theta, x).dtype == dtype
        assert flat.theta.dtype == torch.float32
