import base64
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from trivium.config.composing import compose
from trivium.report.curves import (
    Axis,
    best_index,
    bin_means,
    decades,
    nice_ticks,
    number,
    path,
    thin,
    tick_text,
    value_axis,
    value_text,
    wants_log,
)
from trivium.report.record import Record, panels_of, repeat_command, series_of
from trivium.report.writing import duration, picture_size, size_text, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>\'</pre>'


def make_run(dir: Path, *, finished: bool = True, rows: int = 6, name: str = "mlp_digits") -> Path:
    """A run folder as Trivium leaves it: training rows, every second one with an evaluation; the best at step 20."""
    (dir / "figures").mkdir(parents=True)
    config = {"name": name, "monitor": {"metric": "eval/loss", "mode": "min", "min_delta": 0.0}}
    (dir / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {"command": "trivium train experiment=mlp_digits", "python": "3.11", "packages": {"torch": "2.13"}}
    (dir / "environment.json").write_text(json.dumps(environment))
    with open(dir / "metrics.jsonl", "w") as stream:
        for i in range(1, rows + 1):
            row: dict[str, Any] = {"step": 10 * i, "updates": i, "train/loss": 1 / i, "time/samples_per_s": 5.0}
            row |= {"eval/loss": (0.5, 0.6, 0.7)[i // 2 - 1]} if i % 2 == 0 else {}
            stream.write(json.dumps(row) + "\n")
    Image.new("RGB", (8, 4), (255, 0, 0)).save(dir / "figures" / "samples.png")
    frames = [Image.new("RGB", (400, 300), (0, 60 * i, 0)) for i in range(3)]
    frames[0].save(dir / "figures" / "rollout.gif", save_all=True, append_images=frames[1:])
    if finished:
        result = {
            "name": name,
            "reason": "target eval/loss<=0.5 reached after 60000 samples",
            "metrics": {"test/loss": 0.53127, "test/accuracy": 0.97222},
            "counters": {"samples": 60, "epochs": 1.5},
            "updates": 6,
            "elapsed_s": 169.6,
            "checkpoint": "step-000000000020",
        }
        (dir / "result.json").write_text(json.dumps(result))
    return dir


def report_of(dir: Path) -> str:
    return write_report(dir).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0.13, 0.58, 4, [0.2, 0.3, 0.4, 0.5]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0, 125_760, 3, [0, 50_000, 100_000]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == ticks


def test_decades_are_skipped_evenly() -> None:
    assert decades(0.02, 300, 4) == [0.1, 1, 10, 100]
    assert decades(1, 1e8, 4) == [1, 1e3, 1e6]


def test_tick_labels_have_as_many_digits_as_the_step_needs() -> None:
    texts = [tick_text(50_000, 50_000), tick_text(0.15, 0.05), tick_text(0, 0.001), tick_text(2.5e-7, 5e-8)]
    assert texts == ["50,000", "0.15", "0", "2.5e-7"]


def test_values_are_readable() -> None:
    texts = [value_text(v) for v in (0.97777777, 1965.0, 2.5256e-06, 12345.6, -24.2917, 0.0, None)]
    assert texts == ["0.9778", "1,965", "2.53e-6", "12,346", "-24.29", "0", "–"]  # noqa: RUF001


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), 10**400, [1]])
def test_what_can_not_be_drawn_is_no_number(value: Any) -> None:
    assert number(value) is None


def test_numbers_are_floats_and_the_tiniest_zero() -> None:
    assert [number(3), number(-0.5), number(1e-300)] == [3.0, -0.5, 0.0]


def test_log_scale_only_where_a_linear_one_would_hide_the_curve() -> None:
    assert wants_log([10, 1, 0.1, 0.01, 0.01])
    assert not wants_log([10, 9, 8, 5, 0.01])  # a decay that ends near zero
    assert not wants_log([10, 1, 0.1, 0.01, 0])
    assert not wants_log([2.3, 0.1, 0.1, 0.1])


