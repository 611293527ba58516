"""What is sent with a job: the user's code and YAML, no secrets, nothing that git ignores, nothing too large."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trivium.config.errors import ConfigError
from trivium.on_ray import package
from trivium.on_ray.package import collect, copy_trivium


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")


FILES = ("mynet.py", "own/conf/model/mynet.yaml", "own/__init__.py")
OTHERS = ("notes.txt", "data.npy", "own/__pycache__/a.pyc")


def test_code_and_yaml_are_sent_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, *FILES, *OTHERS, ".hidden/a.py", "env/lib/b.py", "runs/a/model.py")
    write(tmp_path, "env/pyvenv.cfg", "runs/a/metrics.jsonl")
    sent = collect(tmp_path)
    assert [str(file) for file in sent.files] == sorted(FILES)
    assert sent.withheld == []
    sent.copy(tmp_path / "copy")
    assert (tmp_path / "copy/own/conf/model/mynet.yaml").read_text() == "x = 1\n"


def test_what_git_ignores_is_not_sent(tmp_path: Path) -> None:
    write(tmp_path, *FILES, *OTHERS, "generated.py", "out/result.yaml")
    (tmp_path / ".gitignore").write_text("generated.py\nout/\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert [str(file) for file in collect(tmp_path).files] == sorted(FILES)


@pytest.mark.parametrize("name", ["aws_credentials.yaml", "my_secret.py", ".env.yaml", "credentials.toml"])
def test_files_named_like_secrets_are_withheld(tmp_path: Path, name: str) -> None:
    write(tmp_path, "mynet.py", name)
    sent = collect(tmp_path)
    assert [str(file) for file in sent.files] == ["mynet.py"]
    assert [str(file) for file in sent.withheld] == [name]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside.py", "project/mynet.py")
    (tmp_path / "project/linked.py").symlink_to(tmp_path / "outside.py")
    assert [str(file) for file in collect(tmp_path / "project").files] == ["mynet.py"]


def test_too_large_a_package_is_refused_by_its_largest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "small.py", "large.py")
    (tmp_path / "large.py").write_text("#" * 2000)
    monkeypatch.setattr(package, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"the largest is large\.py"):
        collect(tmp_path)


def test_the_copy_of_trivium_is_importable_and_whole(tmp_path: Path) -> None:
    copy_trivium(tmp_path)
    code = "import trivium, trivium.configs, trivium.agents.ppo, trivium.cli.job; print(trivium.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "trivium/__init__.py"), done.stderr
    assert (tmp_path / "trivium/configs/experiment/mlp_digits.yaml").is_file()
