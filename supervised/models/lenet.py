"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords

Style = Literal["modern", "classic"]


class LeNet(nn.Module):
    """Two convolutions of 5 x 5 with pooling after each, three linear layers: 61,706 parameters on 28 x 28 pixels.

    Unlike the paper: every map of the second convolution sees all maps of the first, and the output is linear
    instead of radial basis functions.

    Args:
        input_shape: (C, H, W), of at least 12 pixels each way; smaller images (8 x 8 digits) are padded to 12.
        num_outputs: logits or regression targets per sample.
        style: `modern` has ReLU and max-pooling, `classic` tanh and mean-pooling as in the paper.

    Raises:
        ValueError: `style` is none of these, or the input is no image.
    """

    @checks_keywords
    def __init__(self, *, input_shape: Sequence[int], num_outputs: int, style: Style = "modern") -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"LeNet needs images [C, H, W]; the data has {list(input_shape)}")
        channels, height, width = input_shape
        # The paper pads 28 pixels to 32, so that strokes at the border reach the middle of a kernel.
        padding = max(2, -(-(16 - min(height, width)) // 2))
        height, width = ((size + 2 * padding - 4) // 2 for size in (height, width))
        height, width = ((size - 4) // 2 for size in (height, width))
        activation: type[nn.Module] = nn.ReLU if style == "modern" else nn.Tanh
        pool: type[nn.Module] = nn.MaxPool2d if style == "modern" else nn.AvgPool2d
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=padding),
            activation(),
            pool(2),
            nn.Conv2d(6, 16, 5),
            activation(),
            pool(2),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * height * width, 120),
            activation(),
            nn.Linear(120, 84),
            activation(),
            nn.Linear(84, num_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float [B, C, H, W] -> float [B, num_outputs]."""
        y: Tensor = self.classifier(self.features(x))
        return y
