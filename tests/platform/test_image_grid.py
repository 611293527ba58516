from __future__ import annotations

import numpy as np
import pytest
import torch

from trivium.data.pictures import image_grid


def test_pixels_become_squares_in_reading_order() -> None:
    images = torch.tensor([[0.0, 1.0], [0.5, 0.25], [2.0, -1.0]]).reshape(3, 1, 1, 2)  # clipped to [0, 1]
    grid = image_grid(images, columns=2, width=44)  # pixels of 10 x 10, a margin of 2
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * 12 + 2, 2 * 22 + 2, 3)
    assert grid[:2].tolist() == np.full((2, 46, 3), 64).tolist()
    for row, column, left, right in ((0, 0, 0, 255), (0, 1, 128, 64), (1, 0, 255, 0), (1, 1, 64, 64)):
        y, x = 2 + 12 * row, 2 + 22 * column
        assert (grid[y : y + 10, x : x + 10] == left).all()
        assert (grid[y : y + 10, x + 10 : x + 20] == right).all()


def test_colour_and_large_images_keep_their_pixels() -> None:
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    grid = image_grid(image, columns=1, width=10)
    assert grid.shape == (50, 60, 3)
    assert (grid[5:45, 5:55] == image[0].permute(1, 2, 0).mul(255).round().byte().numpy()).all()
    assert image_grid(torch.zeros(64, 1, 8, 8), columns=8).shape == (502, 502, 3)


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (0, 1, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        image_grid(torch.zeros(shape), columns=2)
