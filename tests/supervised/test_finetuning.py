from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from states import same_bits, through_a_file
from torch import nn

from trivium.data.digits import digits
from trivium.data.source import Splits
from trivium.declared import load_state_dict, state_dict
from trivium.learner import Run
from trivium.supervised.finetuning import begin_from, freeze, parameter_groups
from trivium.supervised.learner import Supervised
from trivium.supervised.models.mlp import MLP


def net(num_outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, num_outputs))


def test_weights_of_the_same_name_and_shape_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = net(7), net(3)
    save_file(old.state_dict(), tmp_path / "old.safetensors")
    head = new[2].weight.detach().clone()
    begin_from(new, str(tmp_path / "old.safetensors"))
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, head)
    assert "2.weight, 2.bias" in caplog.text
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"begin_from=.*old\.safetensors: none of its weights"):
        begin_from(other, str(tmp_path / "old.safetensors"))


def test_groups_by_decay_and_rate() -> None:
    model = net()
    freeze(model, ["0.bias"])
    groups = parameter_groups(model, decay_norms=False, lr_scales={"0.*": 0.1, "2.*": 0.5}, unfreeze={})
    names = {id(p): name for name, p in model.named_parameters()}
    found = [([names[id(p)] for p in g["params"]], g["lr_scale"], g.get("weight_decay")) for g in groups]
    assert found == [
        (["1.weight", "1.bias"], 1.0, 0.0),
        (["2.weight"], 0.5, None),
        (["2.bias"], 0.5, 0.0),
        (["0.weight"], 0.1, None),
    ]
    with pytest.raises(ValueError, match=r"freeze: 3\.\* fits no parameter; there are "):
        freeze(model, ["3.*"])
    with pytest.raises(ValueError, match="leaves no parameter"):
        freeze(net(), ["*"])


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits(train_per_class=10)


def build(data: Splits, **keywords: Any) -> Supervised:
    torch.manual_seed(1)
    model = functools.partial(MLP, hidden=(16,))
    return Supervised(run=Run(), data=data, model=model, optimizer=torch.optim.SGD, lr=0.5, batch_size=20, **keywords)


def saved_run(folder: Path, learner: Supervised) -> str:
    (folder / "checkpoints" / "best").mkdir(parents=True)
    torch.save({"learner": state_dict(learner)}, folder / "checkpoints" / "best" / "rank-0.pt")
    return str(folder)


def test_a_run_begins_from_another_and_needs_it_only_once(data: Splits, tmp_path: Path) -> None:
    assert len(data.train) == 100
    first = build(data, ema=0.5)
    for _ in range(5):
        first.step()
    path = saved_run(tmp_path / "run", first)
    tuned = build(data, begin_from=path)
    assert tuned.evaluate() == first.evaluate(), "the averaged weights, which are what was evaluated"
    tuned.step()
    gone = build(data, begin_from=str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"begin_from=.*gone: there is no such file"):
        gone.step()
    load_state_dict(gone, through_a_file(state_dict(tuned)))
    assert same_bits(gone.step(), tuned.step())


def test_frozen_parameters_stay_and_others_learn_at_their_rate(data: Splits) -> None:
    plain, tuned = build(data), build(data, freeze=["*.1.weight"], lr_scales={"*bias": 0.1})
    before = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    plain.step(), tuned.step()
    frozen = 0
    for (name, own), other in zip(plain.model.named_parameters(), tuned.model.parameters(), strict=True):
        change, expected = other - before[name], own - before[name]
        if name.endswith("1.weight"):
            frozen += 1
            assert not change.any()
        else:
            torch.testing.assert_close(change, expected * (0.1 if "bias" in name else 1.0), rtol=1e-3, atol=1e-6)
    assert frozen == 1
