"""A module's parameters as one vector, and optimizers of it: what takes an operation per layer takes one.

The same code runs eagerly and inside `torch.compile`, where several minibatches become one graph.

Shapes: P parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from trivium.learner import Run
from trivium.saved import require_like

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class Flat(Generic[M]):
    """A module whose trainable parameters are views of one vector.

    Args:
        module: on its device; its parameters are moved into the vector and stay usable as they were.
        run: for the precision of forward passes.

    Attributes:
        module: the same.
        theta: float32 [P], without gradient; written to in place.

    Raises:
        ValueError: the precision is fp16, whose gradients overflow where bf16's do not.
    """

    def __init__(self, module: M, run: Run) -> None:
        if run.precision == "fp16":
            raise ValueError("precision=fp16: agents train in fp32 or bf16")
        self.module = module
        self.run = run
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.theta = torch.cat([p.detach().flatten() for _, p in named])
        self._names = [name for name, _ in named]
        self._params = [p for _, p in named]
        self._shapes = [p.shape for _, p in named]
        self._sizes = [p.numel() for _, p in named]
        for parameter, view in zip(self._params, self._views(self.theta), strict=True):
            parameter.data = view

    def copy_for(self, run: Run) -> Flat[M]:
        """Another of its own, on the device of a run."""
        return Flat(copy.deepcopy(self.module).to(run.device), run)

    def __reduce__(self) -> tuple[Any, ...]:
        return Flat, (self.module, self.run)  # in another process the parameters must become views again

    def _views(self, theta: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(theta.split(self._sizes), self._shapes, strict=True)]

    def __call__(self, theta: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward` in the run's precision, with the parameters `theta`: `self.theta`, or what `gradient`
        gives its loss."""
        with self.run.autocast():
            if torch.compiler.is_compiling():
                parameters = dict(zip(self._names, self._views(theta), strict=True))
                return torch.func.functional_call(self.module, parameters, args, kwargs)
            assert theta is self.theta  # eagerly the module's own parameters, its views, are cheaper
            return self.module(*args, **kwargs)

    def gradient(self, loss: Callable[..., tuple[Tensor, T]], *args: Any) -> tuple[Tensor, T]:
        """The gradient of a loss.

        Args:
            loss: from (theta, *args) to the 0-d loss and something else.

        Returns:
            float32 [P], d loss / d theta, and the something else, detached.
        """
        if torch.compiler.is_compiling():
            gradient, other = torch.func.grad(loss, has_aux=True)(self.theta, *args)
            return gradient, other
        with torch.enable_grad():
            value, other = loss(self.theta, *args)
            gradients = torch.autograd.grad(value, self._params, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients]), other


def clipped(gradient_P: Tensor, max_norm: float) -> tuple[Tensor, Tensor]:
    """The gradient scaled down to the global norm `max_norm` if it is larger; and its norm before, 0-d."""
    norm = torch.linalg.vector_norm(gradient_P)
    (scale,) = computed_once((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return gradient_P * scale, norm


def computed_once(*numbers: Tensor) -> tuple[Tensor, ...]:
    """0-d tensors as they are. Compiled loops over parameters read them; else what they come from, roots and powers,
    would be computed again for each vector register of parameters. A scatter is what the compiler does not inline."""
    if not torch.compiler.is_compiling():
        return numbers
    values = torch.stack(numbers)
    return torch.zeros_like(values).scatter(0, torch.arange(len(numbers), device=values.device), values).unbind()


class Optimizer:
    """Adam (arXiv:1412.6980) or RMSprop (Tieleman, Hinton 2012) of one vector, in place.

    Adam: m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  theta -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    RMSprop: v = alpha v + (1 - alpha) g^2,  theta -= lr g / (sqrt(v) + eps)

    Args:
        theta: float32 [P].
        kind: which.
        eps: > 0.
        betas: b1 and b2 of Adam, each in [0, 1).
        alpha: of RMSprop, in [0, 1).
    """

    def __init__(
        self,
        theta: Tensor,
        *,
        kind: Literal["adam", "rmsprop"] = "adam",
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        alpha: float = 0.99,
    ) -> None:
        self.theta = theta
        self.kind = kind
        self.eps = eps
        self.betas = betas
        self.alpha = alpha
        self.mean_P = torch.zeros_like(theta if kind == "adam" else theta[:0])
        self.square_P = torch.zeros_like(theta)
        self.updates = torch.zeros((), device=theta.device)

    def step(self, gradient_P: Tensor, lr: Tensor) -> None:
        """One update; `lr` 0-d, so that another one is not another graph."""
        if self.kind == "rmsprop":
            self.square_P.mul_(self.alpha).addcmul_(gradient_P, gradient_P, value=1 - self.alpha)
            self.theta.sub_(lr * gradient_P / (self.square_P.sqrt() + self.eps))
            return
        beta1, beta2 = self.betas
        self.updates.add_(1)
        self.mean_P.lerp_(gradient_P, 1 - beta1)
        self.square_P.mul_(beta2).addcmul_(gradient_P, gradient_P, value=1 - beta2)
        rate, root_scale = computed_once(lr / (1 - beta1**self.updates), (1 - beta2**self.updates).rsqrt())
        self.theta.sub_(self.mean_P / (self.square_P.sqrt() * root_scale + self.eps) * rate)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = {name: value for name, value in state.items() if name not in self._FORMER}
        require_like(state, self.state_dict(), "optimizer")
        for name in self._STATE:
            getattr(self, name).copy_(state[name])

    _STATE = ("mean_P", "square_P", "updates")
    _FORMER = ("scale", "updates_of_scale")  # of fp16, which older checkpoints hold
