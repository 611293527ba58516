from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from states import same_bits, through_a_file
from torch import nn

from trivium.data.digits import digits
from trivium.data.source import Signature, Splits, Tensors
from trivium.declared import load_state_dict, load_weights, state_dict, undeclared
from trivium.generative.autoencoders.vae import VAE, Network
from trivium.generative.networks.coders import MLPCoder
from trivium.learner import Learner, Run

ADAMW = functools.partial(torch.optim.AdamW, weight_decay=0.0, fused=True)


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


class Unwrapped(Run):
    """One of several workers, without the others: gradients are not averaged, sums are its own."""

    def wrap(self, module: Any) -> Any:
        return module

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value


def build(data: Splits, *, run: Run | None = None, **keywords: Any) -> VAE:
    run = run or Run()
    torch.manual_seed(run.seed)
    settings: dict[str, Any] = {
        "optimizer": ADAMW,
        "batch_size": 64,
        "lr": 2e-3,
        "latent_dim": 8,
    } | keywords
    model = settings.pop("model", functools.partial(MLPCoder, hidden=settings.pop("hidden", (64,))))
    return VAE(run=run, data=data, model=model, **settings)


def head(vae: VAE) -> nn.Linear:
    """The encoder's last layer: means, then log variances."""
    layer = vae.network.encoder[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def test_it_is_a_learner(data: Splits) -> None:
    assert isinstance(build(data), Learner)


def test_a_code_is_the_mean_plus_the_deviation_times_the_noise() -> None:
    network = Network(MLPCoder(input_shape=(1, 2, 2), latent_dim=3, encoded_dim=6, hidden=(5, 4)), latent_dim=3)
    x, noise = torch.rand(6, 1, 2, 2), torch.randn(6, 3)
    logits, mean, log_var = network(x, noise)
    assert logits.shape == x.shape
    assert mean.shape == log_var.shape == (6, 3)
    torch.testing.assert_close(logits, network.decode(mean + (log_var / 2).exp() * noise))
    torch.testing.assert_close(logits[2:3], network(x[2:3], noise[2:3])[0])  # no sample sees its neighbours


def test_extreme_variances_stay_finite(data: Splits) -> None:
    precisions: tuple[Any, ...] = ("fp32", "fp16")
    for precision in precisions:
        for bias in (-100.0, 100.0):
            vae = build(data, run=Run(precision=precision))
            with torch.no_grad():
                head(vae).bias[vae.latent_dim :] = bias
            _, log_var = vae.network.encode(data.val.batch(torch.arange(180))["x"])
            assert log_var.abs().max() == 10
            assert all(value.isfinite() for value in vae.step().values())
            assert all(np.isfinite(value) for value in vae.evaluate().values())


def test_the_loss_is_minus_the_elbo_with_the_kl_term_weighted(data: Splits) -> None:
    vae = build(data, beta=4.0, kl_warmup_samples=256)
    for weight in (1, 2, 3, 4, 4):
        logs = vae.step()
        assert logs["kl"] > 0
        assert logs["reconstruction"] > 0
        torch.testing.assert_close(logs["loss"], logs["reconstruction"] + weight * logs["kl"])


def test_the_evaluated_elbo_is_never_weighted(data: Splits) -> None:
    one, four = build(data, beta=1.0).evaluate(), build(data, beta=4.0, kl_warmup_samples=1000).evaluate()
    assert one == four
    assert one["elbo"] == pytest.approx(-one["reconstruction"] - one["kl"])


def test_the_likelihood_bound_is_above_the_elbo_and_rises_with_more_samples(data: Splits) -> None:
    vae = build(data)
    for _ in range(200):
        vae.step()
    bounds = []
    for vae.importance_samples in (1, 4, 16, 64):
        scores = vae.evaluate(final=True)
        bounds.append(scores["log_likelihood"])
    assert bounds == sorted(bounds)
    assert bounds[-1] > scores["elbo"] + 0.1
    assert bounds[0] == pytest.approx(scores["elbo"], abs=0.5)  # the same expectation, but a sampled KL term


def test_workers_with_half_of_each_batch_make_the_same_update(data: Splits) -> None:
    sgd = functools.partial(torch.optim.SGD)

    def gradient(run: Run) -> torch.Tensor:
        vae = build(data, run=run, optimizer=sgd, lr=1e-9)
        for _ in range(3):
            vae.step()
        return torch.cat([p.grad.flatten() for p in vae.network.parameters() if p.grad is not None])

    halves = [gradient(Unwrapped(rank=rank, world_size=2)) for rank in range(2)]
    whole = gradient(Run())
    assert not torch.allclose(halves[0], halves[1], atol=1e-2)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_the_number_of_workers(data: Splits) -> None:
    whole = build(data).evaluate(final=True)
    parts = [
        build(data, run=Unwrapped(rank=rank, world_size=3), batch_size=63).evaluate(final=True) for rank in range(3)
    ]
    for name in ("elbo", "reconstruction", "kl", "log_likelihood"):
        assert sum(part[name] for part in parts) == pytest.approx(whole[name], rel=1e-5)


def test_active_units_counts_the_latents_that_depend_on_the_input(data: Splits) -> None:
    vae = build(data)
    with torch.no_grad():
        head(vae).weight[3 : vae.latent_dim] = 0
        head(vae).weight[:3] *= 10
    assert vae.evaluate()["active_units"] == 3


@pytest.mark.parametrize("updates", [7, 19, 20], ids=["mid-epoch", "before the epoch's end", "across it"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_ends_with_the_same_bits(data: Splits, updates: int, precision: Any) -> None:
    def make() -> VAE:
        return build(data, run=Run(precision=precision), kl_warmup_samples=64 * 30, beta=2.0)

    uninterrupted, logs = make(), []
    for i in range(updates + 25):
        if i == updates:
            state = through_a_file(state_dict(uninterrupted))
        logs.append(uninterrupted.step())

    resumed = make()
    resumed.step()  # whatever it did before is forgotten
    load_state_dict(resumed, state)
    torch.manual_seed(12345)  # it needs no RNG but its own
    assert same_bits([resumed.step() for _ in range(25)], logs[updates:])
    assert same_bits(state_dict(resumed), state_dict(uninterrupted))
    assert resumed.evaluate(final=True) == uninterrupted.evaluate(final=True)


def test_its_state_is_declared_whole(data: Splits) -> None:
    assert undeclared(build(data)) == []


def test_weights_of_any_rank_can_be_loaded_alone(data: Splits) -> None:
    trained, fresh = build(data), build(data, batch_size=8, optimizer=torch.optim.SGD)
    for _ in range(20):
        trained.step()
    load_weights(fresh, through_a_file(state_dict(trained)))
    assert fresh.evaluate() == trained.evaluate()
    assert fresh.counters()["samples"] == 0


def test_evaluation_and_figures_touch_no_training_state_and_no_rng(data: Splits) -> None:
    vae = build(data)
    vae.step()
    before, torch_state, numpy_state = through_a_file(state_dict(vae)), torch.get_rng_state(), np.random.get_state()
    scores, pictures = (vae.evaluate(), vae.evaluate(final=True)), vae.figures()
    assert same_bits(state_dict(vae), before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))
    assert scores == (vae.evaluate(), vae.evaluate(final=True))
    again = vae.figures()
    assert pictures.keys() == {"samples", "reconstructions"}
    assert all(np.array_equal(pictures[name], again[name]) for name in pictures)


def test_figures_show_the_split_evaluated_last_above_its_reconstructions(data: Splits) -> None:
    vae = build(data)
    vae.evaluate(final=True)
    test = vae.figures()["reconstructions"]
    assert test.dtype == np.uint8
    scale, margin = 7, 6
    first = (
        data.test.batch(torch.arange(1))["x"][0, 0].mul(255).round().byte().numpy().repeat(scale, 0).repeat(scale, 1)
    )
    assert np.array_equal(test[margin : margin + 8 * scale, margin : margin + 8 * scale, 0], first)
    vae.evaluate()
    assert not np.array_equal(vae.figures()["reconstructions"], test)


def test_figures_of_a_split_smaller_than_a_row(data: Splits) -> None:
    few = Tensors(**data.val.batch(torch.arange(3)))
    vae = build(Splits(data.train, few, few, data.signature))
    assert vae.figures()["reconstructions"].shape[2] == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_learns_in_every_precision(data: Splits, precision: Any) -> None:
    vae = build(data, run=Run(precision=precision))
    untrained = vae.evaluate()
    assert untrained["elbo"] == pytest.approx(-64 * np.log(2), abs=1.5)  # a coin for each pixel
    logs = [vae.step() for _ in range(250)]
    assert all(value.shape == () and not value.requires_grad for value in logs[-1].values())
    trained = vae.evaluate()
    assert trained["elbo"] > -28
    assert trained["active_units"] >= 3
    assert trained["kl"] > 1  # the code is used


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"beta": -1.0}, r"beta=-1\.0"),
        ({"kl_warmup_samples": -1}, "kl_warmup_samples=-1"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"hidden": [0]}, r"hidden=\[0\]"),
        ({"importance_samples": 0}, "importance_samples=0"),
    ],
)
def test_wrong_values_are_named(data: Splits, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data, **keywords)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Tensors(x=torch.rand(64, 1, 8, 8) * 255), r"data: train's x must lie in \[0, 1\]; it holds .* to 2"),
        (Tensors(x=torch.rand(64, 1, 8, 8) - 1), r"data: train's x must lie in \[0, 1\]; it holds -"),
        (Tensors(x=torch.full((64, 1, 8, 8), np.nan)), "data: train's x holds NaN or infinity, first in row 0"),
        (Tensors(x=torch.zeros(64, 1, 8, 8).byte()), "data: train's x is uint8; must be float32"),
        (Tensors(x=torch.rand(0, 1, 8, 8)), "data: train has no rows"),
        (Tensors(pixels=torch.rand(64, 1, 8, 8)), "data: train has no column x; it has pixels"),
    ],
)
def test_data_that_no_likelihood_is_made_for_is_named(train: Tensors, message: str) -> None:
    signature = Signature(inputs=tuple(train.columns)[:1])
    with pytest.raises(ValueError, match=message):
        build(Splits(train, train, train, signature))


