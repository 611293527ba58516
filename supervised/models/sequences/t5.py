"""A transformer that reads and writes, as T5 is (arXiv:1910.10683).

Shapes: B batch, S length of the source, T of the target, M of what is looked at, D features, N heads, H features of a
head, V tokens of the vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne
from trivium.data.texts.vocabulary import BEGIN, END, PAD

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values, float [B, N, M, H] each, of what each layer of the decoder has written."""


class T5(nn.Module):
    """Translates sequences of tokens; a `PAD` of the source is not looked at.

    As in the paper: positions are learnt biases of the attention that depend on the distance only, shared by the
    layers of the encoder and of the decoder each; norms by the root mean square, first in each branch; no biases.
    Unlike it: attention is scaled by the square root of H; the head has weights of its own (as T5 1.1).

    Args:
        vocab_size: V, of sources and targets.
        max_length: of a target, `END` included: generating stops there.
        num_layers: of the encoder and of the decoder each, >= 1.
        width: D, a multiple of `num_heads`.
        num_heads: N.
        dropout: the probability of zeroing a number in a residual branch while training.

    Raises:
        ValueError: a number is out of range, or `width` does not divide among the heads.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        num_layers: Count = 2,
        width: Count = 64,
        num_heads: Count = 4,
        dropout: FractionBelowOne = 0.0,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width={width} must be a multiple of num_heads={num_heads}")
        self.max_length = max_length
        self.embed = nn.Embedding(vocab_size, width)
        self.encoder_bias = Distances(num_heads, both_ways=True)
        self.decoder_bias = Distances(num_heads, both_ways=False)
        self.encoder = nn.ModuleList(EncoderBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.decoder = nn.ModuleList(DecoderBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.encoder_norm, self.decoder_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                table = name.endswith("embed.weight")
                nn.init.normal_(parameter, std=0.5 if table else 1 / math.sqrt(parameter.shape[1]))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of each token of the target, given those before it.

        Args:
            source: int64 [B, S], padded with `PAD` at the end.
            target: int64 [B, T], `BEGIN` and the target's tokens but the last.

        Returns:
            float [B, T, V].
        """
        read_BSD = self._read(source)
        memory = [block.memory(read_BSD) for block in self.decoder]  # type: ignore[operator]
        return self._write(target, memory, _hidden(source), None)

    def _read(self, source_BS: Tensor) -> Tensor:
        bias = self.encoder_bias(0, source_BS.shape[1], source_BS.shape[1]) + _hidden(source_BS)
        y_BSD = self.embed(source_BS)
        for block in self.encoder:
            y_BSD = block(y_BSD, bias)
        return self.encoder_norm(y_BSD)  # type: ignore[no-any-return]

    def _write(self, target_BT: Tensor, memory: Cache, hidden_B11S: Tensor, cache: Cache | None) -> Tensor:
        start = cache[0][0].shape[2] if cache else 0
        total = start + target_BT.shape[1]
        bias = self.decoder_bias(start, target_BT.shape[1], total)
        later_TM = torch.ones(target_BT.shape[1], total, dtype=torch.bool, device=target_BT.device).triu(start + 1)
        bias = bias.masked_fill(later_TM, -torch.inf)
        y_BTD = self.embed(target_BT)
        for i, block in enumerate(self.decoder):
            past = cache[i] if cache and i < len(cache) else None
            y_BTD, kept = block(y_BTD, bias, memory[i], hidden_B11S, past)
            if cache is not None:
                cache[i : i + 1] = [kept]
        return self.head(self.decoder_norm(y_BTD))  # type: ignore[no-any-return]

    @torch.no_grad()
    def generate(self, batch: dict[str, Tensor]) -> Tensor:
        """What the model writes by itself for the batch's `source`, the most probable token at each step: int64
        [B, max_length], `PAD` after `END`."""
        source_BS = batch["source"]
        read_BSD = self._read(source_BS)
        memory = [block.memory(read_BSD) for block in self.decoder]  # type: ignore[operator]
        token_B1 = torch.full_like(source_BS[:, :1], BEGIN)
        ended_B1 = torch.zeros_like(token_B1, dtype=torch.bool)
        written: list[Tensor] = []
        cache: Cache = []
        for _ in range(self.max_length):
            logits_B1V = self._write(token_B1, memory, _hidden(source_BS), cache)
            token_B1 = logits_B1V.argmax(-1).masked_fill(ended_B1, PAD)
            written.append(token_B1)
            ended_B1 = ended_B1 | (token_B1 == END)
        return torch.cat(written, dim=1)


