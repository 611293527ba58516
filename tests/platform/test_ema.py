from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from trivium.ema import Average


def module(weight: float) -> nn.Module:
    made = nn.BatchNorm1d(1)
    with torch.no_grad():
        made.weight.fill_(weight)
    return made


def test_the_average_follows_by_hand() -> None:
    net = module(0.0)
    average = Average(net, decay=0.5)
    for weight in (1.0, 3.0):
        nn.init.constant_(net.weight, weight)
        net.running_mean.fill_(weight)  # type: ignore[union-attr, operator]
        net.num_batches_tracked.add_(1)  # type: ignore[union-attr, operator]
        average.update()
    # d_1 = 2 / 11, d_2 = 3 / 12
    expected = 0.25 * (9 / 11) + 0.75 * 3
    with average.applied():
        assert net.weight.item() == pytest.approx(expected)
        assert net.running_mean.item() == pytest.approx(expected)  # type: ignore[union-attr, operator]
        assert net.num_batches_tracked.item() == 2  # type: ignore[union-attr, operator]
    assert net.weight.item() == 3.0
    for _ in range(100):
        average.update()
    nn.init.constant_(net.weight, 5.0)
    average.update()  # by now d = 0.5
    with average.applied():
        assert net.weight.item() == pytest.approx(4.0, abs=1e-3)


def test_weights_come_back_after_an_error_and_through_the_state() -> None:
    net = module(1.0)
    average, other = Average(net, decay=0.9), Average(module(7.0), decay=0.9)
    nn.init.constant_(net.weight, 2.0)
    with contextlib.suppress(KeyError), average.applied():
        assert net.weight.item() == 1.0
        raise KeyError
    assert net.weight.item() == 2.0
    average.update()
    other.load_state_dict(average.state_dict())
    assert other.updates == 1
    assert all(map(torch.equal, other._averages, average._averages))


@pytest.mark.parametrize(("decay", "every"), [(0.0, 1), (1.0, 1), (0.5, 0)])
def test_impossible_settings_are_refused(decay: float, every: int) -> None:
    with pytest.raises(ValueError, match=f"decay={decay}"):
        Average(nn.Linear(1, 1), decay=decay, every=every)
