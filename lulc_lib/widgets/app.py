"""The panel of `make app`: the shipped models on the test tiles, with nothing around it."""

import html

import ipywidgets

from lulc_lib.predictions import Predictions, cached_predictions
from lulc_lib.quickstart import load_tiles, ready_model
from lulc_lib.splits import split
from lulc_lib.widgets.explorer import Explorer


def class_panel(download: bool = True) -> Explorer | ipywidgets.HTML:
    """Return an explorer of the shipped models on the test tiles of the split "seed42".

    What the models say of the tiles lies beside their checkpoints, so that no model is asked before
    the panel is there; the light model's maps come first. Where there are no tiles, the page says
    why.
    """
    try:
        parts = split(load_tiles(download), "seed42")
    except (OSError, ValueError) as error:
        return ipywidgets.HTML(f"<p role=alert>{html.escape(str(error))}</p>")
    models = {name: ready_model(name, parts) for name in ("resnet50", "vit")}
    known: dict[str, Predictions] = cached_predictions(models, parts.test)
    return Explorer(models, parts.test, known)
