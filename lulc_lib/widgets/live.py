"""The live page in a notebook: the same code, without a way back to the kernel."""

import json

import anywidget
import traitlets

from lulc_lib.export import static_text
from lulc_lib.live import live_data, live_script
from lulc_lib.models import TileClassifier
from lulc_lib.tiles import TileSet
from lulc_lib.widgets.cells import close_parts, replace_earlier


def _script() -> str:
    markup = f"const MARKUP = {json.dumps(static_text('live_body.html'))};\n"
    return live_script() + static_text("keys.js") + markup + static_text("live_widget.js")


class Live(anywidget.AnyWidget):
    """A Vision Transformer that answers the brush in the notebook's own page.

    The network runs in the browser: once it is shown, the kernel may be busy or gone.

    Args:
        model: a plain ViT, as `create_model("vit")` makes it.
        tiles: the tiles to choose from, at most 400.
        beside: (name, model) whose answers and maps are computed now and stand beside.
        title: heading.

    Raises:
        TypeError: if model or tiles have another type.
        ValueError: if the model is another network, or there are no tiles or too many.
    """

    _esm = _script()
    _css = static_text("style.css") + static_text("live.css")
    data = traitlets.Dict().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)

    def __init__(
        self,
        model: TileClassifier,
        tiles: TileSet,
        beside: tuple[str, TileClassifier] | None = None,
        *,
        title: str | None = None,
    ):
        made = live_data(model, tiles, beside, title=title)
        super().__init__(data=made.data, weights=made.weights)
        replace_earlier(self)

    def close(self) -> None:
        """Take it off the page."""
        close_parts(self)
        super().close()
