"""The two concepts of Trivium: a `Learner` learns, a `Run` tells it where.

A learner is one object that owns its modules, optimizers, data position and environments. The loop
(`trivium.training.loop`) calls `step` until the budget is spent and owns everything else: logging, evaluation,
checkpoints, stopping. A learner therefore never logs, never saves and never asks what time it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trivium.config.rules.sizes import not_shared
from trivium.parallel.averaging import Averaging
from trivium.parallel.shared_sum import all_reduce

DOING_S = 0.5  # how often a step or an evaluation says what it is at

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@runtime_checkable
class Learner(Protocol):
    """Anything that can be trained. What else it can do is optional, see the capabilities below, such as `Draws`.

    `evaluates` is optional too: a mapping from the names that `evaluate` returns while training to `min` or `max`
    (which values are better), or None where that depends. A config that follows another metric is then reported before
    the run begins, and needs no `monitor.mode`. A tuple of names says which there are, and no directions.

    With several workers the buffers of a learner's modules, such as running statistics, are made those of rank 0 before
    it is evaluated and saved; what is each worker's own is a tensor that no module holds.

    `state`, a tuple of names as a class attribute, says what the next `step` depends on: EVERYTHING, the global
    generators of python, numpy and torch excepted, which the loop saves. What a name may stand for, `derived`, and what
    may be written by hand instead (`state_dict() -> dict`, `load_state_dict(state)`, `load_weights(state)`, called on
    every rank without communication) is described in `trivium.declared`.

    A learner is constructed by the platform as `Target(run=run, **parts, **keywords)`: `run` is a `Run`,
    `parts` are the other chosen groups of the config (`model`, `data`, `env`), `keywords` its own YAML.
    """

    def step(self) -> dict[str, Tensor]:
        """Gather data and make one update (or one rollout and its updates).

        Returns:
            Detached 0-d float32 tensors on `run.device`, the same names every time, without a prefix (`loss`,
            `entropy`); the loop logs their mean over the logging window as `train/<name>`. NaN means "nothing to
            say this time" (no episode ended) except in a name that contains `loss`: there NaN or Inf stops the run.
        """
        ...

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        """Measure; touches no training state and no training RNG. With several workers every rank calls it. A signal
        may end it by an exception at any place; the state is then saved.

        Args:
            final: the number one would publish: the held-out test split, the full count of episodes. Otherwise
                the validation split, fewer episodes.

        Returns:
            Floats named without a prefix, the same on every rank; the loop logs `eval/<name>`, or
            `test/<name>` for the final one.
        """
        ...

    def counters(self) -> dict[str, float]:
        """Progress over all workers. The first entry is the step axis of every tracker: `samples` or
        `env_steps`, an int. `epochs` (a float) may follow."""
        ...


class Abandoned(BaseException):
    """A signal came while something ran that may be left at any place. No Exception: whoever catches all of those, as
    the envs' error messages do, is not meant."""


class UserCodeError(ValueError):
    """What the user brought, an env, a model or data, did what it must not, or raised an exception. The text is one
    line that names it and says what is valid; commands print it without a trace, and exit with 1 once the run has
    begun."""


class Doing:
    """What a step or an evaluation that takes long is at: the loop lets the user see it. It does not travel between
    processes: a copy shows nothing.

    Attributes:
        show: shows a text to the user; None: nobody is there.
        stop_requested: the signal that asks the run to stop, if any; a step that takes long may end by `Abandoned`.
    """

    def __init__(self) -> None:
        self.show: Callable[[str], None] | None = None
        self.stop_requested: Callable[[], int | None] = lambda: None
        self._due = 0.0

    def __reduce__(self) -> tuple[type[Doing], tuple[()]]:
        return Doing, ()

    def due(self) -> bool:
        """Whether it is time to say where one is, about twice a second; quick, to be asked at every moment."""
        if self.show is None or time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + DOING_S
        return True

    def __call__(self, text: str) -> None:
        if self.show is not None:
            self.show(text)


