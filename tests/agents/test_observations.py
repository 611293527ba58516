from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from trivium.agents.observations import Layout, with_mask
from trivium.learner import UserCodeError

NESTED = Dict(
    {
        "image": Box(0, 255, (3, 5, 1), np.uint8),
        "inner": Dict({"place": Discrete(5, start=-2), "pair": Tuple([Box(-1, 1, (2, 2)), MultiBinary(3)])}),
        "speeds": Box(-1, 1, (3,), np.float64),
        "heads": MultiDiscrete([3, 4], start=[1, 10]),
    }
)


def packed(layout: Layout, *observations: object) -> torch.Tensor:
    return torch.from_numpy(np.stack([layout.pack(obs) for obs in observations]))


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (Box(-1, 1, (2, 3), np.float64), torch.float32),
        (Box(-1, 1, (), np.float32), torch.float32),
        (Box(0, 255, (2, 3), np.uint8), torch.uint8),
        (Box(0, 100, (2,), np.int32), torch.float32),
        (Discrete(4, start=7), torch.int64),
        (MultiDiscrete([2, 3]), torch.int64),
        (MultiBinary(3), torch.float32),
    ],
)
def test_what_is_not_composed_is_a_tensor_of_its_own_shape(space: gym.Space, dtype: torch.dtype) -> None:
    layout = Layout(space)
    space.seed(0)
    raw = [space.sample() for _ in range(5)]
    obs = packed(layout, *raw)
    assert not layout.packed
    assert layout.action_mask(obs) is None
    assert obs.shape == (5, *space.shape)  # type: ignore[misc]
    assert obs.dtype == dtype
    assert layout.unpack(obs, layout.leaves[0]) is obs
    start = 7 if isinstance(space, Discrete) else 0
    np.testing.assert_allclose(obs.numpy() + start, np.stack(raw), rtol=1e-6)


def test_discrete_values_begin_at_0_whatever_the_space_s_start() -> None:
    assert packed(Layout(Discrete(4, start=7)), 7, 10).tolist() == [0, 3]
    assert packed(Layout(MultiDiscrete([3, 4], start=[1, 10])), np.array([1, 13])).tolist() == [[0, 3]]


def test_every_leaf_of_a_nested_observation_comes_back_as_it_was() -> None:
    layout = Layout(NESTED)
    NESTED.seed(0)
    raw = [NESTED.sample() for _ in range(4)]
    obs = packed(layout, *raw)
    assert obs.dtype == torch.uint8
    assert obs.shape == (4, layout.num_bytes)
    leaves = {leaf.name: leaf for leaf in layout.leaves}
    assert set(leaves) == {"image", "inner.place", "inner.pair.0", "inner.pair.1", "speeds", "heads"}
    got = {name: layout.unpack(obs, leaf).numpy() for name, leaf in leaves.items()}
    for i, one in enumerate(raw):
        assert np.array_equal(got["image"][i], one["image"])
        assert got["inner.place"][i] == one["inner"]["place"] + 2
        assert np.array_equal(got["inner.pair.0"][i], one["inner"]["pair"][0])
        assert np.array_equal(got["inner.pair.1"][i], one["inner"]["pair"][1])
        assert np.array_equal(got["speeds"][i], one["speeds"].astype(np.float32))
        assert np.array_equal(got["heads"][i], one["heads"] - [1, 10])
    assert got["image"].dtype == np.uint8, "a byte a pixel"
    assert got["inner.place"].dtype == got["heads"].dtype == np.int64
    assert layout.num_bytes == 8 + 16 + 16 + 12 + 12 + 15 + 1, "8 for the place, ... 15 pixels, and one to be aligned"


def test_leaves_are_aligned_and_do_not_overlap() -> None:
    layout = Layout(NESTED)
    assert layout.num_bytes % 8 == 0
    end = 0
    for leaf in sorted(layout.leaves, key=lambda leaf: leaf.start):
        assert leaf.start == end
        assert leaf.start % leaf.dtype.itemsize == 0
        end = leaf.start + leaf.num_bytes
    assert end <= layout.num_bytes


def test_rows_of_any_selection_can_be_unpacked() -> None:
    """Rollouts and replay buffers flatten, index and slice the packed rows."""
    layout = Layout(Dict({"x": Box(-1, 1, (3,)), "y": Discrete(9)}))
    obs = packed(layout, *({"x": np.full(3, i / 10, np.float32), "y": i} for i in range(8)))
    leaves = {leaf.name: leaf for leaf in layout.leaves}
    for rows in (obs, obs[2:5], obs[torch.tensor([5, 1, 1])], obs.view(2, 4, -1)[:, 1:3].flatten(0, 1), obs[::3]):
        y = layout.unpack(rows, leaves["y"])
        torch.testing.assert_close(layout.unpack(rows, leaves["x"]), (y / 10).unsqueeze(1).expand(-1, 3))


