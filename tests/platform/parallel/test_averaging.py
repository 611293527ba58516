"""Gradients of several workers: their mean, whatever part of a module each used, and the first one's buffers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counting import config
from forked import spawn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trivium.checkpoints.folder import Checkpoints
from trivium.ema import Average
from trivium.learner import Run
from trivium.parallel import averaging, shared_sum
from trivium.parallel.averaging import Averaging, make_buffers_first, modules_of
from trivium.supervised.learner import evaluating
from trivium.tracking.tracker import Tracker
from trivium.training.loop import Loop

CPU = torch.device("cpu")
X = [torch.randn(6, 4, generator=torch.Generator().manual_seed(rank)) for rank in range(2)]


class Layers(nn.Module):
    """`used` of its layers, each by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor, used: tuple[int, ...]) -> Tensor:
        for number in used:
            x = self.layers[number](x).tanh()
        return x


@dataclasses.dataclass
class Own:
    """An output that is neither a tensor nor a container of torch's."""

    logits: Tensor


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def by_hand(module: nn.Module, loss: Callable[[nn.Module, int], Tensor], times: int = 1) -> list[Tensor | None]:
    """The mean over the ranks; None where none has a gradient."""
    of_ranks = []
    for rank in range(2):
        alone = copy.deepcopy(module)
        alone.zero_grad()
        for _ in range(times):
            loss(alone, rank).backward()
        of_ranks.append(gradients(alone))
    means: list[Tensor | None] = []
    for pair in zip(*of_ranks, strict=True):
        there = [gradient.to_dense() for gradient in pair if gradient is not None]
        means.append(torch.stack(there).sum(0) / 2 if there else None)
    return means


def check(
    rank: int,
    module: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    *,
    overlap: bool = False,
    bucket_bytes: int = 100,
    wrapped: Averaging | None = None,
) -> Averaging:
    """Twice, as in two updates, that each rank's loss gives the mean."""
    wrapped = wrapped or Averaging(module, CPU, overlap=overlap, bucket_bytes=bucket_bytes)
    for _ in range(2):
        module.zero_grad()
        loss(wrapped, rank).backward()
        for own, mean in zip(gradients(module), by_hand(module, loss), strict=True):
            assert (own is None) == (mean is None)
            assert own is None or torch.allclose(own.to_dense(), mean, atol=1e-6)
    return wrapped


def loss_of(*used_by_ranks: tuple[int, ...]) -> Callable[[nn.Module, int], Tensor]:
    return lambda module, rank: module(X[rank], used_by_ranks[rank]).square().sum()