@dataclass(frozen=True)
class Run:
    """All that a learner knows of where it runs.

    Sizes in a config (`learner.batch_size`, `env.num_envs`) are those of the whole run; `share` gives one
    worker's part. A run on two workers therefore learns what the same config learns on one.

    Args:
        device: where this worker's tensors live.
        rank: this worker's number, 0 <= rank < world_size.
        world_size: how many workers average their gradients.
        seed: the run's seed, the same on every worker.
        precision: `fp32`, or autocast to `bf16` or `fp16` (the latter with a gradient scaler).
        compile: whether `wrap` compiles.
        dir: the run folder, for learners that must spill to disk; None when there is none.
        doing: called with what takes long.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    dir: Path | None = None
    doing: Doing = field(default_factory=Doing, compare=False, repr=False)

    def share(self, total: int, name: str) -> int:
        """This worker's part of a size that the config states for the whole run.

        Raises:
            ValueError: `total` is not a positive multiple of the number of workers.
        """
        if problem := not_shared(name, total, self.world_size):
            raise ValueError(str(problem))
        return total // self.world_size

    def own(self, whole_B: Tensor) -> Tensor:
        """This worker's rows of a tensor that every worker has drawn for the whole batch, whose size the number of
        workers divides: with equal generators the update then does not depend on their number. A view."""
        share = len(whole_B) // self.world_size
        return whole_B[self.rank * share : (self.rank + 1) * share]

    def seed_for(self, *stream: object) -> int:
        """A seed in [0, 2^63) for one named stream of randomness: equal names, equal seeds; else unrelated."""
        text = "/".join(map(str, (self.seed, *stream)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def generator(self, *stream: object, device: torch.device | str = "cpu") -> torch.Generator:
        """A new generator for one named stream; put `run.rank` among the names for a stream per worker."""
        return torch.Generator(device).manual_seed(self.seed_for(*stream))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for forward passes under `precision`."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, a no-op unless `precision` is fp16. One per optimizer; part of the state."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def wrap(self, module: M) -> M:
        """The callable for forward passes that train: `module` itself, compiled, and averaging gradients over
        the workers, see `Averaging`. Parameters are shared with `module`, whose `state_dict` is the one to save."""
        wrapped: Any = torch.compile(module, dynamic=False) if self.compile else module
        if self.world_size > 1:
            wrapped = Averaging(wrapped, self.device, overlap=self.device.type == "cuda")
        return wrapped  # type: ignore[no-any-return]

    def compiled(self, function: F, *, dynamic: bool = False) -> F:
        """A pure function of tensors, compiled if `compile` says so: on first use, and again for other shapes unless
        `dynamic`. Its branches on Python values, also on what `self` holds, are taken once and for all."""
        if not self.compile:
            return function

        def call(*args: Any) -> Any:
            return function(*args)

        # Code of its own: torch finds what it has compiled by the code, and would take another learner's for this one,
        # since the values that its branches depend on are not compared.
        own = types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
        options: Any = {
            # On a CPU kernels are so short that calling them from Python would cost as much again,
            "cpp_wrapper": self.device.type == "cpu",
            # and so would comparing hundreds of values at each call.
            "guard_filter_fn": _guards_of_tensors,
        }
        return torch.compile(own, dynamic=dynamic, options=options)  # type: ignore[return-value]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the workers; itself for one worker."""
        return self.sum(value) / self.world_size if self.world_size > 1 else value

    def no_sync(self, wrapped: nn.Module, active: bool = True) -> contextlib.AbstractContextManager[Any]:
        """While accumulating gradients: skip averaging in all but the last micro-batch."""
        if active and isinstance(wrapped, Averaging):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over the workers (any shape, the same on each); itself for one worker."""
        return all_reduce(value) if self.world_size > 1 else value

    def gather(self, value: Tensor) -> Tensor:
        """`value` of all workers, concatenated along its first dimension in rank order. Lengths may differ."""
        if self.world_size == 1:
            return value
        length = torch.zeros(self.world_size, dtype=torch.int64, device=value.device)
        length[self.rank] = len(value)
        dist.all_reduce(length)
        padded = value.new_zeros(int(length.max()), *value.shape[1:])
        padded[: len(value)] = value
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, length.tolist(), strict=True)])


def _guards_of_tensors(guards: Iterable[Any]) -> list[bool]:
    """Which of torch's guards are kept: those of the tensors that a compiled function is given, and of their sizes."""
    return [
        guard.guard_type == "SHAPE_ENV"
        or (guard.guard_type == "TENSOR_MATCH" and not isinstance(guard.value, nn.Parameter))
        for guard in guards
    ]


