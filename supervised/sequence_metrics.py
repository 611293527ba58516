"""Scores of sequences of tokens that were written, against those that should have been.

Shapes: B batch, M and N tokens of the sequences, padded with `PAD` at their ends.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from trivium.data.texts.vocabulary import PAD

LONGEST = 4
"""Tokens of an n-gram that BLEU counts, at most."""


def edit_distance(first_BM: Tensor, second_BN: Tensor) -> Tensor:
    """The least number of tokens to insert, delete or replace (Levenshtein) to make one sequence of the other.

    Args:
        first_BM, second_BN: int64 [B, M] and [B, N], padded with `PAD` at their ends.

    Returns:
        int64 [B].
    """
    batch, n = second_BN.shape
    first_length_B, second_length_B = (first_BM != PAD).sum(1), (second_BN != PAD).sum(1)
    column_N = torch.arange(n + 1, device=second_BN.device)
    row_BN = column_N.expand(batch, -1)
    rows = [row_BN]
    for i in range(int(first_length_B.max())):
        replaced_BN = row_BN[:, :-1] + (first_BM[:, i : i + 1] != second_BN).long()
        reached_BN = torch.cat([row_BN[:, :1] + 1, torch.minimum(replaced_BN, row_BN[:, 1:] + 1)], dim=1)
        # Insertions: the least of all cells to the left, plus the distance to them.
        row_BN = (reached_BN - column_N).cummin(1).values + column_N
        rows.append(row_BN)
    return torch.stack(rows)[first_length_B, torch.arange(batch, device=second_BN.device), second_length_B]


def ngram_counts(written_BM: Tensor, target_BN: Tensor) -> Tensor:
    """What `bleu` is computed from; it adds up over batches and workers.

    Args:
        written_BM, target_BN: int64 [B, M] and [B, N], padded with `PAD` at their ends.

    Returns:
        int64 [2, LONGEST + 1]: for n = 1 to `LONGEST` the n-grams of what was written that are in the target too, each
        as often as there at most, and all of them; in the last column the tokens of the targets and of what was
        written.
    """
    found = torch.zeros(2, LONGEST + 1, dtype=torch.int64)
    for written, target in zip(_unpadded(written_BM), _unpadded(target_BN), strict=True):
        for n in range(1, LONGEST + 1):
            mine, theirs = (Counter(zip(*(row[i:] for i in range(n)), strict=False)) for row in (written, target))
            found[0, n - 1] += (mine & theirs).total()
            found[1, n - 1] += mine.total()
        found[:, LONGEST] += torch.tensor([len(target), len(written)])
    return found


def bleu(counts: Tensor) -> Tensor:
    """BLEU of a corpus (Papineni et al. 2002): the geometric mean of the shares of n-grams that are right, n = 1 to
    `LONGEST`, times exp(1 - tokens of the targets / tokens written) where less was written than there should be.

    n-grams longer than anything written are left out, so that single tokens can be right.

    Args:
        counts: int64 [2, LONGEST + 1], see `ngram_counts`.

    Returns:
        float32 0-d, in [0, 1]; 0 if nothing was written.
    """
    right, all_of = counts[:, :LONGEST].double()
    share = right[all_of > 0] / all_of[all_of > 0]
    wanted, written = counts[:, LONGEST].double()
    if not len(share) or not bool((share > 0).all()):
        return torch.zeros((), device=counts.device)
    score: Tensor = (share.log().mean() + (1 - wanted / written).clamp(max=0)).exp().float()
    return score


def _unpadded(tokens_BT: Tensor) -> list[list[int]]:
    lengths = (tokens_BT != PAD).sum(1).tolist()
    return [row[:length] for row, length in zip(tokens_BT.tolist(), lengths, strict=True)]