def _workers(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    shared_sum.join(rank, 2)
    torch.manual_seed(0)
    for overlap in (False, True):
        check(rank, Layers(), loss_of((0, 1, 2, 3), (0, 1, 2, 3)), overlap=overlap)
        wrapped = check(rank, Layers(), loss_of((0, 2), (0, 2)), overlap=overlap)  # the same unused on both
        check(rank, wrapped.module, loss_of((0, 1), (3, 2)), wrapped=wrapped)  # others in another update
        check(rank, wrapped.module, loss_of((0, 1, 2, 3), (0,)), wrapped=wrapped)
        frozen = Layers()
        frozen.layers[1].requires_grad_(False)
        check(rank, frozen, loss_of((0, 1, 3), (0, 1)), overlap=overlap)

        def several(module: nn.Module, rank: int) -> Tensor:  # forward passes of one backward pass
            return (module(X[rank], (0, 1)) + 2 * module(X[rank], (2,)) + module(X[1 - rank], (0,))).sum()

        def penalised(
            module: nn.Module, rank: int
        ) -> Tensor:  # a gradient's gradient: a pass that no parameter is given
            x = X[rank].clone().requires_grad_()
            output = module(x, (0, 1)).sum()
            (gradient,) = torch.autograd.grad(output, x, create_graph=True)
            return output + gradient.square().sum()

        check(rank, Layers(), several, overlap=overlap)
        check(rank, Layers(), penalised, overlap=overlap)
        check(rank, Layers(), lambda module, rank: checkpoint(module, X[rank], (0, 1), use_reentrant=False).sum())
        _accumulates(rank, overlap)
        _goes_on_after_an_error(rank, overlap)
    _reentrant(rank)
    _kinds_of_outputs(rank)
    _other_parameters(rank)
    _lazy(rank)
    _buffers(rank)
    _trains(rank, folder)
    torch.distributed.destroy_process_group()


def _accumulates(rank: int, overlap: bool) -> None:
    """Micro-batches: only the last sends a message, and the mean is that of their sums."""
    module, loss = Layers(), loss_of((0, 1), (0, 2))
    wrapped = Averaging(module, CPU, overlap=overlap)
    with wrapped.no_sync():
        loss(wrapped, rank).backward()
    alone = [gradient is not None for gradient in gradients(module)]
    assert alone == [layer in ((0, 1), (0, 2))[rank] for layer in range(4) for _ in range(2)]
    loss(wrapped, rank).backward()
    for own, mean in zip(gradients(module), by_hand(module, loss, times=2), strict=True):
        assert (own is None) == (mean is None)
        assert own is None or torch.allclose(own, mean, atol=1e-6)


def _goes_on_after_an_error(rank: int, overlap: bool) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise ArithmeticError

    module = Layers()
    wrapped = Averaging(module, CPU, overlap=overlap)
    x = X[rank].clone().requires_grad_()
    with pytest.raises(ArithmeticError):
        wrapped(Fails.apply(x), ()).sum().backward()
    check(rank, module, loss_of((0, 1), (0, 1)), wrapped=wrapped)


def _reentrant(rank: int) -> None:
    """Checkpointing of the old kind has backward passes within a backward pass: the mean is taken at its end."""

    class Checkpointed(Layers):
        def forward(self, x: Tensor, used: tuple[int, ...]) -> Tensor:
            first, *others = used
            x = checkpoint(lambda y: super(Checkpointed, self).forward(y, (first,)), x, use_reentrant=True)
            return super().forward(x, tuple(others))

    def loss(module: nn.Module, rank: int) -> Tensor:
        return module(X[rank].clone().requires_grad_(), (0, 1, 2)).sum()

    check(rank, Checkpointed(), loss)


def _kinds_of_outputs(rank: int) -> None:
    outputs: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = [
        (lambda y: (y, y.detach()), lambda output: output[0]),
        (lambda y: {"a": [y]}, lambda output: output["a"][0]),
        (lambda y: Own(y), lambda output: output.logits),
        (lambda y: torch.distributions.Normal(y, 1.0), lambda output: output.mean),
    ]
    for pack, unpack in outputs:

        class Packed(Layers):
            def forward(self, x: Tensor, used: tuple[int, ...], pack: Any = pack) -> Any:
                return pack(super().forward(x, used))

        check(rank, Packed(), lambda module, rank, unpack=unpack: unpack(module(X[rank], (1,))).sum())

    class Nothing(Layers):
        def forward(self, x: Tensor, used: tuple[int, ...]) -> Any:
            return None

    with pytest.raises(TypeError, match=r"Nothing returns a NoneType.*tensors"):
        Averaging(Nothing(), CPU, overlap=False)(X[rank], (1,))


def _other_parameters(rank: int) -> None:
    mixed = nn.ModuleDict({"a": nn.Linear(4, 4, dtype=torch.float64), "b": nn.Linear(4, 4, dtype=torch.bfloat16)})

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = copy.deepcopy(mixed)
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.table = nn.Embedding(5, 4, sparse=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.parts["a"](x.double()).float() + self.parts["b"](x.bfloat16()).float()
            return self.scale * (y + self.table(torch.arange(len(x)) % 3 + int(x[0, 0] > 0)))

    check(rank, Mixed(), lambda module, rank: module(X[rank]).sum(), bucket_bytes=10**6)
    Averaging(nn.Flatten(), CPU, overlap=False)(X[rank])  # nothing to train


def _lazy(rank: int) -> None:
    torch.manual_seed(rank)
    module = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.LazyLinear(2))
    wrapped = Averaging(module, CPU, overlap=True)
    wrapped(X[rank])
    check(rank, module, lambda module, rank: module(X[rank]).sum(), wrapped=wrapped)
    theirs = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    torch.distributed.broadcast(theirs, 0)
    assert torch.equal(theirs, nn.utils.parameters_to_vector(module.parameters()))
    torch.manual_seed(0)


def _buffers(rank: int) -> None:
    """Bit for bit those of rank 0: after a backward pass that averages, and when asked for."""
    norm = nn.BatchNorm1d(4)
    norm.register_buffer("mask", torch.tensor([rank == 0, True]), persistent=False)
    norm.register_buffer("phase", torch.tensor(complex(rank, 1)))
    norm.running_mean.fill_(-0.0 if rank == 0 else 1.0)
    wrapped = Averaging(norm, CPU, overlap=False)
    assert norm.mask.tolist() == [True, True]
    assert norm.phase.item() == 1j
    assert torch.signbit(norm.running_mean).all()

    output = wrapped(X[rank])
    assert torch.allclose(norm.running_mean, 0.1 * X[rank].mean(0)), "of its own share, until the gradients are there"
    output.sum().backward()
    assert torch.allclose(norm.running_mean, 0.1 * X[0].mean(0))
    with wrapped.no_sync():
        wrapped(X[rank]).sum().backward()
    assert torch.allclose(norm.running_mean, 0.09 * X[0].mean(0) + 0.1 * X[rank].mean(0))
    learner: Any = type("Learner", (), {})()
    learner.model, learner.forward, learner.others = norm, wrapped, {"b": nn.BatchNorm1d(2)}
    learner.others["b"].num_batches_tracked.fill_(7 + rank)
    make_buffers_first(learner, CPU)
    assert torch.allclose(norm.running_mean, 0.19 * X[0].mean(0))
    assert (norm.num_batches_tracked.item(), learner.others["b"].num_batches_tracked.item()) == (2, 7)


class Normed:
    """A learner with batch normalisation and averaged weights, each rank of which has samples of its own."""

    def __init__(self, run: Run) -> None:
        torch.manual_seed(0)
        self.run, self.steps = run, 0
        self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.forward = run.wrap(self.model)
        self.average = Average(self.model, decay=0.5)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self) -> dict[str, Tensor]:
        self.steps += 1
        self.optimizer.zero_grad()
        loss = self.forward(X[self.run.rank] + self.steps).square().mean()
        loss.backward()
        self.optimizer.step()
        self.average.update()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        with evaluating(self.model), self.average.applied():
            total = sum(self.model(x).sum() for x in X[self.run.rank :: self.run.world_size])
        return {"score": self.run.sum(torch.as_tensor(total)).item()}

    def counters(self) -> dict[str, float]:
        return {"samples": self.steps}

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "average": self.average.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.load_weights(state)
        self.steps = state["steps"]

    def load_weights(self, state: Any) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])


