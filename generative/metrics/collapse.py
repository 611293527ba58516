"""Signs that a generative model has collapsed, by what its evaluation measures, and the setting to try.

A model that has hardly begun looks collapsed without being so: until it has seen its data once, and `LEAST_IMAGES`,
nothing is reported.
"""

from __future__ import annotations

import logging
from typing import Literal

from torch import Tensor

from trivium.data.batches import Batches
from trivium.learner import Run

log = logging.getLogger("trivium")

LEAST_EPOCHS, LEAST_IMAGES = 1.0, 20_000
# Of generated pixels, as a share of the data's. On digits GANs had 0.2 to 0.35 while they began to learn, 0.6 to 1.1
# later, and below 0.1 where the generator drew one image.
LEAST_DIVERSITY = 0.15
# Share of images of which a discriminator is rightly certain. One that learns beside its generator is right about all
# of them now and then, but without certainty: on digits healthy runs had 0 to 0.5, a discriminator that had won 0.98.
MOST_CERTAIN = 0.9
LEAST_ACTIVE, LEAST_USED = 0.1, 0.25  # shares of latents, of codes

Sign = Literal["mode collapse", "overpowering discriminator", "posterior collapse", "dead codes"]
REMEDIES: dict[Sign, str] = {
    "mode collapse": "try learner.r1=1, a smaller learner.discriminator_lr, or learner.conditional=true",
    "overpowering discriminator": "try a smaller learner.discriminator_lr, learner.r1=1, or learner.ada_target=0.6",
    "posterior collapse": "try a smaller learner.beta, or learner.kl_warmup_samples of several epochs",
    "dead codes": "try fewer learner.num_codes, or a smaller learner.code_decay",
}


def signs(
    batches: Batches,
    *,
    diversity: float | None = None,
    certain: float | None = None,
    active_share: float | None = None,
    used_share: float | None = None,
) -> list[Sign]:
    """What a model shows of collapse.

    Args:
        batches: what it has learnt from.
        diversity: the standard deviation of generated pixels over images, as a share of that of real ones.
        certain: see `accuracy_of`, with a margin.
        active_share: of latents whose mean depends on the input.
        used_share: of codes that held-out images use.
    """
    if batches.epochs < LEAST_EPOCHS or batches.samples < LEAST_IMAGES:
        return []
    found: list[Sign] = []
    if diversity is not None and diversity < LEAST_DIVERSITY:
        found.append("mode collapse")
    if certain is not None and certain > MOST_CERTAIN:
        found.append("overpowering discriminator")
    if active_share is not None and active_share < LEAST_ACTIVE:
        found.append("posterior collapse")
    if used_share is not None and used_share < LEAST_USED:
        found.append("dead codes")
    return found


def warn(batches: Batches, run: Run, **measured: float) -> float:
    """Log a warning, on rank 0, for each of the `signs`, with what was measured and the setting to try; returns the
    number of signs, which a learner evaluates to as `collapse_signs`: trackers show it."""
    found = signs(batches, **measured)
    for sign in found if run.rank == 0 else ():
        values = ", ".join(f"{name} {value:.3g}" for name, value in measured.items())
        log.warning(f"after {batches.epochs:.3g} epochs there is a sign of {sign} ({values}): {REMEDIES[sign]}")
    return float(len(found))


def accuracy_of(real_B: Tensor, fake_B: Tensor, threshold: float, *, margin: float = 0.0) -> float:
    """The share of images that a discriminator tells right, as a mean over real and generated ones: 0.5 by chance.

    Args:
        real_B, fake_B: its logits.
        threshold: above which a logit means "real": 0, or 0.5 for least squares.
        margin: how far beyond the threshold a logit must be to count.
    """
    right = (real_B.float() > threshold + margin).float().mean()
    right = right + (fake_B.float() <= threshold - margin).float().mean()
    return float(right / 2)
