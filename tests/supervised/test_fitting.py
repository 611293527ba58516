"""What is wrong with a user's model or data set is reported before the run, in one line that names it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import misfits
import pytest
import torch
from torch import nn

from trivium import cli
from trivium.config.composing import compose
from trivium.config.errors import Config, ConfigError
from trivium.learner import Run
from trivium.run_folder.task import Task
from trivium.supervised.learner import Supervised
from trivium.training import worker


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["learner=classifier", "model=mlp", "data=digits", "learner.batch_size=4", "budget.updates=1"])


def refused(config: Config, *, model: str = "Net", data: str = "good") -> str:
    """The line that says what is wrong with one of `misfits`."""
    node = {"_target_": f"misfits.{model}", "_partial_": True}
    mine = {**config, "model": node, "data": {"_target_": "misfits.data", "kind": data}}
    with pytest.raises(ConfigError) as refusal:
        worker.make_learner(Task(mine, Path("run")), worker.make_run(mine, None))
    (line,) = refusal.value.errors
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("Wide", r"Wide returns the shape \[2, 6\]; must be float \[2, 3\]"),
        (
            "WrongInput",
            r"WrongInput fails on x of the shape \[2, 2, 3\] \(float32\): RuntimeError: .*cannot be multipl",
        ),
        ("Pair", r"Pair returns a tuple; must be float \[2, 3\]"),
        ("PairInTraining", r"PairInTraining returns a tuple in training, of which item 1 is the shape \[2, 2, 3\]"),
        ("AuxiliaryInEvaluation", r"AuxiliaryInEvaluation returns a tuple; must be float \[2, 3\]"),
        ("FailsInEvaluation", "FailsInEvaluation fails on .*: KeyError: 'cache'"),
        ("Nothing", "Nothing returns None"),
        ("Classes", r"Classes returns the shape \[2\]"),
        ("Averaged", r"Averaged returns the shape \[3\]"),
        ("Detached", "Detached returns what no gradient flows back from"),
        ("Frozen", "Frozen has no parameter that can be trained"),
        ("Unfinished", "Unfinished fails on .*: NotImplementedError"),
        ("Broken", "Broken can't be made: AttributeError"),
        ("Demanding", "Demanding needs a value for depth; the data offers input_shape, num_outputs, class_names"),
        ("function", "must be a torch.nn.Module; is function"),
    ],
)
def test_a_models_mistake_is_told_with_its_class(config: Config, model: str, what: str) -> None:
    line = refused(config, model=model)
    assert re.match(f"model: {what}", line), line
    assert line.endswith(f"(misfits.{model})")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("label_out_of_range", r"test's y holds 3 in row 5; must be in \[0, 3\)"),
        ("label_negative", r"train's y holds -1 in row 5; must be in \[0, 3\)"),
        ("label_float", r"train's y is float32 \[8\]; must be int64 \[8\]"),
        ("label_int32", "train's y is int32"),
        ("label_one_hot", r"train's y is int64 \[8, 8\]; must be int64 \[8\]"),
        ("no_label", "train's columns are x; there must be y"),
        ("float64", "x is float64, which Net does not accept; it accepts float32"),
        ("bytes", "x is uint8, which Net does not accept; it accepts float32"),
        ("other_dtype", "val has the columns x float64 .*; train has x float32"),
        ("other_shape", r"val's x has rows of the shape \[2, 4\]; the signature offers input_shape=\[2, 3\]"),
        ("lengths", "the columns of a source must be of one length: .*8.*7"),
        ("lengths_of_a_source", r"train.batch must return columns as long as the index, 1; it returns {'y': \[9\]}"),
        ("array", "the column x of a source must be a tensor of rows; it is numpy.ndarray"),
        ("nan", "val's x holds NaN or infinity, first in row 5"),
        ("infinity", "train's x holds NaN or infinity, first in row 0"),
        ("empty", "val has no rows"),
        ("torch_dataset", "must be trivium.data.source.Splits, .*; is .*TensorDataset, a torch Dataset"),
        ("torch_dataset_inside", "train must be a source of rows.*; is .*TensorDataset, a torch Dataset"),
        ("dict", "must be trivium.data.source.Splits, .*; is dict"),
        ("nothing", "must be trivium.data.source.Splits, .*; is None"),
        ("tuple", "must be trivium.data.source.Splits, .*; is tuple"),
        ("raises", r"'labels' \(KeyError; --trace shows where\)"),
        ("no_file", r".*No such file.*nowhere/data.csv' \(FileNotFoundError; --trace shows where\)"),
        ("source_fails", "train.batch fails: KeyError: 'x'"),
        ("batch_of_pairs", "train.batch must return a dict of tensors; it returns tuple"),
        ("no_signature", "the signature must be trivium.data.source.Signature; is dict"),
        ("inputs_elsewhere", "the signature's inputs are image; the columns are x, y"),
        ("names", "the signature offers 2 class_names for num_outputs=3"),
    ],
)
def test_datas_mistake_is_told_with_the_function_that_made_it(config: Config, data: str, what: str) -> None:
    line = refused(config, data=data)
    assert re.match(f"data: {what}", line), line
    assert line.endswith("(misfits.data)")


def test_what_the_data_does_not_offer_is_named(config: Config) -> None:
    assert re.search("Classification needs a value for num_outputs, class_names", refused(config, data="no_offers"))


def test_the_command_says_one_line_without_a_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wide.yaml").write_text("# W.\n_target_: misfits.Wide\n_partial_: true\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("# M.\n_target_: misfits.data\nkind: good\n")
    typed = ["learner=classifier", "model=wide", "data=mine", "learner.batch_size=4", "budget.updates=1"]
    assert cli.main(["train", *typed, "--config-dir", str(tmp_path), "--dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trivium: error: model: Wide returns")
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------- what is right


class Tokens(nn.Module):
    """Takes integers, and draws from all generators."""

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, num_outputs)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.drop(self.embed(x)).mean(1)
        return y


class Lazy(nn.Module):
    """Knows its input's size from the first forward pass, and keeps running statistics."""

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5), nn.Linear(5, num_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


def build(model: Callable[..., nn.Module], **data: Any) -> Supervised:
    splits = misfits._splits(**data)
    optimizer = functools.partial(torch.optim.AdamW, fused=True)
    return Supervised(run=Run(), data=splits, model=model, optimizer=optimizer, batch_size=4, lr=0.1)


def test_trying_a_model_leaves_no_trace() -> None:
    built = []

    def make(*, num_outputs: int) -> nn.Module:
        built.append(
            (torch.get_rng_state(), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)))
        )
        return built[0][1]

    torch.manual_seed(3)
    learner = build(make)
    torch.set_rng_state(built[0][0])
    nn.Linear(6, 3)  # what making it drew
    expected = torch.rand(4)
    torch.manual_seed(3)
    build(lambda *, num_outputs: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)))
    assert torch.equal(torch.rand(4), expected)
    norm: Any = built[0][1][1]
    assert (norm.num_batches_tracked, norm.running_mean.tolist(), norm.running_var.tolist()) == (
        0,
        [0.0] * 6,
        [1.0] * 6,
    )
    assert all(part.training for part in learner.model.modules())
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_a_lazy_model_is_made_before_its_optimizer() -> None:
    learner = build(Lazy)
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    learner.step()
    after = dict(learner.model.named_parameters())
    assert not torch.equal(after["layers.1.weight"], before["layers.1.weight"])
    assert learner.model.layers[2].num_batches_tracked == 1  # type: ignore[index, union-attr]


