"""Texts of which some tokens are hidden, for masked language modelling (BERT, arXiv:1810.04805)."""

from __future__ import annotations

import torch
from torch import Tensor

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count, Seed
from trivium.data.source import UNSCORED, Batch, Signature, Splits
from trivium.data.texts.text import Tokens, Windows, text

LEFT, HIDDEN, REPLACED, SHOWN = range(4)  # what happens to a token; all but LEFT are to be predicted


class MaskedWindows:
    """Disjoint windows of a text in several copies, of which each hides other tokens: row i is window i mod n of
    copy i // n. As in BERT's own data the copies are drawn once, so that the same row is always the same; with as many
    copies as epochs no window is seen twice with the same tokens hidden.

    Args:
        tokens: int64 [n], the text.
        context: T, tokens of a window.
        copies: >= 1.
        fate: int8 [copies, n], `LEFT`, `HIDDEN` (by the mask), `REPLACED` or `SHOWN` as it is.
        other: int64 [copies, n], what a token is replaced by.
        mask: the token that hides.
    """

    def __init__(self, tokens: Tensor, *, context: int, fate: Tensor, other: Tensor, mask: int) -> None:
        self.windows = Windows(tokens, context=context, stride=context)
        self.fate, self.other, self.mask = fate, other, mask
        self._offsets = torch.arange(context, device=tokens.device)

    def __len__(self) -> int:
        return len(self.windows) * len(self.fate)

    def batch(self, index_B: Tensor) -> Batch:
        """`x`, what is seen, and `y`, the tokens to predict, `UNSCORED` elsewhere: int64 [B, T] each."""
        copy_B, window_B = index_B // len(self.windows), index_B % len(self.windows)
        at_BT = window_B[:, None] * self.windows.stride + self._offsets
        token_BT = self.windows.tokens[at_BT]
        fate_BT, other_BT = self.fate[copy_B[:, None], at_BT], self.other[copy_B[:, None], at_BT]
        x_BT = torch.where(fate_BT == REPLACED, other_BT, token_BT).masked_fill(fate_BT == HIDDEN, self.mask)
        return {"x": x_BT, "y": token_BT.masked_fill(fate_BT == LEFT, UNSCORED)}

    def to(self, device: torch.device) -> MaskedWindows:
        moved = (t.to(device) for t in (self.windows.tokens, self.fate, self.other))
        tokens, fate, other = moved
        return MaskedWindows(tokens, context=self.windows.context, fate=fate, other=other, mask=self.mask)


@checks_keywords
def masked_text(
    *,
    path: str | None = None,
    context: Count = 64,
    tokens: Tokens = "characters",
    vocab_size: int = 1000,
    mask_fraction: BetweenZeroAndOne = 0.15,
    copies: Count = 10,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne | None = None,
    split_seed: Seed = 0,
) -> Splits:
    """A text file, of whose tokens 15 % are to be predicted: 80 % of these are hidden by a mask, 10 % replaced by
    another token, 10 % shown as they are, as in BERT.

    Args:
        path, context, tokens, vocab_size, val_fraction, test_fraction: see `trivium.data.texts.text.text`.
        mask_fraction: of the tokens, how many are to be predicted, in (0, 1).
        copies: of the training split, each with other tokens hidden.
        split_seed: decides what is hidden; not the run's seed.

    Returns:
        Columns `x` and `y`, int64 [n, context]; the mask is the last token of the vocabulary.

    Raises:
        ValueError: see `trivium.data.texts.text.text`; or `mask_fraction` or `copies` is out of range.
    """
    plain = text(
        path=path, context=context, tokens=tokens, vocab_size=vocab_size, val_fraction=val_fraction,
        test_fraction=test_fraction,
    )  # fmt: skip
    vocabulary: int = plain.signature.offers["vocab_size"]
    generator = torch.Generator().manual_seed(split_seed)

    def hidden(windows: object, times: int) -> MaskedWindows:
        assert isinstance(windows, Windows)
        shape = (times, len(windows.tokens))
        chance = torch.rand(shape, generator=generator)
        fate = torch.full(shape, LEFT, dtype=torch.int8)
        for end, kind in ((1.0, SHOWN), (0.9, REPLACED), (0.8, HIDDEN)):
            fate[chance < mask_fraction * end] = kind
        other = torch.randint(vocabulary, shape, generator=generator)
        return MaskedWindows(windows.tokens, context=context, fate=fate, other=other, mask=vocabulary)

    signature = Signature(
        task="masked_language_modelling",
        offers={"vocab_size": vocabulary + 1, "context": context},
        preparation={**plain.signature.preparation, "kind": "masked_text", "mask": vocabulary},
    )
    val = hidden(plain.val, 1)
    return Splits(hidden(plain.train, copies), val, hidden(plain.test, 1) if test_fraction else val, signature)