def test_axes_hold_all_values_with_room() -> None:
    assert value_axis([0.0, 10.0]) == Axis(-0.5, 10.5)
    nearly_flat = value_axis([499.9, 500.0])
    assert (nearly_flat.low, nearly_flat.high) == pytest.approx((499.675, 500.225))
    assert Axis(1, 100, log=True).at(10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "ticks"),
    [
        (500.0, [460, 480, 500, 520, 540]),
        (3e-4, [2.7e-4, 2.8e-4, 2.9e-4, 3e-4, 3.1e-4, 3.2e-4, 3.3e-4]),
        (-20.0, [-22, -21, -20, -19, -18]),
        (0.0, [-0.4, -0.2, 0, 0.2, 0.4]),
    ],
)
def test_a_constant_curve_has_ticks_a_few_per_cent_apart(value: float, ticks: list[float]) -> None:
    assert value_axis([value, value]).ticks(5) == ticks


def test_paths_lift_the_pen_at_gaps_and_dot_lone_points() -> None:
    assert path([(0, 1), (2, 3), (4, None), (5, 6)]) == "M0 1L2 3M5 6h0"
    assert path([(0, 1), (1, None), (2, 2.25)]) == "M0 1h0M2 2.2h0"
    assert path([]) == ""


def test_thinning_keeps_extremes_ends_and_gaps_in_order() -> None:
    points = [(float(i), 0.0) for i in range(100)]
    points[37], points[38], points[61] = (37.0, 9.0), (38.0, -9.0), (61.0, 7.0)
    thinned = thin([*points, (100.0, None), (101.0, 1.0)], 4)
    assert {points[37], points[38], points[61], (0.0, 0.0), (101.0, 1.0), (100.0, None)} <= set(thinned)
    assert len(thinned) <= 3 * 4 + 2
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)


def test_trend_is_the_mean_of_each_bin() -> None:
    points = [(0.0, 1.0), (1.0, 3.0), (2.0, None), (3.0, 5.0), (4.0, None), (5.0, None)]
    assert bin_means(points, 3) == [(0.5, 2.0), (2.5, 5.0), (4.5, None)]


