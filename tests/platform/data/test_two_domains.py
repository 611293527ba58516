"""Images of two domains: halves of a data set with a known transform, and two folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trivium.data.digits import digits
from trivium.data.source import Signature, Splits, Tensors
from trivium.data.two_domains.folders import two_folders
from trivium.data.two_domains.halves import transformed, transformed_halves


def column(split: object, name: str) -> torch.Tensor:
    assert isinstance(split, Tensors)
    return split.columns[name]


def test_transforms_by_hand() -> None:
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 1
    assert torch.equal(transformed(dot, "invert"), 1 - dot)
    assert transformed(dot, "dilate")[0, 0].nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2, 3)]
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 0.5
    assert transformed(step, "edges")[0, 0, 1].tolist() == [0, 0.5, 0.5, 0]  # 4 * 0.5 / 4
    assert transformed(dot, "edges").max() <= 1
    with pytest.raises(ValueError, match="transform=blur"):
        transformed(dot, "blur")  # type: ignore[arg-type]


def test_no_training_image_is_in_both_domains_and_others_are_pairs() -> None:
    source = digits()
    data = transformed_halves(source=source, transform="invert")
    a, b = column(data.train, "x"), 1 - column(data.train, "other")
    assert len(a) == len(b) == len(source.train) // 2
    everything = column(source.train, "x")
    rows = {image.numpy().tobytes() for image in everything.unique(dim=0)}
    assert len(rows) == len(everything)  # or the next line would show nothing
    assert torch.cdist(a.flatten(1), b.flatten(1)).min() > 0.01
    for split in (data.val, data.test):
        assert torch.equal(column(split, "other"), 1 - column(split, "x"))
    assert data.signature.offers["paired"] is True
    assert not torch.equal(a, column(transformed_halves(source=source, split_seed=1).train, "x"))


def test_halves_need_images_in_memory() -> None:
    rows = Tensors(x=torch.rand(4, 3))
    with pytest.raises(ValueError, match="source: train must hold"):
        transformed_halves(source=Splits(rows, rows, rows, Signature()))


def write_images(folder: Path, number: int, brightness: int) -> None:
    folder.mkdir(parents=True)
    for i in range(number):
        Image.fromarray(np.full((10, 12), brightness + i, np.uint8)).save(folder / f"{i:02}.png")


def test_two_folders_of_different_sizes(tmp_path: Path) -> None:
    write_images(tmp_path / "dark", 20, 10)
    write_images(tmp_path / "bright" / "deeper", 10, 200)
    (tmp_path / "bright" / "again.png").write_bytes((tmp_path / "bright" / "deeper" / "00.png").read_bytes())
    data = two_folders(path=str(tmp_path / "dark"), other_path=str(tmp_path / "bright"), size=8)
    assert [len(split) for split in data[:3]] == [16, 2, 2]
    assert column(data.train, "x").shape == (16, 1, 8, 8)
    assert column(data.train, "x").max() < 0.2
    other = column(data.train, "other")
    assert other.min() > 0.7
    assert len(other.unique(dim=0)) == 8  # of ten different ones; each comes twice
    assert data.signature.offers["paired"] is False


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 3}, "size=3"),
        ({"mode": "gray"}, "mode=gray"),
        ({"other_path": "nowhere"}, "other_path=nowhere: there is no such folder"),
        ({"other_path": "."}, "other_path: there must be at least 3 different images"),
    ],
)
def test_what_two_folders_refuse(
    tmp_path: Path, keywords: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "a", 10, 10)
    write_images(tmp_path / "b", 2, 200)
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(ValueError, match=message):
        two_folders(**{"path": str(tmp_path / "a"), "other_path": str(tmp_path / "b"), "size": 8, **keywords})  # type: ignore[arg-type]