def test_a_mask_is_no_leaf_and_comes_back_as_bool() -> None:
    for space in (
        with_mask(Box(-1, 1, (2,)), 3),
        with_mask(Dict({"x": Box(-1, 1, (2,))}), 3),
        Dict({"x": Box(-1, 1, (2,)), "action_mask": Box(0, 1, (3,), np.int8)}),
    ):
        layout = Layout(space)
        key = layout.leaves[0].name
        assert [leaf.shape for leaf in layout.leaves] == [(2,)]
        x = np.array([0.25, -0.5], np.float32)
        obs = packed(layout, {key: x, "action_mask": [1, 0, 1]}, {key: x, "action_mask": np.array([False, True, True])})
        mask = layout.action_mask(obs)
        assert mask is not None
        assert mask.dtype == torch.bool
        assert mask.tolist() == [[True, False, True], [False, True, True]]
        assert layout.unpack(obs, layout.leaves[0]).tolist() == [x.tolist()] * 2
    inner = Layout(Dict({"inner": Dict({"action_mask": MultiBinary(3)})}))
    assert inner.mask is None, "only at the top"


def test_what_an_env_returned_is_not_kept_by_reference() -> None:
    raw = np.zeros(2, np.float32)
    obs = Layout(Box(-1, 1, (2,))).pack(raw)
    raw[:] = 1
    assert not obs.any()


@pytest.mark.parametrize(
    ("space", "raw", "message"),
    [
        (Box(-1, 1, (2,)), np.zeros(3), r"^it returned an observation of shape \(3,\), its space says \(2,\)"),
        (Box(-1, 1, (2,)), np.array([0, np.nan]), "^it returned an observation with NaN"),
        (NESTED, {**NESTED.sample(), "speeds": np.zeros(2)}, r"^it returned an observation 'speeds' of shape \(2,\)"),
        (Dict({"a": Tuple([Box(-1, 1, (1,))])}), {"a": (np.array([np.nan]),)}, "^it returned an observation 'a.0' wi"),
        (
            Text(3),
            "abc",
            r"^the observation space Text.*: valid are Box, Discrete, MultiDiscrete, MultiBinary, and Dict",
        ),
        (NESTED, {**NESTED.sample(), "inner": {}}, "^it returned an observation without 'inner.place': "),
        (NESTED, np.zeros(3), "^it returned an observation without '"),
        (Box(-1, 1, (2,)), {"x": 1}, "^it returned an observation that is not of Box"),
        (Box(-1, 1, (2,)), [[1], 2], "^it returned an observation that is not of Box"),
        (Dict({"a": Tuple([Text(3)])}), None, r"^the observation space Text"),
    ],
)
def test_what_is_wrong_is_named(space: gym.Space, raw: object, message: str) -> None:
    def taken() -> None:
        layout = Layout(space)
        found = layout.problem(layout.pack(raw)[None])
        assert found is not None
        raise UserCodeError(found[1])

    with pytest.raises(ValueError, match=message):
        taken()


def test_the_problem_of_a_batch_is_that_of_its_first_bad_row() -> None:
    """Of leaves of every kind, in rows that are packed."""
    layout = Layout(NESTED)
    NESTED.seed(1)
    raw = [NESTED.sample() for _ in range(4)]
    assert layout.problem(packed(layout, *raw).numpy()) is None
    for path, value, told in (
        (("speeds",), np.array([0, np.inf, 0]), r"'speeds' with inf: \[0.0, inf, 0.0\]"),
        (("inner", "place"), 3, r"'inner.place' that is not of Discrete\(5, start=-2\): 3"),
        (("heads",), np.array([4, 10]), r"'heads' that is not of MultiDiscrete.*: \[4, 10\]"),
        (("inner", "pair"), (np.full((2, 2), np.nan), np.zeros(3)), r"'inner.pair.0' with NaN: \[\[nan, nan\]"),
        (("inner", "pair"), (np.zeros((2, 2)), np.array([0, 0, 2])), r"'inner.pair.1' that is not of MultiBinary\(3\)"),
    ):
        bad = {**raw[2], "inner": dict(raw[2]["inner"])}
        (bad if len(path) == 1 else bad["inner"])[path[-1]] = value
        found = layout.problem(packed(layout, raw[0], raw[1], bad, bad).numpy())
        assert found is not None
        assert found[0] == 2
        assert re.search(told, found[1])


def test_cast_keeps_what_is_right_and_brings_the_rest_into_the_space_s_dtypes() -> None:
    right = np.zeros((2, 3), np.uint8)
    assert Layout(Box(0, 255, (2, 3), np.uint8)).cast(right) is right
    space = Dict({"a": Box(0, 255, (2,), np.uint8), "b": Tuple([Discrete(3), Box(-1, 1, (1,), np.float32)])})
    got = Layout(space).cast({"a": [1, 2.0], "b": (np.float64(2), [0.5])})
    assert got["a"].dtype == np.uint8
    assert got["b"][0].dtype == np.int64
    assert got["b"][1].dtype == np.float32
    assert space.contains({**got, "b": (int(got["b"][0]), got["b"][1])})
