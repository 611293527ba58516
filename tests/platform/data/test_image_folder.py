from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trivium.data.image_folder import image_folder
from trivium.data.source import Source


def rows(source: Source) -> dict[str, torch.Tensor]:
    return source.batch(torch.arange(len(source)))


def picture(path: Path, *, seed: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def filled(folder: Path, count: int = 10, mode: str = "RGB") -> Path:
    for i in range(count):
        picture(folder / "cat" / f"{i}.png", seed=i, mode=mode)
        picture(folder / "dog" / f"{i}.png", seed=100 + i, mode=mode)
    return folder


def test_images_are_split_by_class_and_keep_their_pixels(tmp_path: Path) -> None:
    data = image_folder(path=str(filled(tmp_path)))
    assert [len(source) for source in data[:3]] == [14, 2, 4]
    assert data.signature.offers == {
        "input_shape": (3, 6, 6),
        "num_outputs": 2,
        "class_names": ("cat", "dog"),
        "class_counts": (7, 7),
    }
    assert [rows(source)["y"].float().mean() for source in data[:3]] == [0.5] * 3
    first = np.asarray(Image.open(tmp_path / "cat" / "0.png"), np.float32).transpose(2, 0, 1) / 255
    everything = torch.cat([rows(source)["x"] for source in data[:3]])
    labels = torch.cat([rows(source)["y"] for source in data[:3]])
    (at,) = (everything == torch.from_numpy(first)).all(-1).all(-1).all(-1).nonzero()
    assert labels[at].tolist() == [0]


def test_a_folder_may_be_zipped(tmp_path: Path) -> None:
    folder = filled(tmp_path / "animals")
    zipped = shutil.make_archive(str(tmp_path / "animals"), "zip", folder)
    plain, packed = image_folder(path=str(folder)), image_folder(path=zipped)
    assert torch.equal(rows(plain.test)["x"], rows(packed.test)["x"])
    Path(zipped).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"animals\.zip can't be read"):
        image_folder(path=zipped)


def test_folders_of_splits_are_the_splits_and_copies_are_left_out(tmp_path: Path) -> None:
    filled(tmp_path / "train")
    filled(tmp_path / "test", 3)  # the same pictures as the first of each class
    data = image_folder(path=str(tmp_path), val_fraction=0.2)
    assert [len(source) for source in data[:3]] == [11, 3, 6]


def test_grey_images_and_those_of_other_sizes_and_kinds(tmp_path: Path) -> None:
    assert image_folder(path=str(filled(tmp_path / "grey", mode="L"))).signature.offers["input_shape"] == (1, 6, 6)
    mixed = filled(tmp_path / "mixed", mode="L")
    picture(mixed / "cat" / "wide.jpg", seed=500, size=(40, 10))
    picture(mixed / "cat" / "tall.png", seed=501, size=(8, 20), mode="P")
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(mixed / "dog" / "clear.png")
    with pytest.raises(ValueError, match=r"size=null: the images are of 4 sizes .*clear\.png is 9 x 9|size=null"):
        image_folder(path=str(mixed))
    data = image_folder(path=str(mixed), size=8)
    assert data.signature.offers["input_shape"] == (3, 8, 8)
    white = [(rows(source)["x"] == 1).flatten(1).all(1).sum().item() for source in data[:3]]
    assert sum(white) == 1, "what is transparent is shown on white"
    assert image_folder(path=str(mixed), size=8, mode="grey").signature.offers["input_shape"] == (1, 8, 8)


def test_the_middle_of_a_wide_image_is_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    wide = np.zeros((6, 30, 3), np.uint8)
    wide[:, 12:18] = 255
    Image.fromarray(wide).save(tmp_path / "cat" / "wide.png")
    everything = torch.cat([rows(source)["x"] for source in image_folder(path=str(tmp_path), size=6)[:3]])
    assert (everything == 1).flatten(1).all(1).sum().item() == 1


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    filled(tmp_path)
    half = np.zeros((6, 6, 3), np.uint8)
    half[:3] = 255  # white above; to be turned by 90 degrees clockwise: white on the right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(half).save(tmp_path / "cat" / "turned.png", exif=exif)
    everything = torch.cat([rows(source)["x"] for source in image_folder(path=str(tmp_path))[:3]])
    right = torch.zeros(3, 6, 6)
    right[:, :, 3:] = 1
    assert (everything == right).flatten(1).all(1).sum().item() == 1


def broken(folder: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:80])
    (folder / "dog" / "text.jpg").write_text("no image")


def lonely(folder: Path) -> None:
    picture(folder / "emu" / "1.png", seed=900)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken, r"can't be decoded: .*broken\.png \(.*text\.jpg \(not an image\)"),
        (lonely, r"each class needs at least 3 different images.* emu \(1\)"),
        (lambda folder: (folder / "emu").mkdir(), r"emu holds no image \(\.png"),
        (lambda folder: (folder / "dog").rename(folder / ".dog"), r"at least two classes; it holds cat"),
        (lambda folder: folder.rename(folder.parent / "moved"), "there is no such folder"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, spoil: object, message: str) -> None:
    folder = filled(tmp_path / "animals")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        image_folder(path=str(folder))
