"""Decide from maps alone whether a network looks at a cue of known place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lulc_lib.faithfulness.places import area_under_roc
from lulc_lib.metrics import Interval

LEAST = 0.7  # area under the ROC curve that a cue must have; chance is 0.5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Verdict:
    """Whether maps find a cue.

    Attributes:
        found: the interval lies above every null's and above the least area.
        value: mean area under the ROC curve inside the cues.
        low: lower end of its 95 % bootstrap interval over tiles.
        high: upper end.
        nulls: name -> the same figure of maps that look at no model.
        least: the area that the interval must lie above.
        n: number of tiles.
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
        ValueError: if shapes do not fit, a map is not finite, there are no tiles, or `least` is out
            of range.
    """
    if not 0.5 <= least < 1:
        raise ValueError(f"least must lie in [0.5, 1), where 0.5 is chance, got {least!r}")
    own = _mean_area(heatmap, masks, seed)
    others = {name: _mean_area(maps, masks, seed) for name, maps in nulls.items()}
    bar = max([least, *(other.high for other in others.values())])
    n = len(np.asarray(heatmap))
    return Verdict(own.low > bar, own.value, own.low, own.high, others, least, n)


def _mean_area(heatmap: Any, masks: Any, seed: int) -> Interval:
    """Return the mean area under the ROC curve with its bootstrap interval over tiles."""
    areas = area_under_roc(heatmap, masks)
    if len(areas) == 0:
        raise ValueError("there are no maps, and so no verdict")
    drawn = np.random.default_rng(seed).integers(len(areas), size=(_RESAMPLES, len(areas)))
    low, high = np.quantile(areas[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(areas.mean()), float(low), float(high))