def _hidden(source_BS: Tensor) -> Tensor:
    """What is added to the scores so that padding is not looked at: float [B, 1, 1, S]. An empty source is read as it
    is, because the softmax of nothing is NaN."""
    padding_BS = (source_BS == PAD) & (source_BS != PAD).any(1, keepdim=True)
    return torch.zeros_like(source_BS, dtype=torch.float32).masked_fill(padding_BS, -torch.inf)[:, None, None]


class Distances(nn.Module):
    """A learnt number for each distance of two positions and each head; distances share buckets that grow with them.

    Args:
        heads: N.
        both_ways: whether what comes later is looked at too; it then has half of the buckets.
        buckets: of distances.
        furthest: all distances from here on share a bucket.
    """

    def __init__(self, heads: int, *, both_ways: bool, buckets: int = 32, furthest: int = 128) -> None:
        super().__init__()
        self.both_ways, self.buckets, self.furthest = both_ways, buckets, furthest
        self.embed = nn.Embedding(buckets, heads)

    def forward(self, start: int, time: int, total: int) -> Tensor:
        """float [1, N, T, M], to be added to the scores of the positions from `start` on looking at those from 0 on."""
        device = self.embed.weight.device
        position = torch.arange(start, start + time, device=device)[:, None]
        bucket_TM = bucket(
            torch.arange(total, device=device) - position,
            both_ways=self.both_ways, buckets=self.buckets, furthest=self.furthest,
        )  # fmt: skip
        return self.embed(bucket_TM).permute(2, 0, 1)[None]  # type: ignore[no-any-return]


def bucket(distance: Tensor, *, both_ways: bool, buckets: int = 32, furthest: int = 128) -> Tensor:
    """The bucket of a distance: half of the buckets hold one distance each, the others ranges that grow by a factor.

    Args:
        distance: int64 of any shape, position that is looked at minus the one that looks.
        both_ways: whether later positions have buckets of their own, the upper half; otherwise they share that of 0.
        buckets, furthest: see `Distances`.

    Returns:
        int64 of the same shape, in [0, buckets).
    """
    offset = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        back = distance.abs()
    else:
        back = (-distance).clamp(min=0)
    exact = buckets // 2
    growth = (back.clamp(min=1) / exact).log() / math.log(furthest / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(back < exact, back, far)


class Attention(nn.Module):
    """N heads of scaled dot products, without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.heads, -1))
        return heads.transpose(1, 2)

    def memory(self, x_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is looked at, float [B, N, M, H] each."""
        return self._split(self.k(x_BMD)), self._split(self.v(x_BMD))

    def forward(self, x_BTD: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """float [B, T, D]; the bias, broadcast to [B, N, T, M], is added to the scores."""
        q_BNTH = self._split(self.q(x_BTD))
        y_BNTH = F.scaled_dot_product_attention(q_BNTH, *memory, attn_mask=bias.to(q_BNTH.dtype))
        return self.out(y_BNTH.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """float [..., D] -> the same."""
        return self.out(F.relu(self.wide(x)))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Attention to the whole source and an MLP, each added to what it reads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(width), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.RMSNorm(width), FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, bias: Tensor) -> Tensor:
        """float [B, S, D] -> the same."""
        y_BSD = self.attention_norm(x_BSD)
        x_BSD = x_BSD + self.dropout(self.attention(y_BSD, self.attention.memory(y_BSD), bias))
        return x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """Attention to what was written, attention to the source and an MLP, each added to what it reads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(width), Attention(width, heads)
        self.source_norm, self.source_attention = nn.RMSNorm(width), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.RMSNorm(width), FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def memory(self, read_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the source."""
        return self.source_attention.memory(read_BSD)

    def forward(
        self,
        x_BTD: Tensor,
        bias: Tensor,
        memory: tuple[Tensor, Tensor],
        hidden_B11S: Tensor,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """float [B, T, D] -> the same; and keys and values of all that was written."""
        y_BTD = self.attention_norm(x_BTD)
        own = self.attention.memory(y_BTD)
        if past is not None:
            own = torch.cat([past[0], own[0]], dim=2), torch.cat([past[1], own[1]], dim=2)
        x_BTD = x_BTD + self.dropout(self.attention(y_BTD, own, bias))
        x_BTD = x_BTD + self.dropout(self.source_attention(self.source_norm(x_BTD), memory, hidden_B11S))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD))), own
