"""The methods: what each is called, what a reader must know of it, and what makes its maps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lulc_lib.explanations import attention, cam, gates, nulls, pixels
from lulc_lib.explanations.batch import Batch
from lulc_lib.explanations.cam import (
    elementwise_form,
    gradcam_form,
    gradcam_pp_form,
    hirescam_form,
    layercam_form,
    xgradcam_form,
)
from lulc_lib.wording import did_you_mean


@dataclass(frozen=True)
class Method:
    """One way to explain, and what a reader must know of it.

    Attributes:
        name: what `explain(method=...)` takes.
        family: cam, attention, gradient, perturbation or null.
        signed: whether its maps can hold negative values at all.
        class_blind: whether its maps are the same for every target.
        cost: the passes one map takes.
        source: the paper.
        maps: makes the maps (N, h, w) of a batch.
        layered: looks at one layer, which the caller may choose.
        slopes: needs that layer's gradient.
        takes_contrast: whether it answers "why A, not B".
    """

    name: str
    family: str
    signed: bool
    class_blind: bool
    cost: str
    source: str
    maps: Callable[[Batch], np.ndarray]
    layered: bool = False
    slopes: bool = False
    takes_contrast: bool = False


def _cam(name: str, signed: bool, source: str, maps: Any, **facts: Any) -> Method:
    facts = {"class_blind": False, "cost": _HEAD, "slopes": True, **facts}
    return Method(name, "cam", signed, source=source, maps=maps, layered=True, **facts)


_HEAD = "1 forward pass + gradient of the layers above"
_EACH = "1 forward pass + gradient of the layers above for each class"
_CHANNELS = "1 pass for each channel of the layer"
_METHODS = (
    _cam("gradcam", True, "Selvaraju et al. 2017, arXiv:1610.02391",
         cam.cam("GradCAM", gradcam_form)),
    _cam("gradcam++", True, "Chattopadhay et al. 2018, arXiv:1710.11063",
         cam.cam("GradCAMPlusPlus", gradcam_pp_form)),
    _cam("hirescam", True, "Draelos and Carin 2020, arXiv:2011.08891",
         cam.cam("HiResCAM", hirescam_form)),
    _cam("elementwise", False, "pytorch-grad-cam, GradCAMElementWise",
         cam.cam("GradCAMElementWise", elementwise_form)),
    _cam("xgradcam", True, "Fu et al. 2020, arXiv:2008.02312",
         cam.cam("XGradCAM", xgradcam_form)),
    _cam("layercam", True, "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
         cam.cam("LayerCAM", layercam_form)),
    _cam("eigencam", True, "Muhammad and Yeasin 2020, arXiv:2008.00299",
         cam.eigencam, class_blind=True, cost="1 forward pass", slopes=False),
    _cam("eigengradcam", True, "pytorch-grad-cam, EigenGradCAM", cam.eigengradcam),
    _cam("scorecam", True, "Wang et al. 2020, arXiv:1910.01279",
         cam.scorecam, cost=_CHANNELS, slopes=False),
    _cam("ablationcam", True, "Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360",
         cam.ablationcam, cost=_CHANNELS + ", through the layers above alone", slopes=False),
    _cam("finercam", True, "Zhang et al. 2025, arXiv:2501.11309", cam.finercam,
         takes_contrast=True),
    _cam("libragrad", True, "Mehri et al. 2024, arXiv:2411.16760", gates.libragrad,
         cost="2 forward passes + gradient of the layers above", slopes=False),
    _cam("contributions", True, "Zhou et al. 2016, arXiv:1512.04150, for each class",
         gates.contributions, cost=_EACH, slopes=False),
    _cam("competition", True, "Walter, Vreeken and Fischer 2026, arXiv:2503.07346",
         gates.competition, cost=_EACH, slopes=False),
    Method("refinecam", "cam", False, False, "2 forward passes + gradient of several layers",
           "Domeniconi et al. 2026, arXiv:2605.14641", cam.refinecam),
    Method("rollout", "attention", False, True, "1 forward pass",
           "Abnar and Zuidema 2020, arXiv:2005.00928", attention.rollout),
    Method("relevance", "attention", False, False, "1 forward + 1 backward pass",
           "Chefer, Gur and Wolf 2021, arXiv:2103.15679", attention.relevance),
    Method("legrad", "attention", False, False, "1 forward + 1 backward pass",
           "Bousselham et al. 2024, arXiv:2404.03214", attention.legrad),
    Method("inputxgradient", "gradient", True, False, "1 forward + 1 backward pass",
           "Shrikumar et al. 2016, arXiv:1605.01713", pixels.input_x_gradient),
    Method("smoothgrad", "gradient", True, False, f"{pixels.SAMPLES} forward + backward passes",
           "Smilkov et al. 2017, arXiv:1706.03825", pixels.smoothgrad),
    Method("integratedgradients", "gradient", True, False,
           f"{pixels.STEPS} forward + backward passes",
           "Sundararajan et al. 2017, arXiv:1703.01365", pixels.integrated_gradients),
    Method("fullgrad", "gradient", True, False, "1 forward + 1 backward pass",
           "Srinivas and Fleuret 2019, arXiv:1905.00780", pixels.fullgrad),
    Method("occlusion", "perturbation", True, False, "226 forward passes",
           "Zeiler and Fergus 2014, arXiv:1311.2901", pixels.occlusion),
    Method("random", "null", True, True, "none", "a normal draw for each pixel", nulls.random),
    Method("cells", "null", True, True, "none", "a normal draw for each cell of the model's grid",
           nulls.cells),
    Method("centre", "null", False, True, "none", "a Gaussian of 16 px", nulls.centre),
    Method("edge", "null", False, True, "none", "Sobel and Feldman 1968", nulls.edge),
    Method("blur", "null", False, True, "none", "brightness blurred by 4 px", nulls.blur),
)  # fmt: skip
METHODS = {method.name: method for method in _METHODS}
DEFAULT_METHOD = "gradcam"  # of `explain(method=None)`, and of all that draws maps unasked


def methods() -> pd.DataFrame:
    """List the methods that `explain` knows.

    Returns:
        DataFrame with name; family (cam | attention | gradient | perturbation | null); signed (its
        maps can be negative; gradcam++ and layercam only where activations can be, as in a ViT);
        class-blind (the same map for every target); cost (beside one forward pass for the
        logits); source (the paper).
    """
    columns = ["name", "family", "signed", "class-blind", "cost", "source"]
    rows = [(m.name, m.family, m.signed, m.class_blind, m.cost, m.source) for m in _METHODS]
    return pd.DataFrame(rows, columns=columns)


def method_named(name: Any) -> Method:
    """Return a method by its name.

    Raises:
        ValueError: if there is none, with the nearest one.
    """
    if isinstance(name, str) and (parts := name.partition("@"))[0] in METHODS and parts[1]:
        raise ValueError(
            f"unknown method {name!r}; give the layer apart from the method: {parts[0]!r}, and "
            f"{parts[2]!r} as its layer"
        )
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"unknown method {name!r}{nearest(str(name), list(METHODS))}")
    return METHODS[name]


def nearest(name: str, known: list[str]) -> str:
    """Return a hint at the nearest known name, and all of them."""
    return f"{did_you_mean(name, known, cutoff=0.4, otherwise='.')} There are {', '.join(known)}"
