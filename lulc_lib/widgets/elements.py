"""What a reader works with: four elements that draw what they are given and send what was done.

Each is one self-contained ES module from `lulc_lib/static/`, without a build step. An element holds
no state of its own: `shown` goes to the page, messages come back.
"""

import base64
from collections.abc import Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets

from lulc_lib.export import static_text
from lulc_lib.images import data_uri, png_bytes

_STYLE = static_text("style.css") + static_text("explorer.css")


def _script(*names: str) -> str:
    return "".join(map(static_text, names))


class Form(anywidget.AnyWidget):
    """Controls that `fixed` describes; `shown` has their values and what does not apply.

    `saved` is the file that was made last, sent once: its name and its bytes as an address. Sends
    {kind: "set", name, value, tile}, {kind: "toggle", name, value, on}, {kind: "press", name} and
    {kind: "upload", name} with the file's bytes.
    """

    _esm = _script("redraw.js", "form.js")
    _css = _STYLE
    fixed = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    saved = traitlets.Dict({"name": "", "address": ""}).tag(sync=True)


class Look(anywidget.AnyWidget):
    """The tile with its tools, and beside it each model's probabilities and maps.

    `fixed` never changes: names and colours of the classes, colour tables. Sends {kind: "stroke",
    points, done, tile}, {kind: "set", name, value}, {kind: "act", name, tile}, {kind: "stop"},
    {kind: "guess", value, tile} and {kind: "link", text}; `tile` is the one that the reader saw.
    """

    _esm = _script("keys.js", "redraw.js", "shared.js", "look.js")
    _css = _STYLE
    fixed = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict({"tile": "", "words": "", "answers": []}).tag(sync=True)
    progress = traitlets.Dict({"words": "", "problem": "", "busy": False}).tag(sync=True)
    link = traitlets.Unicode("").tag(sync=True)


class Thumbnails(anywidget.AnyWidget):
    """A page of tiles, whose pictures lie in `sprite`, sent when the page turns alone.

    Sends {kind: "pick", name} and {kind: "page", by}.
    """

    _esm = _script("shared.js", "thumbnails.js")
    _css = _STYLE
    sprite = traitlets.Unicode("").tag(sync=True)
    shown = traitlets.Dict({"items": [], "words": ""}).tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)


class Matrix(anywidget.AnyWidget):
    """A confusion matrix. Sends {kind: "cell", row, column} and {kind: "clear"}."""

    _esm = _script("redraw.js", "matrix.js")
    _css = _STYLE
    shown = traitlets.Dict({"counts": [], "words": ""}).tag(sync=True)


class Scatter(anywidget.AnyWidget):
    """The embedding map.

    Sends {kind: "hover", index}, {kind: "point", index} and {kind: "lasso", indices}.
    """

    _esm = _script("shared.js", "scatter.js")
    _css = _STYLE
    cloud = traitlets.Dict({"places": ""}).tag(sync=True)
    hover = traitlets.Dict({"index": -1}).tag(sync=True)
    shown = traitlets.Dict({"words": "", "chosen": -1, "lassoed": False}).tag(sync=True)


def encoded(array: np.ndarray) -> str:
    """Return an array's bytes as base64, for the page's typed arrays."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def sprite(images: Sequence[np.ndarray]) -> str:
    """Return tiles uint8 (N, 3, 64, 64) below each other as one PNG's data URI."""
    return data_uri(png_bytes(np.concatenate(list(images), axis=1)))


def listener(element: Any, act: Any) -> None:
    """Call `act(message)` for each message of an element; a file's bytes come as "content"."""

    def heard(_: Any, content: dict[str, Any], buffers: Any) -> None:
        act({**content, "content": bytes(buffers[0])} if buffers else content)

    element.on_msg(heard)
