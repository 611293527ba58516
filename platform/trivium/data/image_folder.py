"""Images in folders, one folder for each class."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count, CountOrZero, Range, Seed
from trivium.data import images_on_disk
from trivium.data.images import labelled_images
from trivium.data.images_on_disk import ImagesOnDisk
from trivium.data.source import Signature, Splits
from trivium.data.splitting import split_off, split_rows

Mode = Literal["auto", "grey", "colour"]
Folder = Path | zipfile.Path
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
THREADS = 4  # decoders release the interpreter's lock
KEPT_FIRST = ("test", "val", "train", "all")  # of an image that is in several
SHOWN = 5  # files of a kind in an error


@checks_keywords
def image_folder(
    *,
    path: str,
    size: Annotated[int, Range(ge=4)] | None = None,
    mode: Mode = "auto",
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    max_per_class: Count | None = None,
    normalize: bool = False,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
    cache: str | None = None,
) -> Splits:
    """Images whose class is the name of the folder that they lie in: `path/cat/1.jpg`.

    If `path` holds the folders `train` and `test` (and `val`), these are the splits, and a validation split that is
    not there is taken from `train`. Otherwise all images are split, stratified by class. Two files with the same bytes
    are one image: the second is left out, so that no image is in two splits; the test split's copy is the one to stay.

    Images are turned upright by their EXIF tag. Those of another size are scaled, with anti-aliasing, so that the
    shorter side fits, and cropped to the middle square.

    Args:
        path: the folder, or a .zip file of one, which is read as it is, see `find_data`.
        size: pixels of a side, >= 4; None: the images' own size, which then must be the same for all.
        mode: `grey` (1 channel) or `colour` (3); `auto`: colour, unless all images are grey. Transparent pixels are
            shown on white.
        val_fraction, test_fraction: of the images; of `train` where there are folders of splits.
        split_seed: which images go where; not the run's seed.
        max_per_class: the first ones of each class and split by name; None: all.
        normalize: see `trivium.data.images.labelled_images`.
        folds, fold: of a cross-validation, see `trivium.data.splitting.split_rows`; not with folders of splits.
        cache: a folder for a file of all images, decoded and scaled, which is made once and read from row by row: for
            images that do not fit in memory. It needs `size`. None: images are held in memory.

    Returns:
        Columns `x`, float32 [n, C, size, size], and `y`, int64 [n].

    Raises:
        ValueError: there is no such folder, it has fewer than two classes, a class has too few images for all splits,
            an image can't be decoded, or sizes differ without `size`; names the files.
    """
    folder = _folder(find_data(path), path)
    given = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
    split_folders = "train" in given and "test" in given
    if split_folders and folds:
        raise ValueError(f"folds={folds}: {folder} holds folders of splits already, {', '.join(given)}")
    roots = {name: folder / name for name in given} if split_folders else {"all": folder}
    names = _classes(next(iter(roots.values())))
    files: dict[str, list[tuple[Folder, int]]] = {}
    for split, root in roots.items():
        if _classes(root) != names:
            raise ValueError(
                f"{root} holds the classes {', '.join(_classes(root))}; {folder / 'train'} {', '.join(names)}"
            )
        files[split] = [(file, i) for i, name in enumerate(names) for file in _files(root / name)[:max_per_class]]
    every: dict[str, Any] = {
        "val_fraction": val_fraction, "test_fraction": test_fraction, "split_seed": split_seed, "folds": folds,
        "fold": fold,
    }  # fmt: skip
    if cache is not None:
        return _on_disk(files, names, size, mode, path, cache, normalize, every)
    images, labels = _decoded(files, size, mode)
    rows = _rows(labels, names, **every)
    train, val, test = ((images[split][index], labels[split][index]) for split, index in rows)
    return labelled_images(train, val, test, class_names=names, normalize=normalize)


def _rows(
    labels: dict[str, np.ndarray],
    names: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    folds: int | None,
    fold: int,
) -> list[tuple[str, np.ndarray]]:
    """Of train, val and test, the folder's split that each is taken from and the numbers of its rows there."""
    strata = {split: [names[label] for label in own] for split, own in labels.items()}
    if "all" in labels:
        index = split_rows(
            len(labels["all"]), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed,
            strata=strata["all"], folds=folds, fold=fold, rows="different images", names="path: ",
        )  # fmt: skip
        return [("all", part) for part in index]
    if "val" in labels:
        return [(split, np.arange(len(labels[split]))) for split in ("train", "val", "test")]
    stay, taken = split_off(
        val_fraction, split_seed=split_seed, strata=strata["train"], rows="different images", names="path: "
    )
    return [("train", stay), ("train", taken), ("test", np.arange(len(labels["test"])))]