def test_a_conditional_vae_draws_and_recognises_classes(data: Splits) -> None:
    vae = build(data, conditional=True, hidden=(128,), lr=5e-3)
    for _ in range(400):
        vae.step()
    test = data.test.batch(torch.arange(len(data.test)))
    means = torch.stack([test["x"][test["y"] == label].mean(0) for label in range(10)])
    asked = torch.arange(10).repeat(20)
    drawn = vae.sample(200, generator=torch.Generator().manual_seed(0), label_N=asked)
    nearest = torch.cdist(drawn.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == asked).float().mean() > 0.8
    assert torch.equal(drawn, vae.sample(200, generator=torch.Generator().manual_seed(0)))  # the classes in turn
    found = vae.explained_by(test["x"]).argmax(1)
    assert (found == test["y"]).float().mean() > 0.85


def test_the_class_reaches_both_the_encoder_and_the_decoder() -> None:
    coder = MLPCoder(input_shape=(1, 2, 2), latent_dim=3 + 2, encoded_dim=6, hidden=(5,))
    network = Network(coder, latent_dim=3, num_classes=2, input_shape=(1, 2, 2))
    assert network.class_image is not None
    nn.init.normal_(network.class_image)
    x, z, zero, one = torch.rand(1, 1, 2, 2), torch.randn(1, 3), torch.tensor([0]), torch.tensor([1])
    assert not torch.equal(network.encode(x, zero)[0], network.encode(x, one)[0])
    assert not torch.equal(network.decode(z, zero), network.decode(z, one))


def test_a_conditional_vae_needs_classes(data: Splits) -> None:
    unlabelled = data._replace(signature=Signature(offers={"input_shape": (1, 8, 8)}))
    with pytest.raises(ValueError, match="the data has no classes"):
        build(unlabelled, conditional=True)
