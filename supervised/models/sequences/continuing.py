"""Texts that are continued, token by token, by a model that predicts the next one.

Shapes: B batch, T time, V tokens of the vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trivium.supervised.models.sequences.gpt import GPT, Cache


@torch.no_grad()
def continued(
    model: nn.Module,
    prompt_BT: Tensor,
    *,
    num: int,
    context: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Tensor:
    """Add tokens to texts. A GPT keeps what it has computed of the tokens before; any other model reads the last
    `context` tokens again for each new one.

    Args:
        model: int64 [B, T] -> logits, float [B, T, V], in evaluation mode.
        prompt_BT: int64 [B, T], T >= 1.
        num: tokens to add to each, >= 0.
        context: the most tokens that the model reads at once.
        generator: of the draws, on the CPU: the same one gives the same text.
        temperature: logits are divided by it, >= 0; 0 takes the most probable token.
        top_k: only the k most probable tokens may be drawn, >= 1; None: all.

    Returns:
        int64 [B, T + num], the prompt included. Each token sees at most the last `context` ones.

    Raises:
        ValueError: `temperature` or `top_k` is out of range, or the prompt is empty.
    """
    if not (math.isfinite(temperature) and temperature >= 0) or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature={temperature} must be at least 0 and top_k={top_k} at least 1, or null")
    if not prompt_BT.shape[1]:
        raise ValueError("the text to continue must hold at least one token")
    text_BT = prompt_BT
    cache: Cache | None = [] if isinstance(model, GPT) else None
    unread_BT = text_BT[:, -context:]
    for _ in range(num):
        if cache is None:
            logits_BV = model(text_BT[:, -context:])[:, -1]
        else:
            if cache and cache[0][0].shape[2] == context:  # the oldest half is forgotten
                cache, unread_BT = [], text_BT[:, -(context // 2 + 1) :]
            logits_BV = model(unread_BT, cache)[:, -1]
        unread_BT = _drawn(logits_BV, generator, temperature, top_k)
        text_BT = torch.cat([text_BT, unread_BT], dim=1)
    return text_BT


def _drawn(logits_BV: Tensor, generator: torch.Generator, temperature: float, top_k: int | None) -> Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1, keepdim=True)
    if top_k is not None:
        least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
    probability_BV = (logits_BV.float() / temperature).softmax(-1)
    return torch.multinomial(probability_BV.cpu(), 1, generator=generator).to(logits_BV.device)
