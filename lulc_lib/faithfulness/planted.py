"""Decide from maps alone whether a network looks at a cue of known place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lulc_lib.evidence import LEAST_TILES
from lulc_lib.faithfulness.places import area_under_roc
from lulc_lib.metrics import Interval

LEAST = 0.7  # area under the ROC curve that a cue must have; chance is 0.5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Verdict:
    """Whether maps find a cue.

    Attributes:
        found: the interval lies above every null's and above the least area, and tells something:
            there are at least 10 tiles.
        value: mean area under the ROC curve inside the cues.
        low: lower end of its 95 % bootstrap interval over tiles.
        high: upper end.
        nulls: name -> the same figure of maps that look at no model.
        least: the area that the interval must lie above.
        n: number of tiles with a cue; others, and tiles that are all cue, do not count.
    """

    found: bool
    value: float
    low: float
    high: float
    nulls: dict[str, Interval]
    least: float
    n: int


def finds_cue(
    heatmap: Any, masks: Any, nulls: Mapping[str, Any], least: float = LEAST, seed: int = 0
) -> Verdict:
    """Say whether maps lie on the cues more than those that look at no model.

    Where the cue has nothing to do with the classes, a network whose maps find it answers for a
    wrong reason, a "Clever Hans" (Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4).

    Args:
        heatmap: float (N, H, W), maps of the network.
        masks: bool (N, H, W), the cues, such as `plant(tiles).masks`.
        nulls: name -> maps (N, H, W) of the same tiles that look at no model; may be empty.
        least: in [0.5, 1), chosen before looking at any maps: the area under the ROC curve that
            the whole interval must lie above.
        seed: of the bootstrap.

    Returns:
        The verdict with its figures.

    Raises:
        TypeError: if the masks are not bool.
        ValueError: if shapes do not fit, a map is not finite, no tile has a cue, or `least` is
            out of range.
    """
    if not 0.5 <= least < 1:
        raise ValueError(f"least must lie in [0.5, 1), where 0.5 is chance, got {least!r}")
    own = _areas(heatmap, masks)
    mean = _mean_area(own, seed)
    others = {name: _mean_area(_areas(maps, masks), seed) for name, maps in nulls.items()}
    bar = max([least, *(other.high for other in others.values())])
    found = mean.low > bar and len(own) >= LEAST_TILES
    return Verdict(found, mean.value, mean.low, mean.high, others, least, len(own))


def _areas(heatmap: Any, masks: Any) -> np.ndarray:
    """Return the area under the ROC curve of each map whose tile has a cue, and some ground."""
    areas = area_under_roc(heatmap, masks)
    inside = np.broadcast_to(np.asarray(masks), np.shape(heatmap)).mean(axis=(1, 2))
    areas = areas[(inside > 0) & (inside < 1)]
    if len(areas) == 0:
        raise ValueError("there is no map of a tile with a cue, and so no verdict")
    return areas


def _mean_area(areas: np.ndarray, seed: int) -> Interval:
    """Return the mean with its bootstrap interval over tiles."""
    drawn = np.random.default_rng(seed).integers(len(areas), size=(_RESAMPLES, len(areas)))
    low, high = np.quantile(areas[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(areas.mean()), float(low), float(high))
