"""A task and a model for a data set, and whether the three fit each other: found out once, before the first step.

What is wrong begins with `data: ` or `model: `, by which the builder knows what to name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trivium.borrowed import generators_kept
from trivium.data.checks import SPLITS, rows_of
from trivium.data.source import Batch, Splits, Tensors
from trivium.learner import Run, construct
from trivium.supervised.tasks.task import Task
from trivium.untouched import buffers_kept, evaluating


def fitting_task(make: Callable[..., Task], data: Splits, run: Run) -> Task:
    """The task that is offered what the data's signature offers.

    Raises:
        ValueError: it refuses that, or the targets.
    """
    task: Task = construct(make, **data.signature.offers)
    wrong_target: Callable[[Batch], str | None] = getattr(task, "wrong_target", lambda rows: None)
    for name in SPLITS:
        if problem := wrong_target(rows_of(getattr(data, name), run.device)):
            raise ValueError(f"data: {name}'s {problem}")
    return task


def fitting_model(make: Callable[..., nn.Module], task: Task, data: Splits, run: Run, *, rows: int) -> nn.Module:
    """The model that is offered what the data's signature offers, on the run's device. It is tried on `rows` rows, in
    evaluation and as it is in training, which leaves no trace in it or in the random generators.

    Raises:
        ValueError: it can't be made, fails on the data, or returns what the task can't use.
    """
    model = _made(make, data)
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: must be a torch.nn.Module; is {name}")
    model = model.to(run.device)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model: {name} has no parameter that can be trained")
    with generators_kept(run.device), run.autocast():
        batch = data.train.batch(torch.arange(min(rows, len(data.train)), device=run.device))
        with evaluating(model), torch.no_grad():  # first: a lazy module has no buffers to keep before
            _check_output(_output(model, batch, data), name, task, batch)
        with buffers_kept(model), torch.enable_grad():
            output = _output(model, batch, data)
            if isinstance(output, tuple) and getattr(task, "auxiliary", False):
                for number, part in enumerate(output):
                    _check_output(part, name, task, batch, what=f"a tuple in training, of which item {number} is ")
            else:
                _check_output(output, name, task, batch)
            _check_loss(output, name, task, batch)
    return model


def balancing_weights(data: Splits) -> Tensor:
    """How often each row of the training split is drawn so that every class comes equally often: float32 [n], on the
    CPU.

    Raises:
        ValueError: the rows are not in memory, or have no single class each.
    """
    y = data.train.columns.get("y") if isinstance(data.train, Tensors) else None
    if y is None or y.dtype != torch.int64 or y.ndim != 1:
        raise ValueError("balance=true needs rows in memory with one class each")
    return (1 / y.cpu().bincount().float())[y.cpu()]


def _made(make: Callable[..., Any], data: Splits) -> Any:
    try:
        return construct(make, **data.signature.offers)
    except ValueError as error:
        keyword = str(error).partition("=")[0]
        raise ValueError(f"model{'.' if keyword in getattr(make, 'keywords', {}) else ': '}{error}") from error
    except Exception as error:  # the model may be the user's own
        name = getattr(getattr(make, "func", make), "__name__", "the model")
        raise ValueError(f"model: {name} can't be made: {_line(error)}") from error


def _output(model: nn.Module, batch: Batch, data: Splits) -> Any:
    inputs = {name: batch[name] for name in data.signature.inputs}
    try:
        return model(*inputs.values())
    except Exception as error:
        name, given = type(model).__name__, ", ".join(f"{key} is {_dtype(x)}" for key, x in inputs.items())
        if accepted := _accepted_dtype(model, list(inputs.values())):
            raise ValueError(f"data: {given}, which {name} does not accept; it accepts {accepted}") from error
        shapes = ", ".join(f"{key} of the shape {list(x.shape)} ({_dtype(x)})" for key, x in inputs.items())
        raise ValueError(f"model: {name} fails on {shapes}: {_line(error)}") from error


def _accepted_dtype(model: nn.Module, inputs: list[Tensor]) -> str | None:
    """Of the dtypes that models are written for another than the data's with which the model does not fail."""
    for dtype in (torch.float32, torch.int64):
        if any(x.dtype != dtype for x in inputs):
            with contextlib.suppress(Exception):
                model(*(x.to(dtype) for x in inputs))
                return str(dtype).removeprefix("torch.")
    return None


def _check_output(output: Any, name: str, task: Task, batch: Batch, what: str = "") -> None:
    wrong_output: Callable[[Any, Batch], str | None] = getattr(task, "wrong_output", lambda *_: None)
    if problem := wrong_output(output, batch):
        raise ValueError(f"model: {name} returns {what}{problem}")


def _check_loss(output: Any, name: str, task: Task, batch: Batch) -> None:
    try:
        loss = task.loss(output, batch)
    except Exception as error:
        raise ValueError(f"model: {type(task).__name__} can't use what {name} returns: {_line(error)}") from error
    if not loss.requires_grad:
        raise ValueError(f"model: {name} returns what no gradient flows back from, as after detach or argmax")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
