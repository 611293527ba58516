"""docs/house.md shows the source as it is."""

from __future__ import annotations

import re

from test_house import ROOT, ROWS, modules

HOUSE = (ROOT / "docs" / "house.md").read_text()


def test_the_page_shows_every_room_with_a_line() -> None:
    """In the tree: every folder with Python files, and every file of the platform outside one."""
    tree = HOUSE.split("```")[1]
    shown: list[str] = []
    for line in filter(str.strip, tree.splitlines()):
        name, _, what = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        assert what.strip(), f"{name} has no line"
        shown = [*shown[:depth], name.rstrip("/")]
        path = ROOT / "/".join(shown)
        assert path.exists(), path
    rooms = {path.parent for path in modules().values()} - {ROOT / "platform" / "trivium"}
    rooms |= {path for path in modules().values() if path.parent.name == "trivium" and path.stem[0] != "_"}
    missing = [str(room) for room in rooms if not re.search(rf"^ *{room.name}/? ", tree, re.MULTILINE)]
    assert missing == []


def test_the_page_has_the_directions_of_imports() -> None:
    names = {name for row in ROWS for name in row}
    (block,) = [block for block in HOUSE.split("```") if "launch >" in block]
    rows = [tuple(name.strip() for name in row.split(",")) for row in " ".join(block.split()).split(">")]
    assert rows == list(ROWS)
    rooms = {path.stem for path in (ROOT / "platform" / "trivium").iterdir() if path.name[0] != "_"} - {"py"}
    assert names == rooms, "a new room belongs into ROWS"