Picture = np.ndarray
"""uint8 [H, W, 3], an image, or [T, H, W, 3], a video at `VIDEO_FPS`."""

VIDEO_FPS = 25.0  # of a video among the pictures


class Episode(NamedTuple):
    """One that was played: the undiscounted return, the length in env steps, and what ended it: `terminated`,
    `truncated` (by the env) or `cut` (by us)."""

    total: float
    length: int
    ended: str


class Film(Protocol):
    """Episodes that are played and drawn while one iterates over their frames, uint8 [H, W, 3] of one size."""

    fps: float

    def __iter__(self) -> Iterator[Picture]: ...


# ----------------------------------------------------------------------------------------------- capabilities
# What a learner can do beside learning: a protocol each, which the platform asks for by `isinstance`.


@runtime_checkable
class Draws(Protocol):
    """A learner with pictures of what it has learnt."""

    def figures(self) -> dict[str, Picture]:
        """Pictures by name. Called on rank 0 only, after `evaluate`; touches no training state and no training RNG."""
        ...


@runtime_checkable
class Closes(Protocol):
    """A learner that holds more than memory, such as processes."""

    def close(self) -> None:
        """Free it: called when the training has ended in whatever way. Evaluating must go on working."""
        ...


@runtime_checkable
class Plays(Protocol):
    """A learner whose episodes one can look at."""

    def play(
        self,
        *,
        episodes: int,
        seed: int,
        max_steps: int | None,
        max_fps: float,
        size: int,
        window: bool,
        tell: Callable[[Episode], object],
    ) -> Film:
        """Play and draw episodes; keywords as in `trivium.agents.evaluation.play.Film`. ValueError says what can't be
        drawn."""
        ...


@runtime_checkable
class Adapts(Protocol):
    """A learner whose training follows its evaluations, such as a rate that falls when they no longer improve."""

    def adapt(self, scores: Mapping[str, float]) -> None:
        """Take in what `evaluate` has just returned while the run trains, the same on every worker; what comes of it
        belongs to the state."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A learner whose model answers for one input at a time."""

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model says of inputs that are prepared as the training's were.

        Args:
            inputs: the model's inputs by name, [B, ...], on the CPU; any B >= 1.

        Returns:
            Tensors by name, [B, ...], on the CPU: what the task calls its answer, such as `classes` and `scores`.
        """
        ...


@runtime_checkable
class Features(Protocol):
    """A learner whose model has features of its inputs that its answer is a linear function of."""

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 [B, D], on the CPU; inputs as for `Predicts.predict`.

        Raises:
            ValueError: the model has no linear layer.
        """
        ...


@runtime_checkable
class Samples(Protocol):
    """A learner whose model generates."""

    def sample(self, num: int, *, generator: torch.Generator) -> Tensor:
        """New samples, [num, ...], as the training's data are.

        Args:
            generator: of all randomness, on the CPU: the same one gives the same samples.
        """
        ...


@runtime_checkable
class Decodes(Protocol):
    """A learner whose samples are a function of latents that are standard normal."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one latent."""
        ...

    def decode(self, z_NZ: Tensor, *, label_N: Tensor | None = None) -> Tensor:
        """float32 [N, Z...], latents on the CPU -> samples [N, ...] as the data are.

        Args:
            label_N: int64 [N], of a conditional model; None: the classes in turn.
        """
        ...


