"""What a Python caller hands over, and what `trivium.load` gives back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from states import same_bits, through_a_file
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import trivium
from trivium.config.errors import ConfigError
from trivium.declared import state_dict
from trivium.python.arrays import as_splits
from trivium.python.values import as_texts
from trivium.tracking.tracker import read_rows

SHORT = {
    "budget.epochs": None,
    "budget.updates": 12,
    "evaluation.every_updates": 6,
    "checkpoint.every_updates": 6,
    "tracking.wandb": False,
    "threads": 1,
}


def digit_arrays() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return (digits.images / 16)[:, None], digits.target


def notebook_class() -> type[nn.Module]:
    """A class as a notebook has it: no module holds it."""

    class MyNet(nn.Module):
        def __init__(self, *, input_shape: tuple[int, ...], num_outputs: int) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), num_outputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    return MyNet


class Importable(nn.Module):
    def __init__(self, *, input_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), num_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((3,), float(i)), i % 2


def test_texts_of_overrides() -> None:
    typed = ["seed=1", {"a.b": 1e-3, "c": None, "d": True, "e": "it's", "f": [1, 2], "g": {"h": "x"}, "i": "true"}]
    assert as_texts(typed) == [
        "seed=1",
        "a.b=0.001",
        "c=null",
        "d=true",
        "e='it\\'s'",
        "f=[1,2]",
        "g={h: x}",
        "i='true'",
    ]
    with pytest.raises(ConfigError, match="a: a object can't stand in a config"):
        as_texts([{"a": object()}])


def test_a_class_and_arrays_are_trained_and_resumed_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = notebook_class(), digit_arrays()
    whole = trivium.train("experiment=mlp_digits", SHORT, dir=tmp_path / "whole", model=model, data=data, quiet=True)
    assert isinstance(whole.learner.model, model)  # type: ignore[attr-defined]
    said = capsys.readouterr().out
    trivium.train("experiment=mlp_digits", SHORT, {"budget.updates": 6}, dir=tmp_path / "half", model=model, data=data)
    said = "".join(capsys.readouterr())
    assert "model: test_python.notebook_class.<locals>.MyNet is not in the run folder" in said
    with pytest.raises(ConfigError) as asked:
        trivium.resume(tmp_path / "half", {"budget.updates": 12}, quiet=True)
    assert [line.partition(":")[0] for line in asked.value.errors] == ["model", "data"]
    assert "MyNet" in asked.value.errors[0]
    resumed = trivium.resume(tmp_path / "half", {"budget.updates": 12}, model=model, data=data, quiet=True)
    assert same_bits(through_a_file(state_dict(resumed.learner)), through_a_file(state_dict(whole.learner)))
    finished = trivium.resume(tmp_path / "half", model=model, data=data, quiet=True)
    assert finished.learner.evaluate(final=True)["accuracy"] == resumed.metrics["test/accuracy"]
    assert trivium.evaluate(tmp_path / "half", model=model, data=data)["metrics"] == {
        name: value for name, value in resumed.metrics.items() if name.startswith("test/")
    }


def test_a_class_of_a_module_is_named_in_the_config(tmp_path: Path) -> None:
    trivium.train("experiment=mlp_digits", SHORT, dir=tmp_path / "run", model=Importable, quiet=True)
    assert "_target_: test_python.Importable" in (tmp_path / "run" / "config.yaml").read_text()
    resumed = trivium.resume(tmp_path / "run", {"budget.updates": 14}, model=Importable, quiet=True)
    assert resumed.updates == 14
    with pytest.raises(ConfigError, match="model: this run builds its own"):
        trivium.resume(tmp_path / "run", {"budget.updates": 16}, model=notebook_class(), quiet=True)


def test_an_instance_is_copied(tmp_path: Path) -> None:
    mine = Importable(input_shape=(1, 8, 8), num_outputs=10)
    before = through_a_file(mine.state_dict())
    result = trivium.train("experiment=mlp_digits", SHORT, dir=tmp_path / "run", model=mine, quiet=True)
    assert same_bits(dict(mine.state_dict()), before)
    assert not same_bits(dict(result.learner.model.state_dict()), before)  # type: ignore[attr-defined]


def test_what_can_not_be_a_model_or_an_env_or_data_is_said() -> None:
    for objects, said in (
        ({"model": 3}, "model: must be a class"),
        ({"env": 3}, "env: must be a class"),
        ({"data": "text"}, "data: must be arrays"),
        ({"data": (np.zeros(3), np.zeros(4))}, "data: x has 3 rows and y 4"),
    ):
        with pytest.raises(ConfigError, match=said):
            trivium.train("experiment=mlp_digits", SHORT, quiet=True, **objects)  # type: ignore[arg-type]


def test_callbacks_stop_a_run_and_see_its_rows(tmp_path: Path) -> None:
    class Stop(trivium.Callback):
        def on_evaluation(self, values: Any, step: int) -> bool:
            return values["eval/accuracy"] > 0.0

    result = trivium.train("experiment=mlp_digits", SHORT, dir=tmp_path / "run", callbacks=[Stop()], quiet=True)
    assert (result.updates, result.reason) == (6, "callback Stop asked to stop")
    assert "test/accuracy" in read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert trivium.resume(tmp_path / "run", {"log.every_updates": 50}, quiet=True).updates == 12


def test_on_ray_objects_and_callbacks_are_refused(tmp_path: Path) -> None:
    ray = {**SHORT, "launch.workers": 1}
    with pytest.raises(ConfigError, match="model: an object that only this process has"):
        trivium.train(
            "experiment=mlp_digits", "launch=ray", ray, dir=tmp_path / "a", model=notebook_class(), quiet=True
        )
    with pytest.raises(ConfigError, match="callbacks"):
        trivium.train("experiment=mlp_digits", "launch=ray", ray, dir=tmp_path / "b", callbacks=[trivium.Callback()])


@pytest.mark.parametrize(
    ("given", "task", "dtypes"),
    [
        ((np.zeros((40, 3)), np.arange(40) % 2), "classification", (torch.float32, torch.int64)),
        ((np.zeros((40, 3)), np.arange(40) / 2), "regression", (torch.float32, torch.float32)),
        (Pairs(), "classification", (torch.float32, torch.int64)),
        (TensorDataset(torch.zeros(40, 3), torch.arange(40) % 2), "classification", (torch.float32, torch.int64)),
        ((np.full((40, 1, 2, 2), 255, np.uint8), np.arange(40) % 2), "classification", (torch.float32, torch.int64)),
    ],
)
def test_arrays_and_datasets_become_sources(given: Any, task: str, dtypes: tuple[torch.dtype, ...]) -> None:
    splits = as_splits(given)
    assert splits.signature.task == task
    assert [len(split) for split in splits[:3]] == [28, 4, 8]
    row = splits.train.batch(torch.tensor([0]))
    assert (row["x"].dtype, row["y"].dtype) == dtypes
    assert row["x"].max() <= 39
    parts: Any = {name: getattr(splits, name).columns for name in ("train", "val", "test")}
    again = as_splits({name: (columns["x"], columns["y"]) for name, columns in parts.items()})
    assert (again.signature.task, len(again.test)) == (task, 8)


# ----------------------------------------------------------------------------------------------- load


def test_a_trained_classifier_predicts_without_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trivium.train("experiment=mlp_digits", SHORT, {"data.normalize": True}, dir=tmp_path / "run", quiet=True)
    learner: Any = run.learner
    batch = learner.data.test.batch(torch.arange(50))
    with torch.no_grad():
        expected = learner.model.eval()(batch["x"]).softmax(1).numpy()
    monkeypatch.setattr("trivium.data.digits.digits", lambda **_: pytest.fail("the data were read"))
    model = trivium.load(tmp_path / "run", checkpoint=run.checkpoint)
    assert model.abilities == ("predict",)
    mean, std = (model.signature.preparation[name][0] for name in ("mean", "std"))  # type: ignore[union-attr]
    raw = np.round((batch["x"].numpy() * std + mean) * 255).astype(np.uint8)
    predicted = model.predict(raw)
    assert predicted["classes"].shape == (50,)
    np.testing.assert_allclose(predicted["scores"], expected, atol=0.02)
    assert (predicted["classes"] == expected.argmax(1)).mean() > 0.95
    with pytest.raises(ValueError, match=r"x must be \[n, 1, 8, 8\]; is \[3, 8, 8\]"):
        model.predict(raw[:3, 0])
    with pytest.raises(TypeError, match="a Supervised can't sample; it can predict"):
        model.sample(3)


def test_a_trained_vae_samples_and_reconstructs(tmp_path: Path) -> None:
    trivium.train("experiment=vae_digits", SHORT, {"model.hidden": [16]}, dir=tmp_path / "run", quiet=True)
    model = trivium.load(tmp_path / "run")
    assert model.abilities == ("sample", "interpolate", "reconstruct", "encode")
    samples = model.sample(4, seed=3)
    assert samples.shape == (4, 1, 8, 8)
    assert np.array_equal(samples, trivium.load(tmp_path / "run").sample(4, seed=3))
    assert not np.array_equal(samples, model.sample(4, seed=4))
    assert model.reconstruct(samples).shape == samples.shape


def test_a_run_of_an_object_is_loaded_with_it(tmp_path: Path) -> None:
    model, data = notebook_class(), digit_arrays()
    trivium.train("experiment=mlp_digits", SHORT, dir=tmp_path / "run", model=model, data=data, quiet=True)
    with pytest.raises(ConfigError, match="model: this run was given"):
        trivium.load(tmp_path / "run")
    assert trivium.load(tmp_path / "run", model=model).predict(data[0][:5])["classes"].shape == (5,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["data"]["columns"]["x"].update(shape=[10**9]), "is not believed"),
        (lambda content: content["data"]["columns"]["x"].update(dtype="object"), "columns"),
        (lambda content: content["data"].update(rows={"train": -1, "val": 1, "test": 1}), "rows"),
        (lambda content: content.update(data=[]), "data"),
        (lambda content: content["data"]["preparation"].update(mean=["a"]), "mean and std of each channel"),
        (lambda content: content["data"]["preparation"].update(kind="table"), "data.preparation.numbers is missing"),
        (
            lambda content: content["data"].update(
                preparation={"kind": "table", "numbers": {}, "categories": {"a": 1}}
            ),
            "data.preparation.categories",
        ),
        (lambda content: content["data"]["offers"].update(input_shape="1x8x8"), "data.offers.input_shape"),
    ],
)
def test_a_strangers_signature_is_checked(tmp_path: Path, change: Any, said: str) -> None:
    folder = tmp_path / "run"
    trivium.train("experiment=mlp_digits", SHORT, dir=folder, quiet=True)
    content = json.loads((folder / "signature.json").read_text())
    change(content)
    (folder / "signature.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=said):
        trivium.load(folder)
    (folder / "signature.json").unlink()
    with pytest.raises(ConfigError, match=r"has no signature\.json"):
        trivium.load(folder)