def _on_disk(
    files: dict[str, list[tuple[Folder, int]]],
    names: Sequence[str],
    size: int | None,
    mode: Mode,
    path: str,
    cache: str,
    normalize: bool,
    every: dict[str, Any],
) -> Splits:
    if size is None:
        raise ValueError(f"cache={cache} needs size=<pixels of a side>")
    grey = mode == "grey" or (mode == "auto" and all(_is_grey(file) for own in files.values() for file, _ in own))

    def read(file: Folder) -> tuple[np.ndarray, bytes]:
        result = opened(file)
        if isinstance(result, str):
            raise ValueError(f"images can't be decoded: {file} ({result})")
        return (pixels(result[0], (size, size), grey) * 255).round().astype(np.uint8), result[1]

    shape = (1 if grey else 3, size, size)
    source = f"{path} {find_data(path).stat().st_size}" if find_data(path).is_file() else path
    order = sorted(files, key=KEPT_FIRST.index)
    listed = [(file, label, number) for number, split in enumerate(order) for file, label in files[split]]
    decoded = images_on_disk.decode(listed, read=read, shape=shape, cache=cache, source=source)
    rows_of = {split: np.flatnonzero(decoded.groups == number) for number, split in enumerate(order)}
    chosen = _rows({split: decoded.labels[rows] for split, rows in rows_of.items()}, names, **every)
    parts = [ImagesOnDisk(decoded, rows_of[split][index]) for split, index in chosen]
    preparation: dict[str, object] = {"kind": "image", "scale": 255}
    if normalize:
        mean_C, std_C = images_on_disk.statistics(parts[0])
        preparation |= {"mean": mean_C.tolist(), "std": std_C.tolist()}
        parts = [ImagesOnDisk(part.decoded, part.rows, mean_C=mean_C, std_C=std_C) for part in parts]
    train = parts[0]
    counts = np.bincount(train.decoded.labels[train.rows], minlength=len(names))
    offers = {
        "input_shape": shape, "num_outputs": len(names), "class_names": tuple(names),
        "class_counts": tuple(counts.tolist()),
    }  # fmt: skip
    signature = Signature(task="classification", offers=offers, preparation=preparation)
    return Splits(parts[0], parts[1], parts[2], signature)


def _is_grey(file: Folder) -> bool:
    """By the file's header alone."""
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            return image.mode in ("L", "1", "I;16")
    except (OSError, ValueError, SyntaxError):
        return True  # reading its pixels says what is wrong


def _folder(place: Path, path: str) -> Folder:
    if place.suffix == ".zip" and place.is_file():
        try:
            return zipfile.Path(place)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"path={path} can't be read: {error}") from error
    if not place.is_dir():
        raise ValueError(f"path={path}: there is no such folder")
    return place


def _classes(root: Folder) -> list[str]:
    names = sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"{root} must hold a folder for each of at least two classes; it holds {', '.join(names) or 'none'}"
        )
    return names


def _files(folder: Folder) -> list[Folder]:
    found = sorted((f for f in folder.iterdir() if Path(f.name).suffix.lower() in SUFFIXES and f.is_file()), key=str)
    if not found:
        raise ValueError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return found


def _decoded(
    files: dict[str, list[tuple[Folder, int]]], size: int | None, mode: Mode
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All images of each split, float32 [n, C, H, W] in [0, 1], and their labels, int64 [n]."""
    seen: set[bytes] = set()
    kept: dict[str, list[tuple[Image.Image, int, Folder]]] = {}
    wrong: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for split in sorted(files, key=KEPT_FIRST.index):
            kept[split] = []
            for (file, label), result in zip(files[split], pool.map(opened, (f for f, _ in files[split])), strict=True):
                if isinstance(result, str):
                    wrong.append(f"{file} ({result})")
                elif result[1] not in seen:
                    seen.add(result[1])
                    kept[split].append((result[0], label, file))
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(f"images can't be decoded: {'; '.join(wrong[:SHOWN])}{more}")
    everything = [item for items in kept.values() for item in items]
    grey = mode == "grey" or (mode == "auto" and all(image.mode in ("L", "1", "I;16") for image, _, _ in everything))
    if size is None:
        sizes = {image.size: file for image, _, file in everything}
        if len(sizes) > 1:
            shown = ", ".join(f"{file} is {w} x {h}" for (w, h), file in list(sizes.items())[:2])
            raise ValueError(
                f"size=null: the images are of {len(sizes)} sizes ({shown}); choose size=<pixels of a side>"
            )
    square = None if size is None else (size, size)
    images = {split: np.stack([pixels(image, square, grey) for image, _, _ in items]) for split, items in kept.items()}
    return images, {split: np.array([label for _, label, _ in items]) for split, items in kept.items()}


def opened(file: Folder) -> tuple[Image.Image, bytes] | str:
    """An image and the digest of its file, or why it can't be read."""
    try:
        raw = file.read_bytes()
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
            elif upright.mode == "I;16":  # 16 bits a pixel: Pillow would clip them to 8
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return upright, hashlib.blake2b(raw, digest_size=16).digest()
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error).partition("\n")[0]


def pixels(image: Image.Image, size: tuple[int, int] | None, grey: bool) -> np.ndarray:
    """float32 [C, H, W] in [0, 1]; scaled and cropped to `size`, (width, height) in pixels, where it is another."""
    image = image.convert("L" if grey else "RGB")
    if size is not None and image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    values = np.asarray(image, np.float32) / np.float32(255)
    return values[None] if grey else values.transpose(2, 0, 1)
