"""Networks for images: torchvision's names, shapes and numbers, small images, and weights from files.

torchvision's numbers were computed once with its own models, version 0.29.1, in evaluation mode, on the weights and the
image that `numbers` and `weights_for` make.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from trivium.data.source import Signature, Splits, Tensors
from trivium.declared import load_state_dict, state_dict
from trivium.learner import Run
from trivium.supervised.learner import Supervised
from trivium.supervised.models.alexnet import AlexNet
from trivium.supervised.models.googlenet import GoogLeNet
from trivium.supervised.models.mobilenet import MobileNetV1, MobileNetV2, MobileNetV3, divisible
from trivium.supervised.models.resnet import ResNet
from trivium.supervised.models.vgg import VGG
from trivium.supervised.models.vit import SelfAttention, ViT
from trivium.supervised.tasks.classification import Classification

Make = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# ------------------------------------------------------------------------------------------------- torchvision

# The number of parameters, a hash of the names and shapes in order, the pixels of the image each way, and the outputs
# 0, 1, 500 and 999.
TORCHVISION: dict[str, tuple[Make, int, str, int, list[float]]] = {
    "alexnet": (AlexNet, 61_100_840, "23c3b8d4a3e86dc8", 64, [5.40955, -1.8739, -1.81929, -5.25797]),
    "vgg16": (VGG, 138_357_544, "8a41c838cadbc3e0", 224, [18.6294, -1.14817, 2.73242, -19.169]),
    "googlenet": (GoogLeNet, 13_004_888, "e4f1217523f861c4", 64, [7.83096, 3.51753, 4.04464, -4.61288]),
    "resnet18": (ResNet, 11_689_512, "66b04efc1dfd4b80", 64, [192.53, -61.6872, 52.0623, -61.6197]),
    "resnet34": (
        functools.partial(ResNet, depth=34), 21_797_672, "4aa3e2bbbdc5e2fd", 64, [19306.1, -4909.9, 3019.02, -6454.68],
    ),
    "resnet50": (
        functools.partial(ResNet, depth=50), 25_557_032, "614cd53ddf849669", 64, [98879.2, 11537.3, -3235.06, -19820.7],
    ),
    "mobilenet_v2": (MobileNetV2, 3_504_872, "a18c560d82f6d01d", 64, [6.29419, 4.4452, 1.13684, -1.04026]),
    "mobilenet_v3_small": (MobileNetV3, 2_542_856, "cb48f2feab283d8f", 64, [1.2262, 0.519296, 0.474191, -0.0526235]),
    "vit_b_16": (ViT, 86_567_656, "a83b288843a9372e", 224, [5.50232, 0.939209, 0.0938491, 0.608539]),
}  # fmt: skip


def numbers(n: int) -> torch.Tensor:
    """n numbers in [-1, 1] that look random and depend on no generator."""
    return (torch.arange(9973, dtype=torch.float64).square() * 0.7).sin().float().repeat(n // 9973 + 1)[:n]


def weights_for(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    weights = {}
    for name, shape in shapes.items():
        x = numbers(shape.numel()).view(shape)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            weights[name] = 1 + x / 2
        elif len(shape) == 1 or "token" in name or "pos" in name:
            weights[name] = x / 10
        else:
            weights[name] = x * (4 / shape[1:].numel()) ** 0.5
    return weights


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_shapes_and_numbers_are_torchvisions(name: str) -> None:
    make, parameters, names, pixels, expected = TORCHVISION[name]
    with torch.device("meta"):  # nothing is drawn that is thrown away
        model = make(input_shape=(3, 224, 224), num_outputs=1000)
    assert sum(p.numel() for p in model.parameters()) == parameters
    shapes = shapes_of(model)
    listed = "\n".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == names, listed
    model.load_state_dict(weights_for(shapes), assign=True)
    with torch.no_grad():
        y = model.eval()(numbers(3 * pixels**2).view(1, 3, pixels, pixels))
    assert y.shape == (1, 1000)
    torch.testing.assert_close(y[0, [0, 1, 500, 999]], torch.tensor(expected), rtol=2e-4, atol=2e-4)


def test_the_heads_of_googlenet_are_torchvisions_too() -> None:
    with torch.device("meta"):
        model = GoogLeNet(input_shape=(3, 224, 224), num_outputs=1000, dropout=0.0, aux_dropout=0.0)
    model.load_state_dict(weights_for(shapes_of(model)), assign=True)
    x = numbers(3 * 64**2).view(1, 3, 64, 64)
    with torch.no_grad():
        outputs = model(torch.cat([x, -x]))
    expected = [[2.20118, -0.627386], [2.22851, -0.0971787], [0.950583, -1.65328]]
    torch.testing.assert_close(torch.stack(outputs)[:, 0, [0, 999]], torch.tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (functools.partial(VGG, depth=11), 132_863_336),
        (functools.partial(VGG, depth=13), 133_047_848),
        (functools.partial(VGG, depth=19), 143_667_240),
        (functools.partial(VGG, batch_norm=True), 138_365_992),
        (functools.partial(ResNet, depth=101), 44_549_160),
        (functools.partial(MobileNetV3, variant="large"), 5_483_032),
        (MobileNetV1, 4_231_976),
    ],
)
def test_the_other_sizes_are_the_published_ones(make: Make, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in make(input_shape=(3, 224, 224), num_outputs=1000).parameters()) == parameters


def test_norms_have_torchvisions_settings() -> None:
    with torch.device("meta"):
        nets = [make(input_shape=(3, 64, 64), num_outputs=2) for make in (MobileNetV2, MobileNetV3, GoogLeNet)]
    settings = [{(m.eps, m.momentum) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} for net in nets]
    assert settings == [{(1e-5, 0.1)}, {(1e-3, 0.01)}, {(1e-3, 0.1)}]
    vit = thin("vit")
    assert {m.eps for m in vit.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_the_nearest_multiple_of_eight() -> None:
    assert [divisible(maps) for maps in (3, 8, 12, 19, 20, 24, 100)] == [8, 8, 16, 24, 24, 24, 104]


def test_attention_is_that_of_torch() -> None:
    ours, torchs = SelfAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), torchs(x, x, x, need_weights=False)[0], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- small images

SMALL_VIT = {"num_layers": 4, "width": 64, "num_heads": 4, "mlp_ratio": 2, "pool": "mean"}
THIN: dict[str, tuple[Make, int | None]] = {  # and, where it was counted by hand, the number of parameters for MNIST
    "alexnet": (
        functools.partial(
            AlexNet, stem="small", channels=(16, 32, 48, 48, 32), hidden=(256, 128), dropout=0.3, batch_norm=True
        ),
        227_450,
    ),
    "vgg": (functools.partial(VGG, depth=6, width=8, batch_norm=True, hidden=(128,), dropout=0.0), 53_594),
    "googlenet": (functools.partial(GoogLeNet, stem="small", width=16, num_blocks=(2, 2), aux=False), None),
    "googlenet with heads": (functools.partial(GoogLeNet, stem="small", width=8, num_blocks=(1, 5)), None),
    "resnet": (functools.partial(ResNet, depth=8, width=16, stem="small"), 77_754),
    "resnet for cifar": (functools.partial(ResNet, depth=14, width=8, stem="cifar"), None),
    "mobilenet_v1": (functools.partial(MobileNetV1, channels=(16, 32, 48, 48, 96, 96)), 22_602),
    "mobilenet_v2": (functools.partial(MobileNetV2, stem="small", width_multiplier=0.25), None),
    "mobilenet_v3": (functools.partial(MobileNetV3, stem="small", width_multiplier=0.25), None),
    "vit": (functools.partial(ViT, patch_size=7, **SMALL_VIT), 138_890),
    "vit with convolutions": (functools.partial(ViT, patch_size=8, stem="conv", **SMALL_VIT), 159_034),
}


def thin(name: str, shape: tuple[int, ...] = (1, 28, 28), **keywords: Any) -> nn.Module:
    return THIN[name][0](input_shape=shape, num_outputs=10, **keywords)


@pytest.mark.parametrize("name", THIN)
def test_small_images(name: str) -> None:
    assert THIN[name][1] in (None, sum(p.numel() for p in thin(name).parameters()))
    for shape in ((1, 28, 28), (3, 64, 32)):
        if name == "vit" and shape[1] % 7:
            continue
        assert thin(name, shape).eval()(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("make", [VGG, functools.partial(VGG, depth=6)])
@pytest.mark.parametrize("pixels", [8, 28, 64])
def test_vgg_leaves_out_pooling_that_would_leave_nothing(make: Make, pixels: int) -> None:
    net = make(input_shape=(1, pixels, pixels), num_outputs=3, width=4, hidden=(5,))
    assert net(torch.zeros(2, 1, pixels, pixels)).shape == (2, 3)


def test_googlenet_returns_its_heads_in_training_only() -> None:
    net = thin("googlenet with heads")
    x = torch.randn(4, 1, 28, 28)
    assert [y.shape for y in net(x)] == [(4, 10)] * 3
    assert net.eval()(x).shape == (4, 10)
    assert "aux1.fc2.weight" in net.state_dict()
    assert "aux1.fc2.weight" not in thin("googlenet").state_dict()
    short = GoogLeNet(input_shape=(1, 28, 28), num_outputs=10, width=8, num_blocks=(2, 1), stem="small")
    assert short(x).shape == (4, 10), "the last block needs no head beside the main one"


@pytest.mark.parametrize("name", THIN)
def test_a_batch_is_learnt_by_heart(name: str) -> None:
    model = thin(name).train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    task = Classification(num_outputs=10, class_names=[str(i) for i in range(10)])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = task.loss(model(x), {"y": y}) / 8
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 1.5 < losses[0], losses


# ------------------------------------------------------------------------------------------------- in the learner


def splits(rows: int = 24) -> Splits:
    source = Tensors(x=torch.randn(rows, 1, 28, 28), y=torch.arange(rows) % 10)
    offers = {"input_shape": (1, 28, 28), "num_outputs": 10, "class_names": [str(i) for i in range(10)]}
    return Splits(source, source, source, Signature("classification", offers=offers))


def build(data: Splits, name: str, *, run: Run | None = None, **keywords: Any) -> Supervised:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"batch_size": 8, "lr": 3e-3, "ema": 0.9} | keywords
    adamw = functools.partial(torch.optim.AdamW, fused=True)
    return Supervised(run=run or Run(), data=data, model=THIN[name][0], optimizer=adamw, **settings)


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", THIN)
def test_a_resumed_run_ends_with_the_same_bits(name: str, channels_last: bool) -> None:
    data = splits()
    whole = build(data, name, channels_last=channels_last)
    whole.step()
    buffer = io.BytesIO()
    torch.save(state_dict(whole), buffer)
    random_state = torch.get_rng_state()
    logs = [whole.step() for _ in range(2)]
    resumed = build(data, name, channels_last=channels_last)
    buffer.seek(0)
    load_state_dict(resumed, torch.load(buffer, weights_only=True))
    torch.set_rng_state(random_state)
    assert same_bits([resumed.step() for _ in range(2)], logs)
    assert same_bits(state_dict(resumed), state_dict(whole))
    assert resumed.evaluate() == whole.evaluate()


def test_channels_last_changes_the_memory_and_not_the_numbers() -> None:
    data = splits()
    plain, last = build(data, "resnet", lr=1e-4), build(data, "resnet", lr=1e-4, channels_last=True)
    kernel = last.model.get_parameter("layer2.0.conv1.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()
    seen = []
    last.model.get_submodule("conv1").register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    losses = torch.stack([torch.stack([each.step()["loss"] for _ in range(3)]) for each in (plain, last)])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    for x, y in seen:
        assert x.stride() == (784, 1, 28, 1), "one channel: torch reads the layout off the strides"
        assert y.is_contiguous(memory_format=torch.channels_last)
    state = last.optimizer.state[kernel]["exp_avg"]
    assert state.stride() == kernel.stride(), "the fused kernel goes through both as they lie in memory"
    assert plain.evaluate()["loss"] == pytest.approx(last.evaluate()["loss"], rel=1e-3)


@pytest.mark.parametrize("name", THIN)
def test_bf16(name: str) -> None:
    learner = build(splits(), name, run=Run(precision="bf16"), channels_last=True)
    assert learner.step()["loss"].isfinite()
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}
    assert 0 <= learner.evaluate()["accuracy"] <= 1


def test_auxiliary_losses_count_by_their_weight() -> None:
    task = Classification(num_outputs=3, class_names=("a", "b", "c"), aux_weight=0.5, label_smoothing=0.1)
    logits, batch = torch.randn(3, 4, 3), {"y": torch.tensor([0, 2, 1, 1])}
    main, first, second = (F.cross_entropy(x, batch["y"], label_smoothing=0.1) * 4 for x in logits)
    torch.testing.assert_close(task.loss(tuple(logits), batch), main + 0.5 * (first + second))
    torch.testing.assert_close(task.loss((logits[0],), batch), main)
    with pytest.raises(ValueError, match=r"aux_weight=-1: must be a number >= 0"):
        Classification(num_outputs=3, class_names=("a", "b", "c"), aux_weight=-1)


# ------------------------------------------------------------------------------------------------- weights of files


def saved(model: nn.Module, path: Path, **changed: torch.Tensor | None) -> str:
    changes = {name.replace("__", "."): value for name, value in changed.items()}
    state = {name: value for name, value in {**model.state_dict(), **changes}.items() if value is not None}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth", "nested.pth", "old.pth"])
@pytest.mark.parametrize("name", ["resnet", "googlenet with heads", "vit with convolutions"])
def test_weights_are_loaded(name: str, file: str, tmp_path: Path) -> None:
    trained = thin(name)
    for value in trained.state_dict().values():
        value += 1
    path = tmp_path / file
    if file == "nested.pth":
        torch.save({"epoch": 3, "state_dict": trained.state_dict()}, path)
    elif file == "old.pth":  # of 2018 and before: another container, and no counters
        counted = {n: v for n, v in trained.state_dict().items() if not n.endswith("num_batches_tracked")}
        torch.save(counted, path, _use_new_zipfile_serialization=False)
    else:
        saved(trained, path)
    loaded = thin(name, weights=str(path)).state_dict()
    for key, value in trained.state_dict().items():
        if not (file == "old.pth" and key.endswith("num_batches_tracked")):
            assert torch.equal(loaded[key], value), key


def test_a_head_of_another_size_is_left_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = functools.partial(THIN["googlenet with heads"][0], input_shape=(1, 28, 28))
    trained = make(num_outputs=7)
    path = saved(trained, tmp_path / "w.safetensors")
    torch.manual_seed(5)
    fresh = make(num_outputs=3)
    torch.manual_seed(5)
    loaded = make(num_outputs=3, weights=path)
    assert torch.equal(loaded.conv1.conv.weight, trained.conv1.conv.weight)
    for head in ("fc", "aux1.fc2", "aux2.fc2"):
        assert torch.equal(loaded.get_submodule(head).weight, fresh.get_submodule(head).weight)
    (said,) = caplog.messages
    assert "7 outputs there and 3 here" in said
    assert "aux2.fc2.bias" in said


def test_a_network_without_heads_takes_the_weights_of_one_with_them(tmp_path: Path) -> None:
    heads = THIN["googlenet with heads"][0]
    trained = heads(input_shape=(1, 28, 28), num_outputs=10)
    path = saved(trained, tmp_path / "w.safetensors")
    assert torch.equal(thin("googlenet with heads", aux=False, weights=path).fc.weight, trained.fc.weight)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conv1__weight": None}, r"w\.pth do not fit ResNet: it lacks conv1\.weight$"),
        ({"conv9__weight": torch.ones(1)}, r"do not fit ResNet: it has besides conv9\.weight$"),
        (
            {"conv1__weight": torch.ones(16, 3, 7, 7)},
            r"another shape conv1\.weight \[16, 3, 7, 7\], not \[16, 1, 3, 3\]",
        ),
        ({"fc__weight": torch.ones(10, 5)}, r"of another shape fc\.weight \[10, 5\], not \[10, 64\]$"),
        ({"bn1__running_mean": None, "a": torch.ones(1)}, r"it lacks bn1\.running_mean; it has besides a$"),
    ],
)
def test_weights_that_do_not_fit(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(thin("resnet"), tmp_path / "w.pth", **changed)
    with pytest.raises(ValueError, match=message):
        thin("resnet", weights=path)


def test_of_many_names_some_are_shown(tmp_path: Path) -> None:
    path = saved(thin("vgg"), tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"it lacks conv1\.weight, .* and \d+ more; it has besides features\.0\.weight"
    ):
        thin("resnet", weights=path)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "can't be read"),
        (b"no weights at all", "can't be read"),
        (pickle.dumps(Evil()), "can't be read"),
        ({"weights": Evil()}, "can't be read"),
        ([1, 2], "it holds no state dict"),
        ({"epoch": 3}, "it holds no state dict"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_is_none(
    content: Any, message: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"w.{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
        message = "can't be read" if suffix == "safetensors" else message
    with pytest.raises(ValueError, match=re.escape(f"weights={path}") + ".*" + message) as error:
        thin("resnet", weights=str(path))
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value), "no advice to run what it holds"
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("make", "keywords", "message"),
    [
        (ResNet, {"depth": 19}, "depth=19: must be one of 8, 14, 20, 18, 34, 50, 101"),
        (ResNet, {"stem": "tiny"}, "stem=tiny: must be one of imagenet, small, cifar"),
        (ResNet, {"input_shape": (64,)}, r"ResNet needs images \[C, H, W\]; the data has \[64\]"),
        (VGG, {"depth": 8}, "depth=8: must be one of 6, 11, 13, 16, 19"),
        (AlexNet, {}, "stem=imagenet needs 63 pixels each way; the data has 28 x 28"),
        (AlexNet, {"stem": "tiny"}, "stem=tiny: must be one of imagenet, small"),
        (AlexNet, {"stem": "small", "channels": (1, 2)}, r"channels=\[1, 2\] must be the maps of five convolutions"),
        (GoogLeNet, {"num_blocks": (2, 6)}, r"num_blocks=\[2, 6\] must be .* to \[2, 5, 2\]"),
        (GoogLeNet, {"num_blocks": ()}, r"num_blocks=\[\] must be"),
        (GoogLeNet, {"stem": "tiny"}, "stem=tiny"),
        (MobileNetV1, {"channels": (8,)}, r"channels=\[8\] must be"),
        (MobileNetV2, {"width_multiplier": 0.0}, r"width_multiplier=0\.0: must be a number > 0"),
        (MobileNetV2, {"stem": "tiny"}, "stem=tiny"),
        (MobileNetV3, {"variant": "medium"}, "variant=medium: must be one of small, large"),
        (ViT, {}, "patch_size=16 must divide the data's 28 x 28 pixels"),
        (ViT, {"pool": "max"}, "pool=max: must be one of class, mean"),
        (ViT, {"num_heads": 7}, "width=768 must be a multiple of num_heads=7"),
        (ViT, {"stem": "conv", "patch_size": 7}, "patch_size=7 must be a power of 2 for stem=conv"),
    ],
)
def test_wrong_values_are_named(make: Make, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"input_shape": (1, 28, 28), "num_outputs": 10, **keywords})
