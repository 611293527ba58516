from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from trivium.data.scikit_learn import scikit_learn
from trivium.data.source import Source, Splits
from trivium.data.table import from_frame, read_frame, table


def everything(splits: Splits, column: str) -> torch.Tensor:
    parts = [source.batch(torch.arange(len(source)))[column] for source in splits[:3]]
    return torch.cat(parts)


def rows(source: Source) -> dict[str, torch.Tensor]:
    return source.batch(torch.arange(len(source)))


@pytest.fixture
def frame() -> pd.DataFrame:
    n = 40
    return pd.DataFrame(
        {
            "size": [float(i) for i in range(n)],
            "age": [None if i % 10 == 0 else float(i % 7) for i in range(n)],
            "town": [None if i == 3 else ("Ulm", "Bonn", "Kiel")[i % 3] for i in range(n)],
            "owner": [i % 2 == 0 for i in range(n)],
            "price": [100.0 + 3 * i for i in range(n)],
            "kind": [("flat", "house")[i % 2] for i in range(n)],
        }
    )


def saved(frame: pd.DataFrame, folder: Path, suffix: str) -> str:
    path = folder / f"homes{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_become_numbers_and_categories(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    data = table(path=saved(frame, tmp_path, suffix), target="price", ignore=["kind"])
    assert [len(source) for source in data[:3]] == [28, 4, 8]
    assert data.signature.task == "regression"
    assert data.signature.inputs == ("x", "categories")
    # size, age, and whether the age is missing
    assert data.signature.offers["input_shape"] == (3,)
    assert data.signature.offers["cardinalities"] == (4, 3)
    assert data.signature.preparation["categories"] == {"town": ["Bonn", "Kiel", "Ulm"], "owner": ["False", "True"]}
    x, y = everything(data, "x"), everything(data, "y")
    assert sorted(y.flatten().tolist()) == [100.0 + 3 * i for i in range(40)]
    index = ((y.flatten() - 100) / 3).round().long()
    assert (x[:, 2] == (index % 10 == 0)).all()
    assert (x[index % 10 == 0, 1] == 0).all()
    train = rows(data.train)["x"][:, 0]
    assert (train.mean().item(), train.std(correction=0).item()) == pytest.approx((0, 1), abs=1e-5)
    towns = everything(data, "categories")[:, 0]
    assert towns[index == 3].tolist() == [0]
    assert (towns[(index % 3 == 0) & (index != 3)] == 3).all()


def test_classes_are_named_and_stratified(frame: pd.DataFrame, tmp_path: Path) -> None:
    data = table(path=saved(frame, tmp_path, ".csv"), target="kind")
    assert data.signature.task == "classification"
    assert data.signature.offers["class_names"] == ("flat", "house")
    assert [rows(source)["y"].float().mean().item() for source in data[:3]] == [0.5] * 3


@pytest.mark.parametrize(
    ("values", "task", "found", "names"),
    [
        ([3, 1, 10] * 10, "auto", "classification", ("1", "3", "10")),
        (list(range(30)), "auto", "regression", None),
        ([0.5, 1.5, 2.5] * 10, "auto", "regression", None),
        ([3, 1, 10] * 10, "regression", "regression", None),
        ([True, False] * 15, "auto", "classification", ("False", "True")),
    ],
)
def test_the_task_is_inferred_from_the_target_or_said(
    tmp_path: Path, values: list[object], task: str, found: str, names: tuple[str, ...] | None
) -> None:
    frame = pd.DataFrame({"a": range(1, 31), "y": values})
    data = table(path=saved(frame, tmp_path, ".csv"), target="y", task=task)  # type: ignore[arg-type]
    assert data.signature.task == found
    assert data.signature.offers.get("class_names") == names


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"target": "prise"}, "target=prise: .* has no such column; it has size, age"),
        ({"target": "price", "ignore": ["colour"]}, r"ignore=\['colour'\]"),
        ({"target": "price", "path": "nowhere.csv"}, "path=nowhere.csv can't be read as a table: .*No such file"),
    ],
)
def test_mistakes_are_named(frame: pd.DataFrame, tmp_path: Path, keywords: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(**{"path": saved(frame, tmp_path, ".csv"), **keywords})  # type: ignore[arg-type]


def test_a_column_without_values_and_a_class_with_one_row_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column age: all values are missing; leave it out with ignore=\[age\]"):
        table(path=saved(frame.assign(age=float("nan")), tmp_path, ".csv"), target="price")
    frame.loc[0, "kind"] = "castle"
    with pytest.raises(ValueError, match=r"target=kind: each class needs at least 3 rows.*castle"):
        table(path=saved(frame, tmp_path, ".csv"), target="kind")


@pytest.mark.parametrize(
    ("name", "count", "task"),
    [("breast_cancer", 569, "classification"), ("wine", 178, "classification"), ("diabetes", 442, "regression")],
)
def test_tables_that_scikit_learn_ships(name: str, count: int, task: str) -> None:
    data = scikit_learn(name=name)  # type: ignore[arg-type]
    assert sum(len(source) for source in data[:3]) == count
    assert data.signature.task == task
    assert everything(data, "x").isfinite().all()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    frame = pd.DataFrame({"size": range(20), "price": [2.5 * i for i in range(20)]})
    frame.to_csv(tmp_path / "a.csv", index=False, sep=delimiter, encoding="utf-8-sig")
    assert table(path=str(tmp_path / "a.csv"), target="price").signature.offers["input_shape"] == (1,)


def test_what_can_not_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("ort,kind\nK\u00f6ln,a\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv is not in UTF-8"):
        table(path=str(path), target="kind")
    path.write_text("size,kind\n" + "1,a\n" * 9 + "2,rare\n")
    with pytest.raises(ValueError, match=r"fewer has rare \(1\)"):
        table(path=str(path), target="kind")


def test_a_frame_may_name_its_columns_by_numbers() -> None:
    frame = pd.DataFrame({0: range(20), 1: [2.5 * i for i in range(20)], "price": [1.5 * i for i in range(20)]})
    assert from_frame(frame, target="price").signature.offers["input_shape"] == (2,)


def test_a_line_break_in_quotes_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'note,price\r\n"a\r\nb",1.5\r\n')
    assert read_frame(tmp_path / "a.csv")["note"].tolist() == ["a\r\nb"]
