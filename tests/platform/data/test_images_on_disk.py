"""Images that are read from a file: the same pixels, splits and training as from memory, read ahead in a thread."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trivium.data.batches import Batches
from trivium.data.image_folder import image_folder
from trivium.data.images_on_disk import ImagesOnDisk
from trivium.data.source import ReadsAhead, Source
from trivium.learner import Run
from trivium.supervised.learner import Supervised
from trivium.supervised.models.mlp import MLP


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(20):
            Image.fromarray(random.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(folder / name / f"{i:02}.png")
    return folder


def rows(source: Source) -> dict[str, torch.Tensor]:
    return source.batch(torch.arange(len(source)))


@pytest.mark.parametrize("normalize", [False, True])
def test_they_are_those_in_memory(pictures: Path, tmp_path: Path, normalize: bool) -> None:
    keywords: Any = {"path": str(pictures), "size": 6, "normalize": normalize}
    memory, disk = image_folder(**keywords), image_folder(**keywords, cache=str(tmp_path / "cache"))
    assert disk.signature.offers == memory.signature.offers
    for name in ("train", "val", "test"):
        ours, theirs = rows(getattr(disk, name)), rows(getattr(memory, name))
        assert torch.equal(ours["y"], theirs["y"])
        assert torch.allclose(ours["x"], theirs["x"], atol=(4 if normalize else 1) / 255)
    if normalize:
        found = [disk.signature.preparation[name] for name in ("mean", "std")]
        expected = [memory.signature.preparation[name] for name in ("mean", "std")]
        assert np.allclose(found, expected, atol=2e-3)


def test_the_file_is_made_once_and_again_when_an_image_changes(pictures: Path, tmp_path: Path) -> None:
    keywords: Any = {"path": str(pictures), "size": 6, "cache": str(tmp_path)}
    image_folder(**keywords)
    (file,) = tmp_path.glob("*.u8")
    assert file.stat().st_size == 40 * 3 * 6 * 6
    assert len(list(tmp_path.iterdir())) == 2
    before = file.stat().st_mtime_ns
    image_folder(**keywords)
    assert file.stat().st_mtime_ns == before
    image_folder(**{**keywords, "size": 5})
    assert len(list(tmp_path.glob("*.u8"))) == 2
    file.write_bytes(b"short")
    with pytest.raises(ValueError, match="is damaged; delete it"):
        image_folder(**keywords)


def test_an_image_in_two_splits_stays_in_the_test_split(pictures: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(0 if split == "train" else 15, 20):
                content = (pictures / name / f"{i:02}.png").read_bytes()
                (tmp_path / "data" / split / name / f"{i}.png").write_bytes(content)
    data = image_folder(path=str(tmp_path / "data"), size=6, cache=str(tmp_path / "cache"))
    assert [len(source) for source in data[:3]] == [27, 3, 10]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"size": None}, r"cache=.* needs size"), ({"cache": "/proc/nowhere"}, "cache=/proc/nowhere: ")],
)
def test_mistakes(pictures: Path, tmp_path: Path, keywords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_folder(**{"path": str(pictures), "size": 6, "cache": str(tmp_path), **keywords})


def test_a_broken_image_is_named_and_nothing_is_left(tmp_path: Path, pictures: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.png \(not an image\)"):
        image_folder(path=str(tmp_path / "data"), size=6, cache=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_read_ahead_is_what_is_asked_for(pictures: Path, tmp_path: Path) -> None:
    train = image_folder(path=str(pictures), size=6, cache=str(tmp_path)).train
    assert isinstance(train, ImagesOnDisk)
    assert isinstance(train, ReadsAhead)
    index, other = torch.tensor([3, 1, 2]), torch.tensor([5])
    expected = train.batch(index)["x"]
    train.prefetch([index, other])
    assert len(train._ahead) == 2
    assert torch.equal(train.batch(index)["x"], expected)
    assert len(train._ahead) == 1
    train.prefetch([index])
    assert list(train._ahead) == [index.numpy().tobytes()]


def test_peeking_changes_nothing() -> None:
    first, second = Batches(10, 4, run=Run()), Batches(10, 4, run=Run())
    for _ in range(12):
        peeked = first.peek().clone()
        assert torch.equal(peeked, second.next())
        assert torch.equal(first.next(), peeked)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_from_the_file_ends_with_the_same_weights(pictures: Path, tmp_path: Path, accumulate: int) -> None:
    """Of the same bytes: those of the file, held in memory."""
    from trivium.data.source import Splits, Tensors

    disk = image_folder(path=str(pictures), size=6, cache=str(tmp_path))
    memory = Splits(*(Tensors(**rows(source)) for source in disk[:3]), disk.signature)
    ends = []
    for data in (disk, memory):
        torch.manual_seed(0)
        learner = Supervised(
            run=Run(), data=data, model=functools.partial(MLP, hidden=(8,)), optimizer=torch.optim.SGD, lr=0.1,
            batch_size=8, accumulate=accumulate,
        )  # fmt: skip
        for _ in range(12):
            learner.step()
        learner.evaluate()
        ends.append([parameter.detach() for parameter in learner.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
