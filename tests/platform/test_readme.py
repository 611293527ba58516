"""What the documents say is true: their commands compose, their links lead somewhere, their examples run."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from trivium.cli import main, parsing
from trivium.config.composing import compose

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "cluster/README.md",
    "docs/agents.md",
    "docs/generative.md",
    "docs/house.md",
    "docs/learner.md",
    "docs/python.md",
    "docs/resume.md",
    "docs/search.md",
    "docs/supervised.md",
]
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
EXAMPLES = re.compile(r"<!-- (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every line in a block marked `sh`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = (shlex.split(line, comments=True) for block in blocks for line in block.splitlines())
    return [words for words in lines if words]


def write_examples(folder: Path) -> None:
    """The documents' own models and learners, as files."""
    for text in TEXTS.values():
        for name, content in EXAMPLES.findall(text):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


TRAINED = [
    (name, words) for name, text in TEXTS.items() for words in commands(text) if words[:2] == ["trivium", "train"]
]


@pytest.mark.parametrize(
    ("name", "words"), TRAINED, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_name_what_exists(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_examples(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, options = parsing.parse([word.replace("/shared", str(tmp_path)) for word in words[1:]])
    config = compose(options.overrides, options.config_dir)
    assert config["name"]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_those_of_trivium_and_make(name: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(TEXTS[name]):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "trivium":
            parsing.parse(words[1:])  # raises for a sub-command or an option that there is not
        else:
            assert words[0] == "export", words


def test_the_readme_has_the_two_commands_and_ci_runs_the_second() -> None:
    assert commands(TEXTS["README.md"])[:2] == [["make", "demo"], ["make", "test"]]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("make")] == [["make", "check"], ["make", "test"]]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXTS[name]):
        assert "://" not in link
        assert ((ROOT / name).parent / link).exists(), link


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 150_000, picture


def test_the_messages_shown_are_those_given(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```\n\$ trivium (train experiment=ppo_cartpol .*?)\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    assert block
    assert main(shlex.split(block[1])) == 2
    assert capsys.readouterr().err == block[2]


def test_a_model_and_a_learner_of_ones_own_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commands of the documents themselves, for one update of the model and a few of the learner."""
    write_examples(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # and have what the commands add to the path taken away
    updates = {"model=tiny": 1, "learner=line": 500}
    found = {}
    for _, words in TRAINED:
        for name in updates.keys() & set(words):
            extra = [f"budget.updates={updates[name]}", "tracking.wandb=false", "--json", "--quiet"]
            assert main([*words[1:], *extra]) == 0
            found[name] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["model=tiny"]["updates"] == 1
    assert found["learner=line"]["metrics"]["test/slope"] == pytest.approx(3, abs=0.05)


def test_the_script_of_the_page_on_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("mytraining.py", run_name="__main__")
    reason, predicted = capsys.readouterr().out.splitlines()
    assert reason.startswith("callback StopWhenGood asked to stop 0.9")
    assert re.match(r"\[[0-9]( [0-9]){4}\] \[", predicted)
