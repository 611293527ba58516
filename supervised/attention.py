"""What a model looks at, as pictures: the attention of its last layer, whoever wrote the model.

Shapes: B batch, N heads, T tokens that look, S tokens that are looked at, H features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trivium.data.shown.readable import as_pixels, readable_tokens
from trivium.data.source import Batch, Signature
from trivium.data.texts.vocabulary import PAD
from trivium.learner import Picture
from trivium.supervised.figures import captioned_figure, matrices_figure

TEXTS, IMAGES = 3, 12  # drawn
MOST = 48  # tokens of a picture


def attention(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor | None:
    """How much each token looks at each other one, in the last attention of a model, in the mean of its heads.

    What is found is any call of `torch.nn.functional.scaled_dot_product_attention`, by which most models of others
    attend too, and PyTorch's own layers.

    Args:
        model: in evaluation mode.
        inputs: what it is called with.

    Returns:
        float32 [B, T, S], whose rows sum to 1; None if the model has no attention.
    """
    with torch.no_grad(), _Recorder() as recorder:
        model(*inputs)
    looks: Tensor | None = recorder.last
    return looks


class _Recorder(TorchFunctionMode):
    """Keeps the weights of the last attention that was computed under it."""

    last: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.last = weights(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:  # torch.nn.MultiheadAttention
            y, self.last = func(*args, **{**(kwargs or {}), "need_weights": True, "average_attn_weights": True})
            return y, None
        return func(*args, **(kwargs or {}))


def weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights that `scaled_dot_product_attention`, whose arguments these are, gives to the values: the softmax of
    the scaled scores, in the mean of the heads, float32 [B, T, S].

    Args:
        query: float [B, N, T, H].
        key: float [B, N, S, H].
        attn_mask: what is added to the scores, or bool, False where a token is not looked at.
        is_causal: whether later tokens are not looked at.
        scale: of the scores; None: 1 / sqrt(H).
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    score = query.float() @ key.float().transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        later = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).triu(1)
        score = score.masked_fill(later, -torch.inf)
    if attn_mask is not None:
        score = score.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else score + attn_mask
    return score.softmax(-1).mean(-3) if score.ndim == 4 else score.softmax(-1)


def attention_figure(model: nn.Module, batch: Batch, signature: Signature, *, title: str) -> Picture | None:
    """What a model looks at: for texts a matrix; for images, what the answer is
    read from, laid over each.

    Args:
        model: in evaluation mode.
        batch: of which the first rows are drawn.
        signature: says what the tensors are.

    Returns:
        The picture; None if there is nothing to draw: no attention, or one that does not fit the inputs.
    """
    first = batch[signature.inputs[0]]
    images = first.ndim == 4
    inputs = [batch[name][: IMAGES if images else TEXTS] for name in signature.inputs]
    looks_BTS = attention(model, inputs)
    if looks_BTS is None or looks_BTS.ndim != 3 or len(looks_BTS) != len(inputs[0]):
        return None
    looks_BTS = looks_BTS.cpu()
    return (
        _on_images(looks_BTS, inputs[0].cpu(), signature, title)
        if images
        else _on_texts(looks_BTS, [values.cpu() for values in inputs], signature, title)
    )


def _on_texts(looks_BTS: Tensor, inputs: Sequence[Tensor], signature: Signature, title: str) -> Picture | None:
    """The tokens that look are those of the last input of the right shape, those that are looked at of the first."""
    tokens = [values for values in inputs if values.dtype == torch.int64 and values.ndim == 2]
    looking = next((values for values in reversed(tokens) if values.shape[1] == looks_BTS.shape[1]), None)
    looked_at = next((values for values in tokens if values.shape[1] == looks_BTS.shape[2]), None)
    if looking is None or looked_at is None:
        return None
    lengths = dict(zip(signature.inputs, inputs, strict=True)).get("length")
    matrices = []
    for i, looks_TS in enumerate(looks_BTS):
        names = []
        for values in (looking, looked_at):
            length = int((values[i] != PAD).sum()) if lengths is None else int(lengths[i])
            names.append(readable_tokens(values[i, : min(max(1, length), MOST)].tolist(), signature))
        matrices.append((looks_TS[: len(names[0]), : len(names[1])].numpy(), *names))
    return matrices_figure(matrices, title=f"{title}: a row for each token that looks")


def _on_images(looks_BTS: Tensor, x_BCHW: Tensor, signature: Signature, title: str) -> Picture | None:
    """Without the class token, where there is one; it is the one that is asked then."""
    height, width = x_BCHW.shape[2:]
    looks_BS = looks_BTS[:, 0] if _grid(looks_BTS.shape[2] - 1, height / width) else looks_BTS.mean(1)
    grid = _grid(looks_BS.shape[1] - 1, height / width)
    if grid is not None:
        looks_BS = looks_BS[:, 1:]
    else:
        grid = _grid(looks_BS.shape[1], height / width)
    if grid is None or x_BCHW.shape[1] not in (1, 3):
        return None
    seen_B1HW = F.interpolate(looks_BS.view(-1, 1, *grid), size=(height, width), mode="nearest")
    seen_B1HW = seen_B1HW / seen_B1HW.amax((2, 3), keepdim=True)
    shown_B3HW = as_pixels(x_BCHW.float(), signature.preparation).clamp(0, 1).expand(-1, 3, -1, -1)
    tint_3 = torch.tensor([1.0, 0.45, 0.0]).view(3, 1, 1)
    blended = shown_B3HW * (1 - 0.6 * seen_B1HW) + tint_3 * 0.6 * seen_B1HW
    return captioned_figure(blended, [""] * len(blended), title=title)


def _grid(patches: int, ratio: float) -> tuple[int, int] | None:
    """Rows and columns of so many patches of an image whose height is `ratio` times its width; None if there are
    none."""
    rows = round(math.sqrt(patches * ratio)) if patches > 0 else 0
    return (
        (rows, patches // rows)
        if rows and patches % rows == 0 and abs(rows / (patches // rows) - ratio) < 0.25
        else None
    )
