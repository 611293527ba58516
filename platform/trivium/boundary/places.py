"""Where things lie: files of data, runs in buckets."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "TRIVIUM_DATASETS"


def find_data(path: str) -> Path:
    """A file or folder of data: as it is named, or else, if the name is relative, below the folder that the variable
    `TRIVIUM_DATASETS` names. Where there is neither, the path as it is named."""
    place = Path(path).expanduser()
    folder = os.environ.get(VARIABLE)
    if not place.exists() and folder and not place.is_absolute():
        below = Path(folder).expanduser() / place
        return below if below.exists() else place
    return place


def is_bucket(place: str | Path) -> bool:
    """Whether a place is a bucket's URL rather than a folder's path."""
    return "://" in str(place)
