"""The codebook of VQ-VAE (arXiv:1711.00937): nearest codes, learnt by exponential moving averages (its appendix A.1).

Shapes: B batch, P positions of the code map, N = B * P vectors, K codes, D numbers of a code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5  # of Laplace smoothing: no code is divided by a count of 0
RESTART_BELOW = 1.0  # a code that fewer vectors choose on average per update is replaced

Combine = Callable[[Tensor], Tensor]


class Codebook(nn.Module):
    """K vectors, each of which follows the mean of the vectors that choose it.

    The averages start with the first batch: k-means is approximated by restarts, which replace a code that is hardly
    chosen by a random vector of the batch. All state is in buffers, the same on every worker, because sums are taken
    over the workers and random choices come from one generator.

    Args:
        num_codes: K, at least 2.
        dim: D.
        decay: of the averages per update, in [0, 1).

    Raises:
        ValueError: a number is out of range.
    """

    code_KD: Tensor
    count_K: Tensor
    total_KD: Tensor

    def __init__(self, *, num_codes: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        if num_codes < 2 or dim < 1 or not 0 <= decay < 1:
            raise ValueError(f"num_codes={num_codes} must be at least 2, dim={dim} at least 1, decay={decay} in [0, 1)")
        self.decay = decay
        self.register_buffer("code_KD", torch.zeros(num_codes, dim))
        self.register_buffer("count_K", torch.ones(num_codes))
        self.register_buffer("total_KD", torch.zeros(num_codes, dim))

    def forward(self, x_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise, with the gradient of the output passed to the input unchanged (straight-through).

        Args:
            x_BPD: float [B, P, D].

        Returns:
            The nearest codes, float32 [B, P, D], and their numbers, int64 [B, P].
        """
        x_BPD = x_BPD.float()
        index_BP = nearest(x_BPD.detach().flatten(0, 1), self.code_KD).view(x_BPD.shape[:2])
        return x_BPD + (self.code_KD[index_BP] - x_BPD).detach(), index_BP

    @torch.no_grad()
    def start(self, x_ND: Tensor, pick_K: Tensor) -> None:
        """Begin with vectors of the first batch.

        Args:
            x_ND: float32 [N, D], the same on every worker.
            pick_K: float32 [K] in [0, 1), which of them.
        """
        self.code_KD.copy_(x_ND[(pick_K * len(x_ND)).long()])
        self.total_KD.copy_(self.code_KD)

    @torch.no_grad()
    def update(
        self, x_ND: Tensor, index_N: Tensor, pick_K: Tensor, *, total: Combine, first: Combine
    ) -> tuple[Tensor, Tensor]:
        """Move the averages by one batch and restart codes that are hardly chosen.

        Args:
            x_ND: float32 [N, D], this worker's vectors.
            index_N: int64 [N], the codes that they chose.
            pick_K: float32 [K] in [0, 1), the same on every worker: which vector would replace each code.
            total: sums a tensor over the workers.
            first: the first worker's tensor, on every worker.

        Returns:
            How often each code was chosen, float32 [K], and how many codes were restarted, float32, 0-d.
        """
        chosen_NK = F.one_hot(index_N, len(self.code_KD)).to(x_ND.dtype)
        chosen_K = total(chosen_NK.sum(0))
        self.count_K.lerp_(chosen_K, 1 - self.decay)
        self.total_KD.lerp_(total(chosen_NK.T @ x_ND), 1 - self.decay)
        size = self.count_K.sum()
        smoothed_K = (self.count_K + EPSILON) / (size + len(self.code_KD) * EPSILON) * size
        self.code_KD.copy_(self.total_KD / smoothed_K[:, None])
        dead_K = self.count_K < RESTART_BELOW
        offered_KD = first(x_ND[(pick_K * len(x_ND)).long()])
        self.code_KD.copy_(torch.where(dead_K[:, None], offered_KD, self.code_KD))
        self.count_K.copy_(torch.where(dead_K, torch.ones_like(self.count_K), self.count_K))
        self.total_KD.copy_(torch.where(dead_K[:, None], offered_KD, self.total_KD))
        return chosen_K, dead_K.sum().float()


def nearest(x_ND: Tensor, code_KD: Tensor) -> Tensor:
    """The number of the code with the smallest Euclidean distance to each vector: int64 [N]."""
    # Autocast leaves `cdist` in float32: by a product in bf16, vectors that differ little would share a code.
    return torch.cdist(x_ND, code_KD).argmin(1)


def perplexity(count_K: Tensor) -> Tensor:
    """exp of the entropy of how often the codes are chosen, in [1, K]: how many are in use, if they were equally
    frequent; float32, 0-d."""
    p_K = count_K.float() / count_K.sum()
    return torch.exp(-torch.special.xlogy(p_K, p_K).sum())
