from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.data.batches import Batches
from trivium.learner import Run

SIZES = pytest.mark.parametrize(("num_samples", "batch_size"), [(12, 4), (10, 4), (7, 3), (5, 5), (1, 1), (97, 2)])


def read(batches: Batches, num_batches: int) -> list[int]:
    return [i for _ in range(num_batches) for i in batches.next().tolist()]


@SIZES
def test_every_sample_is_read_once_an_epoch_in_full_batches(num_samples: int, batch_size: int) -> None:
    batches = Batches(num_samples, batch_size, run=Run())
    sizes: set[int] = set()
    stream: list[int] = []
    while len(stream) < 6 * num_samples:
        batch = batches.next()
        assert batch.dtype == torch.int64
        sizes.add(len(batch))
        stream += batch.tolist()
        assert batches.samples == len(stream)
        assert batches.epochs == len(stream) / num_samples
    assert sizes == {batch_size}
    for epoch in range(6):
        assert sorted(stream[epoch * num_samples : (epoch + 1) * num_samples]) == list(range(num_samples))


def test_epochs_are_shuffled_anew_by_the_seed_alone() -> None:
    epochs = [read(Batches(50, 50, run=Run(seed=seed)), 3) for seed in (0, 0, 1)]
    assert epochs[0] == epochs[1]
    orders = [tuple(stream[k : k + 50]) for stream in epochs[1:] for k in (0, 50, 100)]
    assert len({*orders, tuple(range(50))}) == 7
    # The order does not depend on the batch size.
    assert read(Batches(50, 7, run=Run()), 20)[:140] == epochs[0][:140]


def test_neither_uses_nor_moves_the_global_rng() -> None:
    torch.manual_seed(1)
    state, stream = torch.get_rng_state(), read(Batches(20, 5, run=Run()), 9)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert read(Batches(20, 5, run=Run()), 9) == stream


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_slices_of_all_ranks_form_the_batch(world_size: int) -> None:
    whole = Batches(25, 6, run=Run())
    ranks = [Batches(25, 6, run=Run(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for _ in range(20):
        parts = [rank.next() for rank in ranks]
        assert {len(part) for part in parts} == {6 // world_size}
        assert torch.cat(parts).tolist() == whole.next().tolist()
    assert {rank.samples for rank in ranks} == {whole.samples} == {120}


@SIZES
def test_resumes_at_every_position(num_samples: int, batch_size: int) -> None:
    total = 4 * num_samples // batch_size + 4
    expected = read(Batches(num_samples, batch_size, run=Run()), total)
    first = Batches(num_samples, batch_size, run=Run())
    for position in range(total):
        second = Batches(num_samples, batch_size, run=Run())
        read(second, 2)  # whatever it did before is forgotten
        second.load_state_dict(first.state_dict())
        assert second.samples == first.samples
        assert read(second, total - position) == expected[position * batch_size :]
        first.next()


@given(
    more_samples=st.integers(0, 40),
    share=st.integers(1, 15),
    world_size=st.integers(1, 3),
    position=st.integers(0, 12),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_a_resumed_rank_of_any_run_reads_on(
    more_samples: int, share: int, world_size: int, position: int, seed: int
) -> None:
    batch_size, epoch_batches = share * world_size, position + 5
    num_samples = batch_size + more_samples
    whole = read(Batches(num_samples, batch_size, run=Run(seed=seed)), epoch_batches)
    for rank in range(world_size):
        run = Run(seed=seed, rank=rank, world_size=world_size)
        first, second = Batches(num_samples, batch_size, run=run), Batches(num_samples, batch_size, run=run)
        read(first, position)
        second.load_state_dict(first.state_dict())
        for batch in range(position, epoch_batches):
            begin = batch * batch_size + rank * share
            assert second.next().tolist() == whole[begin : begin + share]


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="the data set is empty"):
        Batches(0, 4, run=Run())
    with pytest.raises(ValueError, match="batch_size=0 must be a positive multiple"):
        Batches(4, 0, run=Run())
    with pytest.raises(ValueError, match="batch_size=5 must be a positive multiple of the 2 workers"):
        Batches(8, 5, run=Run(world_size=2))
    with pytest.raises(ValueError, match=r"^batch_size=1001: the training set has 1,000 samples$"):
        Batches(1000, 1001, run=Run())


@pytest.mark.parametrize(("num_samples", "batch_size"), [(12, 4), (10, 4), (7, 3), (5, 5), (1, 1), (1000, 8)])
def test_batches_by_length_hold_every_sample_once_an_epoch(num_samples: int, batch_size: int) -> None:
    lengths = torch.randint(1, 50, (num_samples,), generator=torch.Generator().manual_seed(0))
    batches = Batches(num_samples, batch_size, run=Run(), lengths=lengths)
    stream: list[int] = []
    while len(stream) < 6 * num_samples:
        stream += batches.next().tolist()
    for epoch in range(6):
        assert sorted(stream[epoch * num_samples : (epoch + 1) * num_samples]) == list(range(num_samples))


def test_batches_by_length_need_little_padding_and_do_not_grow_over_an_epoch() -> None:
    lengths = torch.randint(1, 101, (4096,), generator=torch.Generator().manual_seed(0))

    def steps(batches: Batches) -> tuple[int, list[int]]:
        longest = [int(lengths[batches.next()].max()) for _ in range(250)]  # of an epoch of 256: all within one
        return sum(longest) * batches.batch_size, longest

    (shuffled, _), (alike, longest) = (steps(Batches(4096, 16, run=Run(), lengths=of)) for of in (None, lengths))
    needed = int(lengths.sum())
    assert shuffled > 1.7 * needed > 1.6 * alike  # in the mean 94 of 50.5 steps; sorted by length, a few more than 50.5
    half = len(longest) // 2
    assert abs(sum(longest[:half]) - sum(longest[half:])) < 0.2 * sum(longest)


def test_batches_by_length_resume_exactly_and_divide_among_workers() -> None:
    lengths = torch.arange(25) % 7
    whole = Batches(25, 6, run=Run(), lengths=lengths)
    ranks = [Batches(25, 6, run=Run(rank=rank, world_size=2), lengths=lengths) for rank in range(2)]
    for _ in range(20):
        state = whole.state_dict()
        batch = whole.next().tolist()
        assert [i for rank in ranks for i in rank.next().tolist()] == batch
        resumed = Batches(25, 6, run=Run(), lengths=lengths)
        resumed.load_state_dict(state)
        assert resumed.next().tolist() == batch
