"""`trivium anomaly`: say how unlike its training's an autoencoder finds the user's images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trivium.cli.on_images import TABLE, accepts_images, on_images, read, write_table

HELP = "score images by how badly an autoencoder restores them"
DEFAULT = "anomalies.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    accepts_images(parser, out=TABLE, default=DEFAULT)
    parser.add_argument(
        "--anomalies",
        type=os.path.expanduser,
        metavar="PATH",
        help="images that are known to be anomalies, when those of PATH are known not to be: adds the ROC-AUC",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Score; returns the run, the checkpoint and the file, a table with `file` and `score`, the mean squared error of a
    pixel, largest first; with `--anomalies` also `anomaly` and the ROC-AUC, the probability that an anomaly scores
    higher than another image."""

    def use(model: Any, path: Path, out: Path) -> dict[str, Any]:
        import pandas as pd

        def scored(place: Path) -> Any:
            rows, images = read(model, place)
            return rows.assign(score=model.anomaly(images))

        table, added = scored(path), {}
        if options.anomalies:
            from sklearn.metrics import roc_auc_score

            known = Path(options.anomalies)
            if not known.exists():
                raise ValueError(f"--anomalies {known}: there is no such file or folder")
            table = pd.concat([table.assign(anomaly=False), scored(known).assign(anomaly=True)])
            added = {"roc_auc": float(roc_auc_score(table["anomaly"], table["score"]))}
        files = write_table(table.sort_values("score", ascending=False, kind="stable"), out)
        return {"images": len(table), **added, "files": files}

    return on_images(options, "reconstruct", DEFAULT, use)
