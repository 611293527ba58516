"""The source folder `platform/`, the package list, the wheel, and what must not be in the repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("platform/trivium", "agents", "configs", "generative", "supervised")  # what ships


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_the_standard_librarys_platform_is_found_from_the_root() -> None:
    code = "import uuid, platform; platform.system(); import torch"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_list_is_complete() -> None:
    tools = PYPROJECT["tool"]["setuptools"]
    expected = set()
    for top in FOLDERS:
        name = next(package for package, folder in tools["package-dir"].items() if folder == top)
        for path in (ROOT / top).rglob("*.py"):
            below = path.parent.relative_to(ROOT / top).parts
            expected.add(".".join([name, *below]))
            assert (path.parent / "__init__.py").is_file(), path
    assert sorted(expected) == tools["packages"]
    assert tools["package-data"]["trivium.configs"] == ["**/*.yaml"]


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {path.stem for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert names & sys.stdlib_module_names == set()


def test_no_file_names_this_machine_or_a_registry() -> None:
    # Written so that this file does not match itself.
    machine = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/" + r"\w")
    registry = re.compile(
        "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "download" + r"\.pytorch\.org", "index" + "-url"])
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line) or registry.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_a_wheel_finds_its_configs(tmp_path: Path) -> None:
    # From a copy: a build leaves folders in the source tree.
    source = tmp_path / "source"
    for path in [*tracked(), *(p for f in FOLDERS for p in (ROOT / f).rglob("*") if p.suffix in (".py", ".yaml"))]:
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), "."]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        shipped = set(archive.namelist())
    assert "trivium/py.typed" in shipped
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"trivium/configs/{path.relative_to(ROOT / 'configs').as_posix()}" in shipped

    # -S leaves the editable install out; the other packages are found by their folders.
    site = os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))
    code = (
        "import sys, trivium; from trivium import cli; "
        f"assert trivium.__file__.startswith({str(unpacked)!r}), trivium.__file__; "
        "sys.exit(cli.main(['list', '--json']))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{unpacked}{os.pathsep}{site}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "experiment=mlp_digits" in json.loads(done.stdout.splitlines()[-1])["experiments"]