@runtime_checkable
class Continues(Protocol):
    """A learner whose model continues texts."""

    def continued(
        self, prompt_BT: Tensor, *, num: int, generator: torch.Generator, temperature: float, top_k: int | None
    ) -> Tensor:
        """int64 [B, T], tokens -> int64 [B, T + num] on the CPU, the prompt included.

        Args:
            generator: of the draws, on the CPU: the same one gives the same text.
            temperature: logits are divided by it, >= 0; 0 takes the most probable token.
            top_k: only the k most probable tokens may be drawn, >= 1; None: all.
        """
        ...


@runtime_checkable
class Encodes(Protocol):
    """A learner whose model writes inputs as codes."""

    def encode(self, x_BX: Tensor) -> Tensor:
        """float32 [B, X...] on the CPU, as the data are -> codes [B, ...], numbers or, of a codebook, int64 indices."""
        ...


@runtime_checkable
class Translates(Protocol):
    """A learner whose model translates images between two domains."""

    def translate(self, x_BX: Tensor, *, back: bool = False) -> Tensor:
        """float32 [B, C, H, W] in [0, 1] on the CPU -> images of the second domain, or with `back` of the first."""
        ...


@runtime_checkable
class Upscales(Protocol):
    """A learner whose model enlarges images."""

    def upscale(self, x_BX: Tensor) -> Tensor:
        """float32 [B, C, h, w] in [0, 1] on the CPU, of any size -> larger ones."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A learner whose model encodes inputs and restores them."""

    def reconstruct(self, x_BX: Tensor) -> Tensor:
        """float32 [B, X...] on the CPU -> what is restored, of the same shape, as the data are."""
        ...


@runtime_checkable
class Acts(Protocol):
    """A learner that acts in an environment."""

    def spaces(self) -> dict[str, Any]:
        """The spaces that it observes and acts in, as JSON: what `env_of` makes an env from."""
        ...

    @classmethod
    def env_of(cls, spaces: Mapping[str, Any]) -> Any:
        """What takes the place of `env` in the constructor of a trained agent, which acts and does not learn.

        Raises:
            ValueError: `spaces` is not what a learner's `spaces` returns.
        """
        ...

    def policy(self) -> Policy:
        """A new policy, which is at the beginning of an episode."""
        ...


class Policy(Protocol):
    """Acts for one env; has the memory, if the agent has one, of the episode in progress."""

    def act(self, observation: Any, *, deterministic: bool = True) -> Any:
        """An action of the action space for an observation of the observation space."""
        ...

    def reset(self) -> None:
        """A new episode begins."""
        ...


def evaluates_of(learner: object) -> Mapping[str, str | None] | tuple[str, ...] | None:
    """What a learner states of its metrics, see `Learner`; None if it does not."""
    stated: Mapping[str, str | None] | tuple[str, ...] | None = getattr(learner, "evaluates", None)
    return stated


def close(learner: object) -> None:
    """Let a learner free what it holds, if it `Closes`."""
    if isinstance(learner, Closes):
        learner.close()


def construct(factory: Callable[..., T], **offered: Any) -> T:
    """Call `factory` with those of `offered` that it takes and that its YAML has not set already.

    A model says by its signature what it wants to know of the data: `MLP(*, input_shape, num_outputs, hidden)` is
    given the first two, a network with everything in its YAML nothing.

    Raises:
        ValueError: a keyword without a default is neither offered nor set.
    """
    set_already = getattr(factory, "keywords", {})
    parameters = inspect.signature(factory).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in offered.items() if k not in set_already and (takes_all or k in parameters)}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [n for n, p in parameters.items() if p.kind in named and p.default is p.empty and n not in given]
    if missing:
        name = getattr(getattr(factory, "func", factory), "__name__", "it")
        raise ValueError(f"{name} needs a value for {', '.join(missing)}; the data offers {', '.join(offered)}")
    return factory(**given)
