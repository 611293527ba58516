"""Models and data sets that are wrong, each in one way; for tests that load them by name, as a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trivium.data.source import Batch, Signature, Splits, Tensors


class Net(nn.Module):
    """Right, unless a subclass says otherwise."""

    def __init__(self, *, num_outputs: int, width: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.flatten(1))


class Wide(Net):
    def __init__(self, *, num_outputs: int) -> None:
        super().__init__(num_outputs=num_outputs + 3)


class WrongInput(Net):
    def __init__(self, *, num_outputs: int) -> None:
        super().__init__(num_outputs=num_outputs, width=100)


class Pair(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class PairInTraining(Net):
    def forward(self, x: Tensor) -> Any:
        return (super().forward(x), x) if self.training else super().forward(x)


class Auxiliary(Net):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, 2 * logits) if self.training else logits


class AuxiliaryInEvaluation(Net):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return logits, 2 * logits


class FailsInEvaluation(Net):
    def forward(self, x: Tensor) -> Any:
        if not self.training:
            raise KeyError("cache")
        return super().forward(x)


class Nothing(Net):
    def forward(self, x: Tensor) -> Any:
        super().forward(x)


class Classes(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).argmax(1)


class Detached(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


class Averaged(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).mean(0)


class Frozen(Net):
    def __init__(self, *, num_outputs: int) -> None:
        super().__init__(num_outputs=num_outputs)
        self.requires_grad_(False)


class Unfinished(nn.Module):
    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(6, num_outputs)


class Broken(nn.Module):
    def __init__(self, *, num_outputs: int) -> None:
        self.layer = nn.Linear(6, num_outputs)  # before super().__init__()


class Demanding(Net):
    def __init__(self, *, num_outputs: int, depth: int) -> None:
        super().__init__(num_outputs=num_outputs)


def function(*, num_outputs: int) -> Any:
    return lambda x: x


SIGNATURE = Signature("classification", offers={"input_shape": (2, 3), "num_outputs": 3, "class_names": tuple("abc")})


def _source(rows: int = 8, **changed: Any) -> Tensors:
    columns = {"x": torch.linspace(0, 1, rows * 6).view(rows, 2, 3), "y": torch.arange(rows) % 3}
    return Tensors(**(columns | changed))


def _splits(signature: Signature = SIGNATURE, **changed: Any) -> Splits:
    sources = {name: _source() for name in ("train", "val", "test")}
    return Splits(**(sources | changed), signature=signature)


class Rows:
    """A source of the user's own."""

    def __init__(self, batch: Any) -> None:
        self.answer = batch

    def __len__(self) -> int:
        return 8

    def batch(self, index_B: Tensor) -> Batch:
        answer: Batch = self.answer(index_B)
        return answer

    def to(self, device: torch.device) -> Rows:
        return self


DATA: dict[str, Any] = {
    "good": _splits,
    "label_out_of_range": lambda: _splits(test=_source(y=torch.tensor([0, 1, 2, 0, 1, 3, 4, 0]))),
    "label_negative": lambda: _splits(train=_source(y=torch.tensor([0, 1, 2, 0, 1, -1, 2, 0]))),
    "label_float": lambda: _splits(**{n: _source(y=torch.zeros(8)) for n in ("train", "val", "test")}),
    "label_int32": lambda: _splits(**{n: _source(y=torch.zeros(8).int()) for n in ("train", "val", "test")}),
    "label_one_hot": lambda: _splits(**{n: _source(y=torch.eye(8).long()) for n in ("train", "val", "test")}),
    "no_label": lambda: _splits(**{n: Tensors(x=torch.rand(8, 2, 3)) for n in ("train", "val", "test")}),
    "float64": lambda: _splits(**{n: _source(x=torch.rand(8, 2, 3).double()) for n in ("train", "val", "test")}),
    "bytes": lambda: _splits(**{n: _source(x=torch.zeros(8, 2, 3).byte()) for n in ("train", "val", "test")}),
    "other_dtype": lambda: _splits(val=_source(x=torch.rand(8, 2, 3).double())),
    "other_shape": lambda: _splits(val=_source(x=torch.rand(8, 2, 4))),
    "lengths": lambda: _splits(train=Tensors(x=torch.rand(8, 2, 3), y=torch.arange(7))),
    "lengths_of_a_source": lambda: _splits(train=Rows(lambda i: {"x": torch.rand(len(i), 2, 3), "y": torch.zeros(9)})),
    "array": lambda: _splits(train=Tensors(x=torch.rand(8, 2, 3).numpy(), y=torch.arange(8))),  # type: ignore[arg-type]
    "nan": lambda: _splits(val=_source(x=torch.rand(8, 2, 3).index_fill(0, torch.tensor([5]), float("nan")))),
    "infinity": lambda: _splits(train=_source(x=torch.rand(8, 2, 3).index_fill(0, torch.tensor([0]), float("inf")))),
    "empty": lambda: _splits(val=_source(0, x=torch.rand(0, 2, 3))),
    "torch_dataset": lambda: TensorDataset(torch.rand(8, 2, 3), torch.arange(8)),
    "torch_dataset_inside": lambda: _splits(train=TensorDataset(torch.rand(8, 2, 3), torch.arange(8))),
    "dict": lambda: {"train": _source()},
    "nothing": lambda: None,
    "tuple": lambda: (_source(), _source(), _source(), SIGNATURE),
    "raises": lambda: {}["labels"],
    "no_file": lambda: Path("/nowhere/data.csv").read_text(),
    "source_fails": lambda: _splits(train=Rows(lambda i: {}["x"])),
    "batch_of_pairs": lambda: _splits(train=Rows(lambda i: (torch.rand(len(i), 6), i))),
    "no_signature": lambda: _splits(signature={"task": "classification"}),  # type: ignore[arg-type]
    "inputs_elsewhere": lambda: _splits(Signature("classification", ("image",), SIGNATURE.offers)),
    "names": lambda: _splits(Signature("classification", ("x",), {**SIGNATURE.offers, "class_names": ("a", "b")})),
    "no_offers": lambda: _splits(Signature("classification")),
}


def data(*, kind: str = "good") -> Any:
    return DATA[kind]()
