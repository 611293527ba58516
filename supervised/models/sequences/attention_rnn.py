"""Sequence to sequence with attention: a bidirectional GRU reads, a GRU that looks at all it read writes
(arXiv:1409.0473, with the dot product of arXiv:1508.04025 as its score).

Shapes: B batch, S length of the source, T of the target, H numbers of the state, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count
from trivium.data.texts.vocabulary import BEGIN, END, PAD


class AttentionRNN(nn.Module):
    """Translates sequences of tokens; a `PAD` of the source is neither read nor looked at.

    Args:
        vocab_size: V, of sources and targets.
        max_length: of a target, `END` included: generating stops there.
        hidden_size: H, an even number; the encoder has half of it in each direction.
        embedding: numbers for each token.

    Raises:
        ValueError: `hidden_size` is odd.
    """

    @checks_keywords
    def __init__(self, *, vocab_size: int, max_length: int, hidden_size: Count = 128, embedding: Count = 64) -> None:
        super().__init__()
        if hidden_size % 2:
            raise ValueError(f"hidden_size={hidden_size} must be even: half of it reads in each direction")
        self.max_length = max_length
        self.embed = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        self.encoder = nn.GRU(embedding, hidden_size // 2, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(hidden_size, hidden_size)
        self.decoder = nn.GRU(embedding, hidden_size, batch_first=True)
        self.combine = nn.Linear(2 * hidden_size, hidden_size)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of each token of the target, given those before it.

        Args:
            source: int64 [B, S], padded with `PAD` at the end.
            target: int64 [B, T], `BEGIN` and the target's tokens but the last.

        Returns:
            float [B, T, V].
        """
        memory_BSH, state_BH = self._read(source)
        return self._write(target, memory_BSH, source == PAD, state_BH[None])[0]

    def _read(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        length_B = (source_BS != PAD).sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(source_BS), length_B.cpu(), batch_first=True, enforce_sorted=False
        )
        memory, last = self.encoder(packed)
        memory_BSH, _ = nn.utils.rnn.pad_packed_sequence(memory, batch_first=True, total_length=source_BS.shape[1])
        return memory_BSH, self.bridge(torch.cat([last[0], last[1]], dim=1)).tanh()

    def _write(
        self, target_BT: Tensor, memory_BSH: Tensor, padding_BS: Tensor, state_1BH: Tensor
    ) -> tuple[Tensor, Tensor]:
        state_BTH, state_1BH = self.decoder(self.embed(target_BT), state_1BH)
        seen_B1S = ~padding_BS[:, None]
        context_BTH = F.scaled_dot_product_attention(state_BTH, memory_BSH, memory_BSH, attn_mask=seen_B1S, scale=1.0)
        return self.head(self.combine(torch.cat([state_BTH, context_BTH], dim=2)).tanh()), state_1BH

    @torch.no_grad()
    def generate(self, batch: dict[str, Tensor]) -> Tensor:
        """What the model writes by itself for the batch's `source`, the most probable token at each step: int64
        [B, max_length], `PAD` after `END`."""
        source_BS = batch["source"]
        memory_BSH, state_BH = self._read(source_BS)
        padding_BS, state_1BH = source_BS == PAD, state_BH[None]
        token_B1 = torch.full_like(source_BS[:, :1], BEGIN)
        written = []
        ended_B1 = torch.zeros_like(token_B1, dtype=torch.bool)
        for _ in range(self.max_length):
            logits_B1V, state_1BH = self._write(token_B1, memory_BSH, padding_BS, state_1BH)
            token_B1 = logits_B1V.argmax(-1).masked_fill(ended_B1, PAD)
            written.append(token_B1)
            ended_B1 = ended_B1 | (token_B1 == END)
        return torch.cat(written, dim=1)