def test_auxiliary_outputs_are_for_a_task_that_takes_them() -> None:
    assert build(misfits.Auxiliary).step()["loss"].isfinite()
    source = misfits._source(y=torch.rand(8, 3))
    offers = {"num_outputs": 3, "target_names": tuple("abc"), "target_mean": [0.0] * 3, "target_std": [1.0] * 3}
    signature = misfits.Signature("regression", offers=offers)
    with pytest.raises(ValueError, match=r"model: Auxiliary returns a tuple; must be float \[2, 3\]"):
        build(misfits.Auxiliary, train=source, val=source, test=source, signature=signature)


def test_inputs_that_are_integers_are_right_for_a_model_that_takes_them() -> None:
    signature = misfits.Signature("classification", offers={"num_outputs": 3, "class_names": tuple("abc")})
    source = misfits._source(x=torch.arange(32).view(8, 4) % 10)
    assert build(Tokens, train=source, val=source, test=source, signature=signature).step()["loss"].isfinite()


def test_a_source_whose_rows_are_not_in_memory_is_looked_at() -> None:
    right = misfits._source()
    rows = misfits.Rows(right.batch)
    assert build(misfits.Net, train=rows, val=rows, test=rows).step()["loss"].isfinite()
    wrong = misfits._source(y=torch.full((8,), 7))
    with pytest.raises(ValueError, match="data: test's y holds 7 in row 0"):
        build(misfits.Net, test=misfits.Rows(wrong.batch))