def flat(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Nested dicts and lists as one dict of tensors."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in flat(value, f"{prefix}/{key}").items()}
    return {prefix: torch.as_tensor(state)}


def _trains(rank: int, folder: str) -> None:
    """What two workers evaluate is what one says of their checkpoint, and a resumed run comes to the same bits."""
    run = Run(rank=rank, world_size=2)

    def train(name: str, updates: int) -> tuple[Checkpoints, dict[str, float]]:
        checkpoints = Checkpoints(f"{folder}/{name}", run)
        conf = config(budget={"updates": updates}, log={"every_updates": 1})
        loop = Loop(Normed(run), run, conf, checkpoints, Tracker())
        if state := checkpoints.load():
            loop.load_state_dict(state)
        return checkpoints, loop.train().metrics

    checkpoints, metrics = train("whole", 4)
    state = checkpoints.load()
    assert state is not None
    mine = flat(state["learner"])
    theirs: list[Any] = [None, None]
    torch.distributed.all_gather_object(theirs, mine)
    assert str(theirs[0]) == str(theirs[1])
    alone = Normed(Run())
    alone.load_weights(state["learner"])
    assert metrics["test/score"] == pytest.approx(alone.evaluate()["score"], abs=1e-6)

    train("hurt", 2)
    checkpoints, again = train("hurt", 4)
    state = checkpoints.load()
    assert state is not None
    assert all(torch.equal(value, mine[key]) for key, value in flat(state["learner"]).items())
    assert again["test/score"] == metrics["test/score"]


def test_two_workers_have_the_mean_of_their_gradients_and_the_first_ones_buffers(tmp_path: Path) -> None:
    spawn(_workers, (str(tmp_path),), nprocs=2)


def test_buckets_are_filled_in_order_and_of_one_kind() -> None:
    sizes = [(3, torch.float32), (2, torch.float32), (9, torch.float32), (1, torch.float64), (1, torch.float64)]
    parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n, dtype in sizes]
    buckets = [[p.numel() for p in bucket] for bucket in averaging._in_buckets(parameters, size=20)]
    assert buckets == [[3, 2], [9], [1, 1]]


def test_modules_of_a_learner() -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(1, 1)

    learner: Any = type("Learner", (), {})()
    learner.a, learner.number, learner.data = nn.Linear(1, 1), 3, list(range(5))
    learner.b, learner.c, learner.none = [nn.Linear(1, 1)], {"x": nn.Linear(1, 1)}, ()
    assert modules_of(learner) == [learner.a, learner.b[0], learner.c["x"]]
    module = Self()
    assert modules_of(module)[0] is module
    assert not modules_of(7)


def test_one_worker_wraps_nothing() -> None:
    module = nn.Linear(1, 1)
    assert Run().wrap(module) is module
