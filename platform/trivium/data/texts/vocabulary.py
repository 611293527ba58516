"""Texts as the numbers of their tokens, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Tokens = Literal["characters", "bytes", "words", "bpe"]
PAD, BEGIN, END = 0, 1, 2
SPECIAL = ("<pad>", "<begin>", "<end>")
"""What the vocabularies of pairs of sequences begin with."""
UNKNOWN = "<unknown>"
BYTES = 256


def fitted(texts: Iterable[str], tokens: Tokens, *, vocab_size: int | None, first: Sequence[str] = ()) -> Any:
    """What `encoded` and `decoded` need to know of a vocabulary, as JSON.

    Args:
        texts: those of the training split.
        tokens: `characters`, `bytes`, `words` (what white space separates), `bpe` (byte pairs, arXiv:1508.07909,
            trained by the package tokenizers; any text can be written with them).
        vocab_size: the most tokens, of which the most frequent are taken; required for `bpe`; None: all.
        first: the tokens with the lowest numbers, such as `SPECIAL`. Those of bytes come after the 256 instead.

    Raises:
        ValueError: `vocab_size` is missing or too small, or the package tokenizers is not installed.
    """
    if tokens == "bytes":
        return None
    if tokens == "bpe":
        return _trained_bpe(texts, vocab_size, first)
    counts = Counter(piece for text in texts for piece in _pieces(text, tokens))
    names = [name for name in counts if name not in first]
    if vocab_size is not None:
        if vocab_size <= len(first):
            raise ValueError(f"vocab_size={vocab_size} must be above {len(first)}, the number of special tokens")
        names = sorted(names, key=lambda name: (-counts[name], name))[: vocab_size - len(first)]
    return [*first, *sorted(names)]


def size(tokens: Tokens, vocabulary: Any, *, special: int = 0) -> int:
    """How many tokens there are.

    Args:
        special: tokens that bytes have besides their 256.
    """
    if tokens == "bytes":
        return BYTES + special
    if tokens == "bpe":
        number: int = _bpe(vocabulary).get_vocab_size()
        return number
    return len(vocabulary)


def encoded(text: str, preparation: Mapping[str, Any]) -> list[int]:
    """The numbers of a text's tokens.

    Args:
        preparation: of a signature: `tokens` and `vocabulary`, see `fitted`.

    Raises:
        ValueError: a token is not in the vocabulary, which has no token for unknown ones; names it.
    """
    tokens, vocabulary = preparation.get("tokens", "words"), preparation.get("vocabulary")
    if tokens == "bytes":
        return list(text.encode())
    if tokens == "bpe":
        ids: list[int] = _bpe(vocabulary).encode(text).ids
        return ids
    number = {name: i for i, name in enumerate(vocabulary or ())}
    unknown = number.get(UNKNOWN)
    found = [number.get(piece, unknown) for piece in _pieces(text, tokens)]
    if None in found:
        wrong = _pieces(text, tokens)[found.index(None)]
        what = f"the {'character' if tokens == 'characters' else 'word'} {wrong!r}"
        raise ValueError(f"{what} does not occur in the text that the model has learned from")
    return [i for i in found if i is not None]


def decoded(ids: Iterable[int], preparation: Mapping[str, Any]) -> str:
    """The text of tokens; the first `END` of a vocabulary that has one ends it, padding is left out."""
    tokens, vocabulary = preparation.get("tokens", "words"), preparation.get("vocabulary")
    if tokens == "bytes":
        return bytes(i for i in ids if i < BYTES).decode(errors="replace")
    if tokens == "bpe":
        text: str = _bpe(vocabulary).decode(list(ids))
        return text
    names = list(vocabulary or ())
    kept = []
    for i in ids:
        name = names[i] if i < len(names) else UNKNOWN
        if name == SPECIAL[END]:
            break
        if name not in SPECIAL:
            kept.append(name)
    return ("" if tokens == "characters" else " ").join(kept)


def _pieces(text: str, tokens: str) -> list[str]:
    return list(text) if tokens == "characters" else text.split()


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError("tokens=bpe needs the package tokenizers: pip install 'trivium[text]'") from error
    return tokenizers


def _trained_bpe(texts: Iterable[str], vocab_size: int | None, first: Sequence[str]) -> str:
    tokenizers = _tokenizers()
    if vocab_size is None or vocab_size < BYTES + len(first):
        raise ValueError(f"vocab_size={vocab_size} must be at least {BYTES + len(first)} for tokens=bpe")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(first),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    text: str = made.to_str()
    return text


def _bpe(vocabulary: Any) -> Any:
    """The tokenizer of its JSON.

    Raises:
        ValueError: it is none.
    """
    tokenizers = _tokenizers()
    try:
        return tokenizers.Tokenizer.from_str(vocabulary)
    except Exception as error:  # what the package raises is a bare Exception
        raise ValueError(f"the vocabulary is no tokenizer: {error}") from error
