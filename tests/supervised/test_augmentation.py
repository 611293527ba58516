from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from states import same_bits, through_a_file

from trivium.data.digits import digits
from trivium.data.source import Splits, Tensors
from trivium.declared import load_state_dict, state_dict
from trivium.learner import Run
from trivium.supervised.augmentation import ImageAugmentation, move, rectangle
from trivium.supervised.learner import Supervised
from trivium.supervised.models.mlp import MLP
from trivium.supervised.tasks.classification import Classification

ALL: dict[str, Any] = {
    "rotate": 10.0, "zoom": 0.1, "shift": 1.0, "flip": True, "brightness": 0.1, "contrast": 0.1, "erase": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


def moved(x: torch.Tensor, **amounts: float) -> torch.Tensor:
    amounts = {"angle": 0.0, "scale": 1.0, "right": 0.0, "down": 0.0, "mirror": 0.0} | amounts
    return move(x, *(torch.tensor([value]) for value in amounts.values()), padding="zeros")


def test_moves_by_hand() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(moved(x), x)
    close(moved(x, right=1)[..., 1:], x[..., :-1])
    close(moved(x, down=2)[..., 2:, :], x[..., :1, :])
    close(moved(x, mirror=1), x.flip(3))
    close(moved(x, mirror=1, right=1)[..., 1:], x.flip(3)[..., :-1])
    square = torch.arange(9.0).view(1, 1, 3, 3)
    close(moved(square, angle=90), square.rot90(1, (2, 3)))
    close(moved(square, angle=90, right=1)[..., 1:], square.rot90(1, (2, 3))[..., :-1])
    close(moved(x, angle=180), x.rot90(2, (2, 3)))
    dot = torch.zeros(1, 1, 5, 5)
    dot[..., 2, 3] = 1
    assert moved(dot, scale=2)[0, 0, 2].argmax() == 4  # twice as far from the centre


def test_rectangles_are_cut_off_at_the_border() -> None:
    (mask,) = rectangle(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([2.0]), (4, 6))  # type: ignore[arg-type]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1:3, 5] = True
    assert torch.equal(mask, expected)


def test_mixup_and_cutmix_weigh_both_classes() -> None:
    source = Tensors(x=torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]), y=torch.tensor([0, 1]))
    draws = {
        "partner": torch.tensor([1, 1]), "weight": torch.tensor([0.75, 0.75]),
        "cut_x": torch.tensor([0.5, 0.0]), "cut_y": torch.tensor([0.5, 0.0]),
    }  # fmt: skip
    batch = source.batch(torch.tensor([0, 0]))
    mixed = ImageAugmentation(mixup=1.0)(batch, draws, source)
    assert mixed["x"].flatten(1).mean(1).tolist() == [0.25, 0.25]
    cut = ImageAugmentation(cutmix=1.0)(batch, draws, source)
    assert cut["x"].flatten(1).mean(1).tolist() == [4 / 16, 1 / 16]  # the second is a corner of one pixel
    assert cut["mixed_weight"].tolist() == [12 / 16, 15 / 16]
    task = Classification(num_outputs=2, class_names=("a", "b"))
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    log_p = logits.log_softmax(1)[0]
    expected = -2 * (0.75 * log_p[0] + 0.25 * log_p[1])
    torch.testing.assert_close(task.loss(logits, mixed), expected)


def test_what_is_drawn_has_the_stated_ranges_and_depends_on_the_seed_only() -> None:
    augment = ImageAugmentation(**ALL, cutmix=0.5)
    drawn = augment.draw(3, 2000, 7)
    assert same_bits(drawn, augment.draw(3, 2000, 7))
    assert not same_bits(drawn, augment.draw(4, 2000, 7))
    ends = {name: [round(v, 1) for v in (values.min().item(), values.max().item())] for name, values in drawn.items()}
    assert ends == {
        "angle": [-10, 10], "scale": [0.9, 1.1], "right": [-1, 1], "down": [-1, 1], "mirror": [0, 1],
        "brightness": [-0.1, 0.1], "contrast": [0.9, 1.1], "erase_x": [0, 1], "erase_y": [0, 1], "weight": [0, 1],
        "cut_x": [0, 1], "cut_y": [0, 1], "partner": [0, 6],
    }  # fmt: skip


def build(data: Splits, *, run: Run | None = None, **keywords: Any) -> Supervised:
    run = run or Run()
    torch.manual_seed(0)
    augment = keywords.pop("augment", ImageAugmentation(**ALL, mixup=0.4))
    model = functools.partial(MLP, hidden=(16,))
    return Supervised(
        run=run, data=data, model=model, optimizer=torch.optim.SGD, lr=0.1, batch_size=32, augment=augment, **keywords
    )


def test_a_resumed_run_sees_the_same_pictures(data: Splits) -> None:
    whole = build(data)
    for _ in range(5):
        whole.step()
    resumed = build(data)
    load_state_dict(resumed, through_a_file(state_dict(whole)))
    assert same_bits([resumed.step() for _ in range(5)], [whole.step() for _ in range(5)])


def test_micro_batches_and_workers_see_the_same_pictures(data: Splits) -> None:
    class Unwrapped(Run):  # a rank without its process group
        def wrap(self, module: Any) -> Any:
            return module

    def gradient(learner: Supervised) -> torch.Tensor:
        learner.step()
        return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])

    whole = gradient(build(data))
    torch.testing.assert_close(gradient(build(data, accumulate=4)), whole, rtol=1e-4, atol=1e-6)
    halves = [gradient(build(data, run=Unwrapped(rank=rank, world_size=2))) for rank in range(2)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(gradient(build(data, augment=None)), whole, rtol=1e-2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rotate": 200.0}, r"rotate=200\.0: must be a number >= 0 and <= 180"),
        ({"shift": -1.0}, r"shift=-1\.0: must be a number >= 0"),
        ({"mixup": 1.0, "cutmix": 1.0}, "at most one"),
        ({"padding": "mirror"}, r"padding=mirror: must be one of border"),
    ],
)
def test_wrong_amounts_are_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageAugmentation(**keywords)


def test_only_images_are_augmented() -> None:
    augment, source = ImageAugmentation(shift=1.0), Tensors(x=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"needs images, float \[B, C, H, W\]; x has the shape \[4, 3\]"):
        augment({"x": torch.zeros(4, 3)}, augment.draw(0, 4, 4), source)
