"""A decoder-only transformer as GPT-2 is (Radford et al. 2019), with learnt or rotary positions.

Shapes: B batch, T time, D features, N heads, H features of a head, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne

Positions = Literal["learnt", "rotary"]
Cache = list[tuple[Tensor, Tensor]]
"""Keys and values, float [B, N, T, H] each, of the tokens that each layer has read."""


class GPT(nn.Module):
    """Predicts the token after each token of a text.

    Unlike GPT-2: no biases; the head is the embedding, transposed, as there; the projections that end a residual branch
    begin smaller by sqrt(2 num_layers), as there.

    Args:
        vocab_size: V.
        context: the longest text, in tokens, >= 1; the data offers the length of its windows.
        num_layers: blocks of attention and MLP.
        width: D, a multiple of `num_heads`.
        num_heads: N.
        dropout: the probability of zeroing a number in a residual branch or an attention weight while training.
        positions: `learnt`, a vector for each position, or `rotary`, which turns queries and keys by their position.

    Raises:
        ValueError: a number is out of range, or `width` does not divide among the heads.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        vocab_size: int,
        context: Count,
        num_layers: Count = 4,
        width: Count = 128,
        num_heads: Count = 4,
        dropout: FractionBelowOne = 0.0,
        positions: Positions = "learnt",
    ) -> None:
        super().__init__()
        if width % num_heads or width // num_heads % 2:
            raise ValueError(f"width={width} must be an even multiple of num_heads={num_heads}")
        self.context = context
        self.embed = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(context, width) if positions == "learnt" else None
        self.dropout = nn.Dropout(dropout)
        rotary = positions == "rotary"
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout=dropout, rotary=rotary) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                small = name.endswith("out.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if small else 0.02)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits of the tokens that follow.

        Args:
            x: int64 [B, T], tokens; with what the cache holds at most `context`.
            cache: what was read before, to which what is read now is added; None: nothing is kept.

        Returns:
            float [B, T, V].
        """
        start = cache[0][0].shape[2] if cache else 0
        y_BTD = self.embed(x)
        if self.position is not None:
            y_BTD = y_BTD + self.position(torch.arange(start, start + x.shape[1], device=x.device))
        y_BTD = self.dropout(y_BTD)
        for i, block in enumerate(self.blocks):
            past = cache[i] if cache and i < len(cache) else None
            y_BTD, kept = block(y_BTD, past, start)
            if cache is not None:
                cache[i : i + 1] = [kept]
        return F.linear(self.norm(y_BTD), self.embed.weight)


class Block(nn.Module):
    """Attention to what came before and an MLP four times as wide, each added to what it reads.

    Args:
        width: D.
        heads: N.
        dropout: see `GPT`.
        rotary: whether queries and keys are turned by their position.
    """

    def __init__(self, width: int, heads: int, *, dropout: float, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary, self.rate = heads, rotary, dropout
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BTD: Tensor, past: tuple[Tensor, Tensor] | None, start: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Features of T tokens of which the first is number `start`; and keys and values of all tokens
        so far."""
        q_BNTH, k_BNTH, v_BNTH = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x_BTD)).chunk(3, dim=2)
        )
        if self.rotary:
            q_BNTH, k_BNTH = rotate(q_BNTH, start), rotate(k_BNTH, start)
        if past is not None:
            k_BNTH, v_BNTH = torch.cat([past[0], k_BNTH], dim=2), torch.cat([past[1], v_BNTH], dim=2)
        drop = self.rate if self.training else 0.0
        if past is None:
            y_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, is_causal=True, dropout_p=drop)
        else:
            new, total = q_BNTH.shape[2], k_BNTH.shape[2]
            sees = torch.ones(new, total, dtype=torch.bool, device=x_BTD.device).tril(total - new)
            y_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, attn_mask=sees, dropout_p=drop)
        x_BTD = x_BTD + self.dropout(self.attention_out(y_BNTH.transpose(1, 2).flatten(2)))
        x_BTD = x_BTD + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTD)))))
        return x_BTD, (k_BNTH, v_BNTH)


def rotate(x_BNTH: Tensor, start: int) -> Tensor:
    """Rotary positions (arXiv:2104.09864): the pair of features i and i + H/2 is turned by position / 10000^(2i/H).

    Args:
        x_BNTH: queries or keys, float [B, N, T, H], H even.
        start: the position of the first of the T tokens.

    Returns:
        The same shape and dtype; the product of a query and a key then depends on the distance of their positions.
    """
    time, size = x_BNTH.shape[2], x_BNTH.shape[3]
    position_T1 = torch.arange(start, start + time, device=x_BNTH.device, dtype=torch.float32)[:, None]
    angle_TH = position_T1 * 10_000.0 ** (-torch.arange(0, size, 2, device=x_BNTH.device) / size)
    cos_TH, sin_TH = angle_TH.cos().to(x_BNTH.dtype), angle_TH.sin().to(x_BNTH.dtype)
    first, second = x_BNTH.chunk(2, dim=3)
    return torch.cat([first * cos_TH - second * sin_TH, first * sin_TH + second * cos_TH], dim=3)
