"""Ask any function for maps: tests of maps need not know how these are made."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from lulc_lib.faithfulness.grids import checked_maps

# (model, images float32 (N, 3, H, W) in [0, 1], target int64 (N,)) -> heat maps float (N, H, W)
Explainer = Callable[[nn.Module, Tensor, np.ndarray], Any]


def maps_of(
    explainer: Explainer, model: nn.Module, images: Tensor, target: np.ndarray
) -> np.ndarray:
    """Return an explainer's maps as float64 (N, H, W).

    Raises:
        ValueError: if their shape or number does not fit, or a value is not finite.
    """
    return checked_maps(explainer(model, images, target), len(images))
