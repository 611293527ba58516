"""Recurrent networks: vanilla (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997), GRU (arXiv:1406.1078).

Shapes: B batch, T time, D features, H numbers of the state, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne

Cell = Literal["rnn", "lstm", "gru"]
CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Reads a sequence and answers once (many-to-one), or at each step (`per_step`: many-to-many, aligned).

    Images are read row by row. A padded batch gives what each of its sequences alone gives, if `length` is given.

    Args:
        num_outputs: logits or regression targets, of the sequence or of each step; None: the V tokens.
        input_shape: of one sequence of numbers: (T, D), or (C, H, W) of an image; not needed with a vocabulary.
        vocab_size: V of sequences of tokens, which are embedded; None for sequences of numbers.
        cell: rnn, lstm, gru.
        hidden_size: H, of each layer and direction.
        num_layers: stacked on one another.
        bidirectional: whether a second network reads from the end; its state is appended.
        embedding: numbers for each token.
        dropout: the probability of zeroing a number between layers while training, in [0, 1).
        orthogonal: whether recurrent weights are orthogonal at the start (arXiv:1312.6120) and the LSTM's forget gate
            is open (a bias of 1); otherwise PyTorch's uniform weights.
        per_step: whether each step is answered.

    Raises:
        ValueError: `cell` or `dropout` is out of range, or neither `input_shape` nor `vocab_size`, or neither
            `num_outputs` nor `vocab_size`, is given.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        num_outputs: int | None = None,
        input_shape: Sequence[int] | None = None,
        vocab_size: int | None = None,
        cell: Cell = "lstm",
        hidden_size: Count = 128,
        num_layers: Count = 1,
        bidirectional: bool = False,
        embedding: Count = 64,
        dropout: FractionBelowOne = 0.0,
        orthogonal: bool = True,
        per_step: bool = False,
    ) -> None:
        super().__init__()
        if vocab_size is not None:
            self.embed: nn.Module = nn.Embedding(vocab_size, embedding)
            size = embedding
        elif input_shape is not None:
            self.embed = nn.Identity()
            size = input_shape[-1] * (input_shape[0] if len(input_shape) == 3 else 1)
        else:
            raise ValueError("a recurrent network needs an input_shape or a vocab_size from the data")
        num_outputs = vocab_size if num_outputs is None else num_outputs
        if num_outputs is None:
            raise ValueError("a recurrent network needs num_outputs or a vocab_size from the data")
        self.per_step = per_step
        self.bidirectional = bidirectional
        between = dropout if num_layers > 1 else 0.0
        self.rnn = CELLS[cell](
            size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, dropout=between
        )
        if orthogonal:
            _initialise(self.rnn)
        self.head = nn.Linear(hidden_size * (1 + bidirectional), num_outputs)

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """Answer.

        Args:
            x: float [B, T, D] or [B, C, H, W], or int64 [B, T] tokens.
            length: int64 [B], how many steps of each sequence are no padding, >= 1; None: all.

        Returns:
            float [B, num_outputs], or [B, T, num_outputs] with `per_step`.
        """
        if x.ndim == 4:  # rows of an image, all channels of one together
            x = x.transpose(1, 2).flatten(2)
        y_BTD = self.embed(x)
        if length is None:
            state_BTH, _ = self.rnn(y_BTD)
            last_BH = state_BTH[:, -1]
        else:
            state_BTH = self._unpadded(y_BTD, length)
            last_BH = state_BTH[torch.arange(len(x), device=x.device), length - 1]
        if self.per_step:
            return self.head(state_BTH)  # type: ignore[no-any-return]
        if self.bidirectional:  # what the reader from the end has read when it reaches the beginning
            half = last_BH.shape[1] // 2
            last_BH = torch.cat([last_BH[:, :half], state_BTH[:, 0, half:]], dim=1)
        return self.head(last_BH)  # type: ignore[no-any-return]

    def _unpadded(self, y_BTD: Tensor, length_B: Tensor) -> Tensor:
        """The states, of which padding has no part."""
        packed = nn.utils.rnn.pack_padded_sequence(y_BTD, length_B.cpu(), batch_first=True, enforce_sorted=False)
        state, _ = self.rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(state, batch_first=True, total_length=y_BTD.shape[1])[0]


def _initialise(rnn: nn.RNNBase) -> None:
    hidden_size = rnn.hidden_size
    for name, parameter in rnn.named_parameters():
        if "weight_hh" in name:
            for gate in parameter.data.split(hidden_size):
                nn.init.orthogonal_(gate)
        elif "weight_ih" in name:
            for gate in parameter.data.split(hidden_size):
                nn.init.xavier_uniform_(gate)
        else:
            nn.init.zeros_(parameter)
            if isinstance(rnn, nn.LSTM) and "bias_ih" in name:
                nn.init.ones_(parameter.data[hidden_size : 2 * hidden_size])  # of the gates i, f, g, o