@pytest.mark.parametrize("finished", [True, False])
def test_where_the_learner_says_what_is_better_the_run_has_kept_its_best(tmp_path: Path, finished: bool) -> None:
    """By the manifest of its newest checkpoint while it trains, by its result afterwards."""
    dir = make_run(tmp_path / "run", finished=finished)
    config = {"name": "a", "monitor": {"metric": "eval/loss", "mode": None, "min_delta": 0.0}}
    (dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert Record(dir).best == ((20.0, 0.5) if finished else None)
    for step, best in ((20, None), (40, "step-000000000040")):
        folder = dir / "checkpoints" / f"step-{step:012d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"best": best}))
    assert Record(dir).best == (40.0, 0.6)
    (folder / "manifest.json").write_text(json.dumps({"best": "../x"}))
    assert Record(dir).best == ((20.0, 0.5) if finished else None)


def test_best_is_what_is_not_improved_on_by_min_delta_and_the_last_of_equals() -> None:
    assert best_index([0.5, 0.9, 0.9, 0.8], "max") == 2
    assert best_index([500.0, 480.0, 500.0, 500.0, 490.0], "max") == 3
    assert best_index([0.5, 0.4, 0.39, 0.2], "min", 0.05) == 3
    assert best_index([0.5, 0.48, 0.5], "min", 0.05) == 2
    assert best_index([0.5, 0.49], "min", 0.05) == 0
    assert best_index([], "max") is None
    assert best_index([0.5, 0.9], "None") is None


# ------------------------------------------------------------------------------------------- parts


def test_panels_pair_training_with_evaluation() -> None:
    names = ["train/lr", "train/loss", "time/step_ms", "eval/loss", "eval/accuracy", "epochs", "test/loss"]
    assert panels_of(names, "eval/accuracy") == [
        ("eval/accuracy", ["eval/accuracy"]),
        ("loss", ["train/loss", "eval/loss"]),
        ("train/lr", ["train/lr"]),
    ]


def test_null_is_a_gap_and_a_missing_value_no_point() -> None:
    assert series_of([{"step": 1, "a/b": 2}, {"step": 2, "a/b": None}, {"step": 3}], "a/b") == [(1, 2), (2, None)]


def test_texts_for_sizes_and_times() -> None:
    assert [duration(s) for s in (3.21, 169.6, 11_100, 187_300)] == ["3.21 s", "2 min 50 s", "3 h 5 min", "2 d 4 h"]
    assert [size_text(n) for n in (812, 13_000, 2_400_000)] == ["812 B", "13 kB", "2.4 MB"]


def test_picture_sizes_are_read_from_the_content(tmp_path: Path) -> None:
    figures = make_run(tmp_path / "run") / "figures"
    assert picture_size((figures / "samples.png").read_bytes()) == ("image/png", 8, 4)
    assert picture_size((figures / "rollout.gif").read_bytes()) == ("image/gif", 400, 300)
    assert picture_size(b"<svg onload=alert(1)>") is None


# ------------------------------------------------------------------------------------------- commands


def test_command_that_was_typed_is_preferred_if_it_repeats_the_run() -> None:
    typed = "trivium train experiment=mlp_digits seed=3"
    assert repeat_command(compose(["experiment=mlp_digits", "seed=3"]), typed) == typed


def test_command_of_a_run_started_otherwise_composes_to_the_same_config() -> None:
    config = compose(["experiment=mlp_digits", "budget.target=eval/accuracy>=0.9", "learner.lr=0.5"])
    command = repeat_command(config, "bench.py --fast")
    assert command
    words = shlex.split(command)
    assert words[:3] == ["trivium", "train", "experiment=mlp_digits"]
    assert compose(words[2:]) == config


@pytest.mark.parametrize("config", [{}, {"name": "nonsuch"}, {"name": "$(reboot)"}, {"name": "mlp_digits", "x": 1}])
def test_no_command_for_a_config_that_none_composes_to(config: dict[str, Any]) -> None:
    assert repeat_command(config, "trivium train; reboot") is None


# ------------------------------------------------------------------------------------------- the whole page


def test_finished_run(tmp_path: Path) -> None:
    html = report_of(make_run(tmp_path / "run"))
    assert "<h1>mlp_digits</h1>" in html
    assert "Ended: target eval/loss&lt;=0.5 reached after 60,000 samples." in html
    assert re.search(r"<dt>test/loss</dt><dd title=0.53127>0.5313</dd>.*test/accuracy", html)  # monitored: first
    assert "step-000000000020, the best by eval/loss" in html
    assert "2 min 50 s" in html
    assert 'best <b>0.5</b> at 20 samples' in html  # fmt: skip
    assert "trivium resume" not in html
    assert not (tmp_path / "run" / ".report.html").exists()


def test_of_equal_evaluations_the_one_is_marked_that_the_result_is_of(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run")
    rows = [{"step": step, "eval/loss": loss} for step, loss in ((10, 0.6), (20, 0.5), (30, 0.5), (40, 0.7))]
    (dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads((dir / "result.json").read_text())
    (dir / "result.json").write_text(json.dumps({**result, "checkpoint": "step-000000000030"}))
    html = report_of(dir)
    assert "best <b>0.5</b> at 30 step" in html
    assert "step-000000000030, the best by eval/loss" in html


def test_headings_stand_in_order(tmp_path: Path) -> None:
    html = report_of(make_run(tmp_path / "run"))
    assert re.findall("<h2>(.*?)</h2>", html) == ["Curves", "Figures", "Config", "Environment", "Repeat", "Files"]


def test_unfinished_run_with_a_torn_row(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "a run", finished=False)
    with open(dir / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 70, "eval/loss": 0.0')
    html = report_of(dir)
    assert "<span class='state open'>killed</span>" in html
    assert "<dt>eval/loss</dt><dd title=0.7>0.7</dd>" in html
    assert f"trivium resume {shlex.quote(str(dir))}".replace("'", "&#x27;") in html


@pytest.mark.parametrize(
    ("budget", "result", "progress"),
    [
        ({"updates": 12, "epochs": None}, {}, "50% of 12 updates"),
        ({"updates": 4_000, "samples": 90.0}, {}, "67% of 90 samples"),
        ({"minutes": 10, "target": "eval/loss<=0.1"}, {}, "5% of 10 minutes"),
        ({"epochs": 2, "updates": 100}, {"counters": {"epochs": 1.5}, "updates": 10}, "75% of 2 epochs"),
        ({"updates": 3}, {}, "100% of 3 updates"),
        ({"updates": 0, "epochs": "many", "samples": -3}, {"counters": []}, None),
        ({}, {}, None),
        (None, None, None),
    ],
)
def test_progress_is_of_what_is_nearest_to_spent(
    tmp_path: Path, budget: Any, result: Any, progress: str | None
) -> None:
    dir = make_run(tmp_path / "run", finished=False)  # 6 updates, 60 samples
    with open(dir / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 60, "updates": 6, "time/elapsed_s": 30.0}\n')
    (dir / "config.yaml").write_text(yaml.safe_dump({"budget": budget}))
    (dir / "result.json").write_text(json.dumps(result))
    assert Record(dir).progress == progress


def test_failed_run(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run", finished=False)
    failed = {"state": "failed", "error": HOSTILE, "place": HOSTILE, "updates": 6, "checkpoint": "step-000000000020"}
    (dir / "result.json").write_text(json.dumps(failed))
    html = report_of(dir)
    assert "<span class='state open'>failed</span>" in html
    assert HOSTILE not in html
    assert html.count("&quot;&gt;&lt;script&gt;") == 2
    assert "Result of checkpoint" not in html
    assert "trivium resume" in html


@pytest.mark.parametrize("lines", ["", "\n", '[1]\n"x"\n3\n{"no": "step"}\n', "\x00\xff"])
def test_run_without_rows(tmp_path: Path, lines: str) -> None:
    dir = make_run(tmp_path / "run", finished=False)
    (dir / "metrics.jsonl").write_text(lines, encoding="latin-1")
    assert "Nothing has been logged yet." in report_of(dir)


def test_empty_folder(tmp_path: Path) -> None:
    assert f"<h1>{tmp_path.name}" in report_of(tmp_path)


@pytest.mark.parametrize("value", [None, "text", True, 10**400, {"a": 1}, [], -1e-320])
def test_values_of_any_type_are_survived(tmp_path: Path, value: Any) -> None:
    dir = make_run(tmp_path / "run")
    rows = [{"step": i, "train/loss": value, "eval/loss": value, "updates": value} for i in (0, 0, 5)]
    (dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (dir / "config.yaml").write_text(yaml.safe_dump({"name": str(value), "monitor": value, "launch": value}))
    (dir / "environment.json").write_text(json.dumps({"command": value, "packages": value}))
    for key in json.loads((dir / "result.json").read_text()):
        (dir / "result.json").write_text(json.dumps({key: value}))
        assert "nan" not in report_of(dir)


def test_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = report_of(make_run(tmp_path / "run"))
    assert re.findall(r"https?://", html) == []
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
    assert all(target.startswith("./") for target in re.findall(r'href="([^"]*)"', html))
    assert "default-src 'none'" in html


def test_pictures_are_embedded_whole_and_small_ones_enlarged(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run")
    html = report_of(dir)
    for name, media in (("rollout.gif", "image/gif"), ("samples.png", "image/png")):
        assert f"data:{media};base64,{base64.b64encode((dir / 'figures' / name).read_bytes()).decode()}" in html
    assert 'width="320" height="160" class="pixelated"' in html
    assert 'width="400" height="300" src=' in html


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run", name=HOSTILE)
    (dir / "config.yaml").write_text(yaml.safe_dump({"name": HOSTILE, "monitor": {"metric": f"eval/{HOSTILE}"}}))
    (dir / "environment.json").write_text(json.dumps({"command": f"trivium train; reboot {HOSTILE}", HOSTILE: HOSTILE}))
    (dir / "result.json").write_text(json.dumps({"reason": HOSTILE, "checkpoint": HOSTILE, "counters": {HOSTILE: 1}}))
    rows = [{"step": i, f"train/{HOSTILE}": i, f"eval/{HOSTILE}": i, f"{HOSTILE}/x": i, "train/x": 1} for i in range(3)]
    (dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (dir / "figures" / "javascript:alert(1).png").write_bytes(b"no picture")
    html = report_of(dir)
    assert len(re.findall("<script", html)) == 1
    assert "onerror=alert(1)>" not in html
    assert 'href="javascript' not in html
    assert "trivium &#x27;train;&#x27; reboot" in html  # quoted for a shell


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (3, 3)).save(secret)
    (dir / "figures" / "leak.png").symlink_to(secret)
    (dir / ".report.html").symlink_to(tmp_path / "overwritten")
    html = report_of(dir)
    assert base64.b64encode(secret.read_bytes()).decode() not in html
    assert not (tmp_path / "overwritten").exists()


def test_config_of_aliases_is_not_unfolded(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run", finished=False)
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))])
    (dir / "config.yaml").write_text(bomb)
    assert Record(dir).config == {}
    assert "a59" in report_of(dir)


def test_a_failure_leaves_the_report_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dir = make_run(tmp_path / "run")
    before = report_of(dir)

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    (dir / "config.yaml").write_text("name: changed")
    with pytest.raises(OSError, match="disk full"):
        write_report(dir)
    assert (dir / "report.html").read_text(encoding="utf-8") == before
    monkeypatch.undo()
    assert "changed" in report_of(dir)


def test_long_runs_stay_small(tmp_path: Path) -> None:
    dir = make_run(tmp_path / "run")
    rows = [{"step": 1000 * i, "train/loss": 1 + (i * 7919 % 1000) / 1000} for i in range(20_000)]
    rows[12_345]["train/loss"] = 8.75
    (dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = report_of(dir)
    assert len(html) < 100_000
    assert "8.75" in html


# ------------------------------------------------------------------------------------------- a browser


class Browser:
    """Chromium, spoken to in its DevTools protocol over pipes: JSON messages that end in NUL."""

    FLAGS = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --remote-debugging-pipe"
    )

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (theirs_in, theirs_out)]
        # Chromium reads from descriptor 3 and writes to 4.
        become = f"import os,sys;os.dup2({theirs[0]},3);os.dup2({theirs[1]},4);os.execv(sys.argv[1],sys.argv[1:])"
        command = [sys.executable, "-c", become, CHROMIUM, *self.FLAGS.split(), f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        for descriptor in (theirs_in, theirs_out, *theirs):
            os.close(descriptor)
        self.output, self.input = ours_out, ours_in
        self.buffer, self.sent = b"", 0
        self.session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params, **self.session}
        os.write(self.output, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda m: m.get("id") == self.sent)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self.buffer:
                received = os.read(self.input, 1 << 16)
                assert received, "chromium has gone"
                self.buffer += received
            text, _, self.buffer = self.buffer.partition(b"\0")
            message: dict[str, Any] = json.loads(text)
            self.events.append(message)
            if wanted(message):
                return message

    def open(self, file: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        self.wait(lambda m: m.get("method") == "Page.loadEventFired")

    def run(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Errors, refused loads and whatever else reached the console."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in kinds]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.input)
        os.close(self.output)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [420, 1400])
def test_browser_draws_it_without_a_complaint(tmp_path: Path, browser: Browser, width: int) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(write_report(make_run(tmp_path / "run")))
    sizes = browser.run(
        "[...document.querySelectorAll('details')].forEach(d => d.open = true);"
        "[...document.querySelectorAll('svg, img')].map(e => [e.clientWidth, e.clientHeight])"
    )
    assert len(sizes) == 4  # loss, samples_per_s, two pictures
    assert all(w > 100 and h > 50 for w, h in sizes)
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints == []


def test_browser_shows_values_under_the_pointer(tmp_path: Path, browser: Browser) -> None:
    browser.open(write_report(make_run(tmp_path / "run")))
    x, y = browser.run(
        "(() => { const box = document.querySelector('.best').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y] })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.run("document.getElementById('tip').textContent") == "20 samples\ntrain  0.5\neval  0.5"
    assert browser.complaints == []


def test_browser_runs_nothing_hostile(tmp_path: Path, browser: Browser) -> None:
    dir = make_run(tmp_path / "run", name=HOSTILE)
    report = write_report(dir)
    browser.open(report)
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.complaints == []
    slipped = report.read_text(encoding="utf-8").replace("<h1>", "<script>window.owned = 1</script><h1>")
    report.write_text(slipped, encoding="utf-8")  # what escaping might miss, the page's policy stops
    browser.open(report)
    assert browser.run("window.owned === undefined")
    assert len(browser.complaints) == 1
