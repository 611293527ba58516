"""A page that compares runs: which belong together, their means and intervals, and a table that sorts in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trivium.cli import main
from trivium.report.comparison import write_comparison
from trivium.report.groups import curve_of, differences, grouped, interval
from trivium.report.record import Record
from trivium.report.searches import _positions, search_section

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(folder: Path, *, lr: float, seed: int, agent: bool = False, losses: tuple[float, ...] = (3, 2, 1)) -> Path:
    dir = folder / f"{lr}-{seed}"
    dir.mkdir(parents=True)
    part = "agent" if agent else "learner"
    config = {
        "name": "tiny",
        "seed": seed,
        part: {"lr": lr},
        "budget": {"epochs": 3},
        "monitor": {"metric": "eval/loss"},
    }
    (dir / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"step": 10 * (i + 1), "eval/loss": loss, "time/samples_per_s": 5} for i, loss in enumerate(losses)]
    (dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"state": "finished", "metrics": {"test/accuracy": lr * 10 + seed / 100}, "elapsed_s": 7.0}
    (dir / "result.json").write_text(json.dumps(result))
    return dir


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        run(tmp_path / "runs", lr=lr, seed=seed, losses=(3 * lr + seed, 2, 1)) for lr in (0.1, 0.2) for seed in (1, 2)
    ]


def test_runs_that_differ_in_their_seed_are_one_group(runs: list[Path]) -> None:
    groups = grouped([Record(dir) for dir in runs])
    assert [(group.label, len(group.records)) for group in groups] == [("tiny lr=0.1", 2), ("tiny lr=0.2", 2)]
    found = differences([Record(dir) for dir in runs])
    assert found[str(runs[3])] == {"seed": 2, "learner.lr": 0.2}


def test_means_and_intervals_by_hand() -> None:
    values = np.array([[0.0, 1.0], [4.0, 1.0]])
    centre, ends = interval(values, interquartile=False)
    assert centre.tolist() == [2, 1]
    assert ends[:, 0].tolist() == [0, 4]
    assert ends[:, 1].tolist() == [1, 1]
    eight = np.arange(8.0)[:, None] ** 2
    assert interval(eight, interquartile=True)[0][0] == pytest.approx((4 + 9 + 16 + 25) / 4)
    assert interval(eight, interquartile=False)[0][0] == pytest.approx((eight**1).mean())
    assert (interval(eight, interquartile=True)[1] == interval(eight, interquartile=True)[1]).all()


def test_a_group_has_one_curve_with_a_band(runs: list[Path]) -> None:
    group = grouped([Record(dir) for dir in runs])[0]
    curve = curve_of(group, "eval/loss")
    assert curve is not None
    assert curve.band is not None
    assert curve.points[0] == (10.0, pytest.approx(1.8))
    assert curve.band[0] == (10.0, pytest.approx(1.3), pytest.approx(2.3))
    assert curve.points[-1] == (30.0, 1.0)
    assert curve_of(group, "eval/nothing") is None
    alone = curve_of(grouped([Record(runs[0])])[0], "eval/loss")
    assert alone is not None
    assert alone.band is None
    assert alone.points == [(10.0, pytest.approx(1.3)), (20.0, 2.0), (30.0, 1.0)]


def test_the_page_says_what_there_is(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "runs": 4}
    text = unescape(re.sub(r"<[^>]*>", " ", out.read_text()))
    assert "4 runs, 2 settings" in text
    assert re.search(r"tiny lr=0\.2\s+2\s+2\.015\s+\(2\.01 to 2\.02\)", text)
    assert "learner.lr" in text
    assert out.read_text().count('class="band other') == 2
    assert "http" not in re.sub(r"http-equiv", "", out.read_text())


def test_hostile_and_damaged_folders_do_no_harm(tmp_path: Path) -> None:
    evil = run(tmp_path, lr=0.1, seed=1)
    config = yaml.safe_load((evil / "config.yaml").read_text())
    (evil / "config.yaml").write_text(yaml.safe_dump({**config, "name": "<script>alert(1)</script>"}))
    (evil / "figures").mkdir()
    (evil / "figures" / "<img src=x>.png").write_bytes(b"no picture")
    (evil / "figures" / "link.png").symlink_to("/etc/passwd")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("[")
    (broken / "metrics.jsonl").write_text("nonsense")
    page = write_comparison([evil, broken], tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert "root:" not in page


def test_one_run_gets_its_report_again(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs[0])]) == 0
    assert (runs[0] / "report.html").is_file()
    assert main(["report", str(runs[0] / "nowhere")]) == 2
    assert "there is no run folder" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")
def test_the_table_sorts_and_filters_in_a_browser(runs: list[Path], tmp_path: Path) -> None:
    page = write_comparison(runs, tmp_path / "page.html")
    clicks = """<script>{
      const heads = [...document.querySelectorAll('.runs:not(.means) th button')];
      const accuracy = heads.find(head => head.textContent === 'test/accuracy');
      accuracy.click(); accuracy.click();
      const rows = () => [...document.querySelectorAll('.runs:not(.means) tbody tr')];
      const sorted = rows().map(row => row.cells[0].textContent);
      const filter = document.querySelector('input[type=search]');
      filter.value = '0.1-'; filter.dispatchEvent(new Event('input'));
      document.title = JSON.stringify([sorted, rows().filter(row => !row.hidden).length]);
    }</script>"""
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text())  # whose policy would not let this test's script run
    (tmp_path / "clicked.html").write_text(text.replace("</body>", f"{clicks}</body>"))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"file://{tmp_path}/clicked.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stderr
    order, shown = json.loads(unescape(title[1]))
    assert [name.rpartition("/")[2] for name in order] == ["0.2-2", "0.2-1", "0.1-2", "0.1-1"]
    assert shown == 2


def trial(name: str, lr: str, *scores: float, **values: str) -> dict[str, Any]:
    return {"values": {"learner.lr": lr, **values}, "scores": list(scores), "began": float(lr), "name": name}


def search_folder(dir: Path, **changed: Any) -> Path:
    dir.mkdir(parents=True)
    trials = [
        trial("a", "0.001", 2.0, 0.5, model="mlp"),
        trial("b", "0.01", 1.0, 0.4, model="<lenet>"),
        trial("c", "0.1", 3.0, 0.3),
    ]
    found = {"metrics": ["eval/loss", "eval/f1"], "modes": ["min", "max"], "trials": trials, "front": ["a", "b"]}
    found |= {"importance": {"learner.lr": 0.75, "model": 0.25}, **changed}
    (dir / "results.json").write_text(json.dumps(found))
    return dir


def test_a_search_has_its_pictures(tmp_path: Path) -> None:
    html = search_section(search_folder(tmp_path / "s/one"))
    assert "Search: s/one" in html
    assert "best so far <b>1</b>" in html
    assert html.count('class="mark eval"') == 2  # the front
    assert html.count('class="soft-mark train"') == 3 + 1  # each trial in its order, and the one behind the front
    assert html.count('class="way"') == 3
    assert "75%" in html
    assert "&lt;lenet&gt;" in html
    assert "<lenet>" not in html


def test_a_search_of_one_objective_has_no_front(tmp_path: Path) -> None:
    trials = [trial("a", "0.1", 2.0), trial("b", "0.2", 2.0)]
    html = search_section(search_folder(tmp_path / "s", metrics=["eval/loss"], modes=["min"], trials=trials))
    assert "Pareto" not in html
    assert html.count('class="way"') == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"trials": 1},
        {"trials": []},
        {"modes": []},
        {"importance": [1]},
        {"trials": [1, {"values": 1}]},
        {"front": None},
    ],
)
def test_a_damaged_search_has_no_pictures(changed: dict[str, Any], tmp_path: Path) -> None:
    assert search_section(search_folder(tmp_path / "s", **changed)) == ""
    assert search_section(tmp_path) == ""


def test_settings_lie_on_their_axes() -> None:
    assert _positions(["1", "3", None, "2"]) == ([0.0, 1.0, None, 0.5], [(0.0, "1"), (0.5, "2"), (1.0, "3")])
    logarithmic, ticks = _positions(["0.001", "0.1", "0.01"])
    assert logarithmic == pytest.approx([0, 1, 0.5])
    assert [text for _, text in ticks] == ["0.001", "0.01", "0.1"]
    assert _positions(["[8]", "[16]", "[8]"]) == ([0.25, 0.75, 0.25], [(0.25, "[8]"), (0.75, "[16]")])
