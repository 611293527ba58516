"""A transformer encoder as BERT is (arXiv:1810.04805): every token sees all others, before and after it.

Shapes: B batch, T time, D features, N heads, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne


class BERT(nn.Module):
    """Predicts hidden tokens; or, with `num_outputs`, something of the whole text or of each token.

    Unlike BERT: the norms come first in each branch (arXiv:2002.04745), which trains without a long warm-up; the whole
    text is answered from the mean of its tokens instead of a token of its own; there is no second segment.

    Args:
        vocab_size: V.
        context: the longest text, in tokens, >= 1.
        num_outputs: logits or regression targets; None: the V tokens, of each step, by the transposed embedding.
        per_step: whether each step is answered; without `num_outputs` it always is.
        num_layers: blocks of attention and MLP, >= 1.
        width: D, a multiple of `num_heads`.
        num_heads: N.
        dropout: the probability of zeroing a number in a residual branch or an attention weight while training.

    Raises:
        ValueError: a number is out of range, or `width` does not divide among the heads.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        vocab_size: int,
        context: Count,
        num_outputs: int | None = None,
        per_step: bool = False,
        num_layers: Count = 4,
        width: Count = 128,
        num_heads: Count = 4,
        dropout: FractionBelowOne = 0.1,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width={width} must be a multiple of num_heads={num_heads}")
        self.context, self.per_step = context, per_step
        self.embed = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout=dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        self.head = None if num_outputs is None else nn.Linear(width, num_outputs)

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """Answer.

        Args:
            x: int64 [B, T], tokens; T at most `context`.
            length: int64 [B], how many tokens of each text are no padding, >= 1; None: all.

        Returns:
            float [B, T, V], or with `num_outputs` K: [B, K], with `per_step` [B, T, K].

        Raises:
            ValueError: a text is longer than `context`.
        """
        time = x.shape[1]
        if time > self.context:
            raise ValueError(f"the text has {time} tokens, more than context={self.context}")
        seen_BT = None
        if length is not None:
            seen_BT = torch.arange(time, device=x.device) < length[:, None]
        y_BTD = self.dropout(self.embed(x) + self.position.weight[:time])
        for block in self.blocks:
            y_BTD = block(y_BTD, None if seen_BT is None else seen_BT[:, None, None])
        y_BTD = self.norm(y_BTD)
        if self.head is None:
            return F.linear(y_BTD, self.embed.weight)
        if self.per_step:
            return self.head(y_BTD)  # type: ignore[no-any-return]
        if seen_BT is None:
            return self.head(y_BTD.mean(1))  # type: ignore[no-any-return]
        share_BT1 = (seen_BT / seen_BT.sum(1, keepdim=True)).to(y_BTD.dtype)[:, :, None]
        return self.head((y_BTD * share_BT1).sum(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention to all tokens and an MLP four times as wide, each added to what it reads.

    Args:
        width: D.
        heads: N.
        dropout: see `BERT`.
    """

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, seen_B11T: Tensor | None) -> Tensor:
        """float [B, T, D] -> the same; of the mask, bool [B, 1, 1, T], what is False is not looked at."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x_BTD)).chunk(3, dim=2)
        )
        drop = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B11T, dropout_p=drop)
        x_BTD = x_BTD + self.dropout(self.attention_out(y.transpose(1, 2).flatten(2)))
        y_BTD: Tensor = x_BTD + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTD)))))
        return y_BTD
