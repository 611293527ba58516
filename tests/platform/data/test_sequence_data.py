"""Data sets of sequences: what their rows hold, and that the splits share nothing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from trivium.data.made_up.adding import adding
from trivium.data.made_up.dates import dates
from trivium.data.made_up.digit_images import digit_pairs, digit_strips
from trivium.data.series import series
from trivium.data.source import UNSCORED, Source
from trivium.data.texts.masked_text import masked_text
from trivium.data.texts.tagged import tagged
from trivium.data.texts.vocabulary import BEGIN, END, PAD


def rows(source: Source) -> dict[str, torch.Tensor]:
    return source.batch(torch.arange(len(source)))


def test_the_target_of_adding_is_the_sum_of_the_marked_numbers() -> None:
    data = adding(num_samples=500, length=11, val_samples=20)
    batch = rows(data.train)
    number, mark = batch["x"].unbind(2)
    torch.testing.assert_close((number * mark).sum(1), batch["y"][:, 0])
    assert mark[:, :5].sum(1).tolist() == mark[:, 5:].sum(1).tolist() == [1.0] * 500
    assert (mark[:, 0].any(), mark[:, 4].any(), mark[:, 5].any(), mark[:, 10].any()) == (True,) * 4


def test_dates_are_written_as_iso_8601() -> None:
    data = dates(num_samples=300, val_samples=50)
    letters = data.signature.preparation["vocabulary"]
    batch = rows(data.train)

    def text(ids: torch.Tensor) -> str:
        return "".join(letters[i] for i in ids.tolist() if i > END)

    assert (batch["target"][:, 0] == BEGIN).all()
    assert (batch["y"][:, -1] == END).all()
    assert torch.equal(batch["target"][:, 1:], batch["y"][:, :-1])
    for source, y in zip(batch["source"], batch["y"], strict=True):
        written, iso = text(source), text(y)
        european = written.count(".") == 2
        assert pd.to_datetime(written, dayfirst=european).strftime("%Y-%m-%d") == iso
    days = [set(map(text, rows(split)["y"])) for split in data[:3]]
    assert not days[0] & (days[1] | days[2])
    assert not days[1] & days[2]


def test_pairs_of_digits_have_one_or_two_labels() -> None:
    batch = rows(digit_pairs(num_samples=200, val_samples=10).train)
    assert batch["x"].shape == (200, 1, 8, 16)
    assert set(batch["y"].sum(1).tolist()) == {1.0, 2.0}


def test_strips_hold_their_digits_in_order_with_gaps() -> None:
    data = digit_strips(num_samples=50, val_samples=5, max_digits=3, max_gap=2)
    batch = rows(data.train)
    assert batch["x"].shape == (50, 30, 8)
    assert batch["y"].shape == (50, 3)
    assert set((batch["y"] > 0).sum(1).tolist()) == {1, 2, 3}
    assert ((batch["y"] > 0).int().diff(dim=1) <= 0).all(), "padding is at the end"
    pixels = batch["x"].sum((1, 2))
    assert pixels[(batch["y"] > 0).sum(1) == 3].mean() > 2 * pixels[(batch["y"] > 0).sum(1) == 1].mean()


def test_each_copy_of_a_text_hides_other_tokens(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij" * 1000)
    data = masked_text(path=str(path), context=20, copies=3, mask_fraction=0.15)
    plain, mask = rows(data.train), data.signature.preparation["mask"]
    assert len(data.train) == 3 * 449
    assert data.signature.offers["vocab_size"] == 11
    assert mask == 10
    x, y = plain["x"], plain["y"]
    scored = y != UNSCORED
    assert (x[~scored] == (torch.arange(20).expand_as(x) % 10)[~scored]).all()
    assert (y[scored] == (torch.arange(20).expand_as(y) % 10)[scored]).all()
    assert scored.float().mean().item() == pytest.approx(0.15, abs=0.01)
    hidden = (x == mask)[scored].float().mean().item()
    shown = (x == y)[scored].float().mean().item()
    assert (hidden, shown) == pytest.approx((0.8, 0.1 + 0.1 / 10), abs=0.02)
    first, second = scored[:449], scored[449:898]
    assert not torch.equal(first, second)
    again = masked_text(path=str(path), context=20, copies=3, mask_fraction=0.15)
    assert torch.equal(rows(again.train)["x"], x)


def test_characters_of_python_are_tagged() -> None:
    data = tagged()
    names, letters = data.signature.offers["class_names"], data.signature.preparation["vocabulary"]
    batch = rows(data.train)
    found, keywords = set(), 0
    for x, y, length in zip(batch["x"][:300], batch["y"][:300], batch["length"][:300], strict=True):
        assert (x[length:] == PAD).all()
        assert (y[length:] == UNSCORED).all()
        assert (y[:length] != UNSCORED).all()
        tags = [names[tag] for tag in y[:length]]
        line = "".join(letters[i] for i in x[:length])
        if line.startswith("return "):  # in code or in a docstring
            assert tags[:7] in (["keyword"] * 6 + ["space"], ["string"] * 7)
            keywords += tags[0] == "keyword"
        found |= set(tags)
    assert found == {"space", "name", "keyword", "number", "string", "comment", "operator"}
    assert keywords > 3


def test_tags_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tags.txt"
    path.write_text("\n".join(f"Anna{i} PROPN x NAME\nruns VERB y OTHER\n" for i in range(10)))
    data = tagged(path=str(path), max_length=3)
    assert data.signature.offers["class_names"] == ("NAME", "OTHER")
    assert [len(source) for source in data[:3]] == [7, 1, 2]
    assert rows(data.train)["y"].tolist() == [[0, 1, UNSCORED]] * 7
    assert rows(data.test)["x"][:, 0].tolist() == [1, 1], "a name that the training split does not hold"
    path.write_text("Anna NAME\nruns\n")
    with pytest.raises(ValueError, match=r"tags\.txt, line 2: 'runs'"):
        tagged(path=str(path))


def test_series_are_split_by_time_and_standardised_by_their_past(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    frame = pd.DataFrame({"day": range(100, 0, -1), "sales": [float(i) for i in range(100, 0, -1)], "shop": "a"})
    frame.to_csv(path, index=False)
    data = series(path=str(path), columns=["sales"], time="day", history=5, horizon=2)
    mean, std = data.signature.offers["target_mean"][0], data.signature.offers["target_std"][0]
    assert mean == pytest.approx(35.5)
    ahead = [(rows(split)["y"][..., 0] * std + mean).round() for split in data[:3]]
    assert [(y.min().item(), y.max().item()) for y in ahead] == [(6, 70), (71, 85), (86, 100)]
    first = (rows(data.val)["x"][0, :, 0] * std + mean).round().tolist()
    assert first == [66, 67, 68, 69, 70]


@pytest.mark.parametrize(
    ("text", "keywords", "message"),
    [
        ("a,b\n1,2\n3,\n5,6\n", {"columns": ["b"]}, r"row 2, column b: the value is missing"),
        ("a,b\n1,2\n", {"columns": ["c"]}, r"has no column c; it has a, b"),
        ("a,b\n1,x\n", {"columns": ["b"]}, r"b of .* does not hold numbers"),
        ("a\n" + "1\n" * 30, {"history": 50}, r"history=50 and horizon=12 do not fit into the training split"),
    ],
)
def test_wrong_series_are_named(tmp_path: Path, text: str, keywords: dict[str, object], message: str) -> None:
    path = tmp_path / "series.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        series(path=str(path), **keywords)  # type: ignore[arg-type]
