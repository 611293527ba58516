from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trivium.report.writing import write_report
from trivium.tracking import film
from trivium.tracking.film import Film
from trivium.tracking.tracker import RunTracker


def picture(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def colours(path: Path) -> list[int]:
    with Image.open(path) as image:
        found = []
        for i in range(image.n_frames):
            image.seek(i)
            found.append(int(np.asarray(image.convert("L"))[0, 0]))
    return found


def test_samples_become_a_film_and_a_resumed_run_draws_its_frames_again(tmp_path: Path) -> None:
    tracker = RunTracker(tmp_path)
    for step, value in ((10, 20), (20, 90), (30, 7)):
        tracker.figures(step, {"samples": picture(value), "other": picture(value)})
    tracker.finish()
    resumed = RunTracker(tmp_path)
    for step, value in ((30, 160), (40, 230)):
        resumed.figures(step, {"samples": picture(value)})
    resumed.finish()
    assert colours(tmp_path / "figures" / "samples_film.gif") == pytest.approx([20, 90, 160, 230], abs=3)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "film", "other.png", "samples.png", "samples_film.gif",
    ]  # fmt: skip


def test_one_picture_is_no_film(tmp_path: Path) -> None:
    tracker = RunTracker(tmp_path)
    tracker.figures(10, {"samples": picture(1)})
    tracker.finish()
    assert not (tmp_path / "figures" / "samples_film.gif").exists()


def test_a_long_film_is_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "MOST_FRAMES", 4)
    made, file = Film(tmp_path), tmp_path / "a.png"
    Image.fromarray(picture(1)).save(file)
    for step in range(1, 7):
        made.add(step, file)
        assert len(made.frames()) <= 4
    steps = [int(path.stem.rpartition("-")[2]) for path in made.frames()]
    assert steps[0] == 1
    assert steps[-1] == 6


def test_the_report_shows_the_film_and_not_its_frames(tmp_path: Path) -> None:
    import trivium

    typed = ["experiment=vae_digits", "budget.updates=2", "threads=1", "tracking.wandb=false"]
    trivium.train(*typed, dir=tmp_path / "run", quiet=True)  # so short that its pictures are drawn once
    figures = tmp_path / "run" / "figures"
    assert len(Film(figures).frames()) == 1
    Film(figures).add(1, figures / "samples.png")
    Film(figures).write()
    page = write_report(tmp_path / "run").read_text()
    assert ">samples_film<" in page
    assert "film/samples-" not in page
