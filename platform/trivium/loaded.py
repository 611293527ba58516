"""A trained model in use: `trivium.load(RUN)` gives it without its training data and without envs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trivium import borrowed
from trivium.boundary.untrusted import Refused
from trivium.config import constructors
from trivium.config.errors import ConfigError
from trivium.config.rules.source import Unusable
from trivium.data.inputs.prepared import prepared
from trivium.data.source import Signature
from trivium.data.texts.vocabulary import decoded, encoded
from trivium.latents.paths import along, between
from trivium.learner import (
    Acts,
    Continues,
    Decodes,
    Encodes,
    Learner,
    Policy,
    Predicts,
    Reconstructs,
    Samples,
    Translates,
    Upscales,
)
from trivium.run_folder import signature
from trivium.run_folder.place import Opened, open_run
from trivium.trained import load_learner

CHUNK = 1024  # inputs that a model is given at once


class Trained:
    """A trained model. What it can do is what its learner can (`trivium.learner`: `Predicts`, `Samples`, `Acts`, ...);
    anything else raises a `TypeError` that names what it can.

    Attributes:
        learner: with the weights of the checkpoint. Its data or envs are stand-ins, so that it can't go on learning.
        checkpoint: its name.
        signature: what the data were; None for an agent.
    """

    def __init__(self, learner: Learner, checkpoint: str, about: Signature | None) -> None:
        self.learner, self.checkpoint, self.signature = learner, checkpoint, about
        self._policy: Policy | None = None

    @property
    def abilities(self) -> tuple[str, ...]:
        """The names of the methods below that this model has."""
        of = {
            "predict": Predicts,
            "sample": Samples,
            "interpolate": Decodes,
            "reconstruct": Reconstructs,
            "encode": Encodes,
            "translate": Translates,
            "upscale": Upscales,
            "act": Acts,
        }
        can = [name for name, protocol in of.items() if isinstance(self.learner, protocol)]
        texts = self.signature is not None and self.signature.task == "language_modelling"
        return (*can, "continue_text") if texts and isinstance(self.learner, Continues) else tuple(can)

    def _cannot(self, what: str) -> TypeError:
        name, can = type(self.learner).__name__, ", ".join(self.abilities) or "nothing of the kind"
        return TypeError(f"a {name} can't {what}; it can {can}")

    def predict(self, x: Any) -> dict[str, np.ndarray]:
        """What the model says of raw inputs, which are prepared as the training's were.

        Args:
            x: an array or tensor [n, ...], or a tuple of them where the model has several inputs; for a table a pandas
                frame. Any number of rows: they are computed in parts.

        Returns:
            Arrays [n, ...] by name, as the task says: for classification `classes` (int64 [n]) and `scores` (float32
            [n, K], probabilities), for regression `values` (float32 [n, K], in the targets' units).

        Raises:
            TypeError: the model does not predict.
            ValueError: the inputs do not have the shape of the training's.
        """
        if not isinstance(self.learner, Predicts) or self.signature is None:
            raise self._cannot("predict")
        inputs = prepared(x, self.signature)
        number = len(next(iter(inputs.values())))
        parts = []
        with borrowed.generators_kept(torch.device("cpu")):
            for i in range(0, max(number, 1), CHUNK):
                parts.append(self.learner.predict({name: column[i : i + CHUNK] for name, column in inputs.items()}))
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

    def sample(self, num: int, *, seed: int = 0, label: int | None = None, **how: float) -> np.ndarray:
        """`num` new samples as the data are (pictures: float32 [num, C, H, W] in [0, 1]); the same for the same seed.

        Args:
            num: how many, at least 1.
            seed: of everything that is drawn.
            label: the class of all samples, of a conditional model; None: the classes in turn.
            how: further keywords of the learner's `sample`, such as `steps` and `guidance` of a diffusion model.

        Raises:
            TypeError: the model does not generate.
            ValueError: it does not accept one of the keywords, or has no such class.
        """
        if not isinstance(self.learner, Samples):
            raise self._cannot("sample")
        self._require_keywords(self.learner.sample, how)
        given: dict[str, Any] = dict(how)
        if label is not None:
            given["label_N"] = self._classes(num, label)
        return self.learner.sample(num, generator=torch.Generator().manual_seed(seed), **given).cpu().numpy()

    def interpolate(
        self, num: int, *, steps: int = 8, seed: int = 0, label: int | None = None, **how: float
    ) -> np.ndarray:
        """Samples on `num` ways from one latent to another, [num, steps, ...], ends included; see `latents.paths`.

        Args:
            num: ways.
            steps: samples on each, at least 2.
            seed, label, how: see `sample`; of a conditional model all samples of a way are of one class.

        Raises:
            TypeError: the model has no latents of this kind.
            ValueError: see `sample`.
        """
        if not isinstance(self.learner, Decodes):
            raise self._cannot("interpolate")
        generator = torch.Generator().manual_seed(seed)
        begin_NZ, end_NZ = (torch.randn(num, *self.learner.latent_shape, generator=generator) for _ in range(2))
        return self._decoded(between(begin_NZ, end_NZ, steps), label, how)

    def traverse(
        self, num: int, *, steps: int = 8, label: int | None = None, **how: float
    ) -> tuple[np.ndarray, list[int]]:
        """Samples along `num` latent dimensions, from -3 to 3 standard deviations, all others 0: [num, steps, ...], and
        which dimensions these are: those that change the sample most, the first one most of all.

        Raises:
            TypeError: the model has no latents that are vectors.
            ValueError: see `sample`.
        """
        if not isinstance(self.learner, Decodes) or len(self.learner.latent_shape) != 1:
            raise self._cannot("traverse")
        if label is None and getattr(self.learner, "num_classes", None):
            label = 0
        sample_DT = self._decoded(along(self.learner.latent_shape[0], steps), label, how)
        change_D = sample_DT.std(1).reshape(len(sample_DT), -1).mean(1)
        chosen = np.argsort(-change_D, kind="stable")[:num]
        return sample_DT[chosen], chosen.tolist()

    def _decoded(self, z_NTZ: Tensor, label: int | None, how: Mapping[str, float]) -> np.ndarray:
        """Samples [N, T, ...] of latents [N, T, Z...]; without a class each of the N is of another one."""
        assert isinstance(self.learner, Decodes)
        self._require_keywords(self.learner.decode, how)
        given: dict[str, Any] = dict(how)
        num, steps = z_NTZ.shape[:2]
        classes = int(getattr(self.learner, "num_classes", 0))
        if label is not None:
            given["label_N"] = self._classes(num * steps, label)
        elif classes:
            given["label_N"] = (torch.arange(num) % classes).repeat_interleave(steps)
        sample_NTX: np.ndarray = (
            self.learner.decode(z_NTZ.flatten(0, 1), **given).unflatten(0, (num, steps)).cpu().numpy()
        )
        return sample_NTX

    def _require_keywords(self, method: Callable[..., Any], how: Mapping[str, float]) -> None:
        accepted = list(inspect.signature(method).parameters)
        for name in how:
            if name not in accepted:
                valid = ", ".join(each for each in accepted[1:] if each not in ("generator", "label_N"))
                kind = type(self.learner).__name__
                raise ValueError(f"{name}: samples of a {kind} accept no such keyword; valid: {valid or 'none'}")

    def _classes(self, num: int, label: int) -> Tensor:
        """One class, int64 [num].

        Raises:
            ValueError: the model has no such class.
        """
        classes = int(getattr(self.learner, "num_classes", 0))
        if not 0 <= label < classes:
            what = f"must be in [0, {classes})" if classes else "the model was trained without classes"
            raise ValueError(f"label={label}: {what}")
        return torch.full((num,), label, dtype=torch.int64)

    def continue_text(
        self, prompt: str = "", *, length: int = 200, seed: int = 0, temperature: float = 1.0, top_k: int | None = None
    ) -> str:
        """A text that begins with a prompt.

        Args:
            prompt: what it begins with; an empty one begins with a line break, or the vocabulary's first token.
            length: tokens to add, at least 1.
            seed: of the draws: the same one gives the same text.
            temperature: 0 takes the most probable token each time, above 1 is more varied than the training's texts.
            top_k: only the k most probable tokens may be drawn; None: all.

        Raises:
            TypeError: the model does not continue texts.
            ValueError: the prompt has a character that the training's texts do not have, or a number is out of range.
        """
        if "continue_text" not in self.abilities:
            raise self._cannot("continue texts")
        assert isinstance(self.learner, Continues)
        assert self.signature is not None
        preparation = self.signature.preparation
        try:
            begin = encoded(prompt or "\n", preparation)
        except ValueError:
            if prompt:
                raise
            begin = [0]
        generator = torch.Generator().manual_seed(seed)
        tokens = self.learner.continued(
            torch.tensor([begin]), num=length, generator=generator, temperature=temperature, top_k=top_k
        )
        written = tokens[0] if prompt else tokens[0, len(begin) :]
        return decoded(map(int, written), preparation)

    def reconstruct(self, x: Any) -> np.ndarray:
        """What an autoencoder makes of inputs [n, ...] and gives back, of the same shape; inputs as for `predict`.

        Raises:
            TypeError: the model does not encode.
            ValueError: see `predict`.
        """
        if not isinstance(self.learner, Reconstructs) or self.signature is None:
            raise self._cannot("reconstruct")
        inputs: Tensor = next(iter(prepared(x, self.signature).values()))
        return torch.cat([self.learner.reconstruct(part).cpu() for part in inputs.split(CHUNK)]).numpy()

    def anomaly(self, x: Any) -> np.ndarray:
        """How unlike the training's inputs [n, ...] are: the mean squared error of what an autoencoder makes of each,
        float32 [n], in the units of the data.

        Raises:
            TypeError, ValueError: see `reconstruct`.
        """
        again = self.reconstruct(x)
        inputs = next(iter(prepared(x, self.signature).values())).numpy()  # type: ignore[arg-type]
        error: np.ndarray = ((again - inputs) ** 2).reshape(len(again), -1).mean(1)
        return error

    def encode(self, x: Any) -> np.ndarray:
        """The codes of inputs [n, ...], which are prepared as the training's were: [n, ...].

        Raises:
            TypeError: the model does not encode.
            ValueError: see `predict`.
        """
        if not isinstance(self.learner, Encodes) or self.signature is None:
            raise self._cannot("encode")
        inputs: Tensor = next(iter(prepared(x, self.signature).values()))
        return torch.cat([self.learner.encode(part).cpu() for part in inputs.split(CHUNK)]).numpy()

    def translate(self, x: Any, *, back: bool = False) -> np.ndarray:
        """Images of the other domain: float32 [n, C, H, W] in [0, 1].

        Args:
            x: images of the first domain, or with `back` of the second.

        Raises:
            TypeError: the model does not translate.
            ValueError: see `predict`.
        """
        if not isinstance(self.learner, Translates) or self.signature is None:
            raise self._cannot("translate")
        about = self.signature
        if back and "other_shape" in about.offers:
            offers = {**about.offers, "input_shape": about.offers["other_shape"]}
            about = dataclasses.replace(about, offers=offers)
        inputs: Tensor = next(iter(prepared(x, about).values()))
        parts = [self.learner.translate(part, back=back).cpu() for part in inputs.split(CHUNK)]
        return torch.cat(parts).numpy()

    def upscale(self, x: Any) -> np.ndarray:
        """Images [n, C, h, w] of any size, in [0, 1] or bytes, enlarged: float32 [n, C, scale h, scale w].

        Raises:
            TypeError: the model does not enlarge images.
            ValueError: the images have another number of channels than the training's.
        """
        if not isinstance(self.learner, Upscales) or self.signature is None:
            raise self._cannot("upscale")
        channels = self.signature.offers["input_shape"][0]
        shape = list(np.shape(x))
        if len(shape) != 4 or shape[1] != channels:
            raise ValueError(f"x must be images [n, {channels}, height, width]; is {shape}")
        offers = {**self.signature.offers, "input_shape": tuple(shape[1:])}
        inputs = next(iter(prepared(x, dataclasses.replace(self.signature, offers=offers)).values()))
        return self.learner.upscale(inputs).cpu().numpy()

    def act(self, observation: Any, *, deterministic: bool = True) -> Any:
        """The action for one observation, as the env gives and takes them. The memory, if there is one, goes on until
        `reset`.

        Raises:
            TypeError: the model does not act.
        """
        if self._policy is None:
            self.reset()
        assert self._policy is not None
        return self._policy.act(observation, deterministic=deterministic)

    def reset(self) -> None:
        """Call it when an episode begins: the memory of the one before is forgotten."""
        if self._policy is None:
            if not isinstance(self.learner, Acts):
                raise self._cannot("act")
            self._policy = self.learner.policy()
        self._policy.reset()


def load(place: Path | str | Opened, *, checkpoint: str = "best", trusted: Collection[str] = ()) -> Trained:
    """See `trivium.load`."""
    run = open_run(place)
    try:
        described = signature.read(run.dir)
    except FileNotFoundError:
        raise ConfigError([f"{run.dir} has no {signature.NAME}, without which it can't be loaded"]) from None
    except (Refused, OSError) as error:
        raise ConfigError([f"{run.dir}: {error}"]) from error
    given: dict[str, Any] = {}
    about = None
    if "data" in described:
        given["data"] = signature.absent_data(described["data"])
        about = given["data"].signature
    if "spaces" in described:
        try:
            kind = constructors.resolve(run.config["agent"]["_target_"], trusted)
            given["env"] = kind.env_of(described["spaces"])  # type: ignore[attr-defined]
        except (Unusable, ValueError) as error:
            raise ConfigError([f"{run.dir}: {signature.NAME}: {error}"]) from error
    agent = run.config.get("agent") or {}
    keywords = {"env_runners": 0} if "spaces" in described and "env_runners" in agent else {}
    learner, name = load_learner(run, checkpoint, trusted, keywords, given)
    return Trained(learner, name, about)
