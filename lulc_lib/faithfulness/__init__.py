"""Test what a map claims: whether the model's answer goes with the pixels that the map marks."""

from lulc_lib.faithfulness.adapting import adapted
from lulc_lib.faithfulness.asking import MEASURES
from lulc_lib.faithfulness.deleting import (
    Deletion,
    deletion,
    deletion_order,
    first_pixels,
    insertion,
    random_order,
    removal,
    removal_answers,
    removal_of,
)
from lulc_lib.faithfulness.fills import BLUR_SIGMA, FILLS, remove, swap
from lulc_lib.faithfulness.patches import falls_of, patch_answers, patch_falls, single_deletion
from lulc_lib.faithfulness.places import (
    Mosaics,
    area_under_roc,
    causal,
    mosaics,
    pointing,
    recognised,
    relevance_share,
    share_inside,
)
from lulc_lib.faithfulness.planted import Verdict, finds_cue
from lulc_lib.faithfulness.randomising import (
    cascade,
    complexity,
    complexity_rise,
    randomised,
    survival,
)
from lulc_lib.faithfulness.ranks import rank_correlation
from lulc_lib.faithfulness.stability import stability_noise, stability_turns

__all__ = [
    "BLUR_SIGMA",
    "FILLS",
    "MEASURES",
    "Deletion",
    "Mosaics",
    "Verdict",
    "adapted",
    "area_under_roc",
    "cascade",
    "causal",
    "complexity",
    "complexity_rise",
    "deletion",
    "deletion_order",
    "falls_of",
    "finds_cue",
    "first_pixels",
    "insertion",
    "mosaics",
    "patch_answers",
    "patch_falls",
    "pointing",
    "random_order",
    "randomised",
    "rank_correlation",
    "recognised",
    "relevance_share",
    "removal",
    "removal_answers",
    "removal_of",
    "remove",
    "share_inside",
    "single_deletion",
    "stability_noise",
    "stability_turns",
    "survival",
    "swap",
]
