"""Test what a map claims: whether the model's answer goes with the pixels that the map marks."""

from lulc_lib.faithfulness.deleting import (
    Deletion,
    deletion,
    deletion_order,
    first_pixels,
    random_order,
)
from lulc_lib.faithfulness.fills import BLUR_SIGMA, FILLS, remove, swap
from lulc_lib.faithfulness.places import Mosaics, mosaics, relevance_share

__all__ = [
    "BLUR_SIGMA",
    "FILLS",
    "Deletion",
    "Mosaics",
    "deletion",
    "deletion_order",
    "first_pixels",
    "mosaics",
    "random_order",
    "relevance_share",
    "remove",
    "swap",
]
