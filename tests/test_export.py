"""The page stands alone, escapes what it is given, and carries the maps it claims to show."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from lulc_lib.explanations import Explanation
from lulc_lib.export import PageLook, explain_for_page, gallery_html, pack_grid
from lulc_lib.metrics import disagreement
from lulc_lib.models import create_model
from lulc_lib.plots import Scale, map_scale
from lulc_lib.predictions import Predictions, predict
from lulc_lib.tiles import CLASSES, TileSet

VOID = {"meta", "img", "input", "br", "wbr", "link"}


class Page(HTMLParser):
    """A page taken apart: elements with attributes, and the text inside each kind of element."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for tag in self.open[-1:]:
            self.text.setdefault(tag, []).append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind that have these attributes."""
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and all(attrs.get(key.rstrip("_")) == v for key, v in wanted.items())
        ]

    @property
    def data(self) -> list[dict]:
        """Return the columns that the page carries."""
        return json.loads(self.text["script"][0])["columns"]


def made(tiles: TileSet, cells: int = 7, low: float = -0.3, seed: int = 0) -> Explanation:
    """Return an explanation with made-up maps."""
    generator = np.random.default_rng(seed)
    shape = (len(tiles), cells, cells)
    grid = generator.uniform(low, 1, shape).astype(np.float32)
    logits = generator.normal(size=(len(tiles), 10)).astype(np.float32)
    heatmap = np.repeat(np.repeat(grid, -(-64 // cells), 1), -(-64 // cells), 2)[:, :64, :64]
    target = logits.argmax(axis=1)
    return Explanation(heatmap, grid, target, logits, "hirescam", "network.layer4", {})


def right(tiles: TileSet) -> Predictions:
    """Return predictions that are all right."""
    logits = 9 * np.eye(10, dtype=np.float32)[tiles.labels.numpy()]
    return Predictions(logits, tiles.labels.numpy(), tiles.names)


@pytest.fixture
def some(tiles: TileSet) -> TileSet:
    """Five tiles of several classes."""
    return tiles[::12]


def written(path: Path, *arguments, **options) -> Page:
    return Page(gallery_html(*arguments, path / "page.html", **options).read_text("utf-8"))


def test_page_stands_alone(some: TileSet, tmp_path: Path):
    """Nothing is loaded from anywhere: all sources are data addresses, no sheet, no frame."""
    page = written(tmp_path, some, {"resnet50": made(some), "vit": made(some, 16)})
    for tag, attrs in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("src", "href", "action", "srcset", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), value
    code = page.text["script"][1] + page.text["style"][0]
    assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|XMLHttp|import\(", code)


def test_policy_admits_its_own_blocks_and_nothing_else(some: TileSet, tmp_path: Path):
    """The hashes in the page's policy are those of its style and its script."""
    page = written(tmp_path, some, {"m": made(some)})
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for kind, text in (("style", page.text["style"][0]), ("script", page.text["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_grids_come_back_within_quantisation(some: TileSet, tmp_path: Path):
    """The int8 grid in the page times its peak is the explanation's grid, to half a step."""
    maps = {"a": made(some, 7), "b": made(some, 16, low=0, seed=1)}
    for column, maps_ in zip(written(tmp_path, some, maps).data, maps.values(), strict=True):
        variant = column["variants"]["predicted"]
        values = np.frombuffer(base64.b64decode(variant["values"]), np.int8)
        shape = (len(some), column["rows"], column["columns"])
        peaks = np.array(variant["peaks"])[:, None, None]
        error = np.abs(values.reshape(shape) * peaks / 127 - maps_.grid)
        assert shape == maps_.grid.shape
        assert (error <= peaks / 254 * (1 + 1e-6)).all()
        assert error.max() > 0
        assert column["signed"]  # hirescam's maps can be, also where these are not
        assert column["limit"] == map_scale(maps_.heatmap).limit


def test_weak_maps_keep_their_size():
    """A map a million times weaker is stored as precisely, with its own peak; zeros stay zeros."""
    grid = np.array([[[1.0, -0.5]], [[1e-6, -5e-7]], [[0, 0]], [[np.nan, 1]]], dtype=np.float32)
    text, peaks = pack_grid(grid)
    values = np.frombuffer(base64.b64decode(text), np.int8).reshape(4, 2)
    assert values.tolist() == [[127, -64], [127, -64], [0, 0], [0, 0]]
    assert peaks == pytest.approx([1, 1e-6, 0, 0])


def test_colours_are_a_table_from_low_to_high(some: TileSet, tmp_path: Path):
    """A signed map's table is red above, blue below and light in the middle."""
    (column,) = written(tmp_path, some, {"m": made(some)}).data
    table = np.frombuffer(base64.b64decode(column["colours"]), np.uint8).reshape(256, 3)
    assert table[255, 0] > table[255, 2]
    assert table[0, 2] > table[0, 0]
    assert table[128].min() > 240


def test_page_without_script_shows_tiles_and_words(some: TileSet, tmp_path: Path):
    """Tiles, labels, predictions, probabilities, grids and ranges are plain HTML."""
    maps, pred = made(some), right(some)
    page = written(tmp_path, some, {"resnet50": maps}, predictions={"resnet50": pred})
    shown = page.all("img", class_="tile")
    assert [image["alt"] for image in shown] == [
        f"Tile {Path(name).name}, label {CLASSES[label]}"
        for name, label in zip(some.names, some.labels, strict=True)
    ]
    text = "".join("".join(parts) for tag, parts in page.text.items() if tag != "script")
    for part in ("7x7 grid, 1 cell = 91 m", "99.9\xa0%", "stage 4", "hirescam", "raw −0."):
        assert part in text
    assert page.all("noscript") or "noscript" in [tag for tag, _ in page.elements]


def test_pictures_and_maps_are_described(some: TileSet, tmp_path: Path):
    """Every map says in words where it is highest; every control has a label."""
    maps = made(some)
    page = written(tmp_path, some, {"resnet50": maps})
    canvases = page.all("canvas")
    assert len(canvases) == len(some)
    row, column = np.unravel_index(maps.grid[0].argmax(), (7, 7))
    assert f"highest in row {row + 1} of 7, column {column + 1} of 7" in canvases[0]["aria-label"]
    assert all(image["alt"] for image in page.all("img"))
    assert all(canvas["role"] == "img" for canvas in canvases)
    labelled = Page("".join(re.findall(r"<label.*?</label>", _text(tmp_path), re.DOTALL)))
    for tag in ("select", "input"):
        assert len(labelled.all(tag)) == len(page.all(tag)) > 0


def _text(folder: Path) -> str:
    return (folder / "page.html").read_text("utf-8")


def test_right_wrong_and_disagreement_are_marked(some: TileSet, tmp_path: Path):
    """Cards carry what the filters ask for, judged over all models."""
    good = right(some)
    bad = replace(good, logits=np.roll(good.logits, 1, axis=1))
    maps = {"a": made(some), "b": made(some)}
    page = written(tmp_path, some, maps, predictions={"a": good, "b": bad})
    cards = page.all("article")
    assert {card["data-verdict"] for card in cards} == {"wrong"}
    assert {card["data-agree"] for card in cards} == {"no"}
    assert "disagree" in [option["value"] for option in page.all("option")]
    page = written(tmp_path, some, maps, predictions={"a": good, "b": good})
    assert {card["data-verdict"] for card in page.all("article")} == {"right"}
    alone = written(tmp_path, some, {"a": made(some)})
    assert "disagree" not in [option["value"] for option in alone.all("option")]


def test_targets_can_be_chosen(some: TileSet, tmp_path: Path):
    """Each target has its own maps, ranges and classes; the first one sets the scale."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=48)
    with pytest.raises(ValueError, match="'vit' lack 1 of the"):
        explain_for_page({"vit": model}, some, ["gradcam"], {"vit": predict(model, some[1:])})
    maps = explain_for_page({"vit": model}, some, ["gradcam", "eigencam"])
    assert list(maps) == ["vit · gradcam", "vit · eigencam"]
    assert list(maps["vit · gradcam"]) == ["predicted", "label", "runner-up"]
    assert list(maps["vit · eigencam"]) == ["predicted"]  # blind to the class
    said = predict(model, some)
    assert (maps["vit · gradcam"]["label"].target == said.labels).all()
    second = said.logits.argsort(axis=1)[:, -2]
    assert (maps["vit · gradcam"]["runner-up"].target == second).all()
    page = written(tmp_path, some, maps)
    gradcam, eigencam = page.data
    assert list(eigencam["variants"]) == ["predicted"]
    assert gradcam["variants"]["runner-up"]["target"] == second.tolist()
    limit = map_scale(maps["vit · gradcam"]["predicted"].heatmap).limit
    assert gradcam["limit"] == pytest.approx(limit)
    assert len(page.all("option", value="runner-up")) == 1
    mixed = {"predicted": made(some), "label": made(some[:4])}
    with pytest.raises(ValueError, match="holds 4 maps, but there are 5 tiles"):
        gallery_html(some, {"m": mixed}, tmp_path / "page.html")


def test_a_page_opens_as_it_was_seen(some: TileSet, tmp_path: Path):
    """Opacity, range, scale, target and notes are the given ones; layers are said in words."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=48)
    maps = explain_for_page({"vit": model}, some[:2], ["gradcam"], target="River")
    assert list(maps["vit"]) == ["River", "predicted", "label", "runner-up"]
    look = PageLook(0.35, True, {"vit": Scale(2.5, True, False)}, {some.names[1]: "a <bank>"})
    page = written(tmp_path, some[:2], maps, look=look)
    assert page.all("input", id="opacity")[0]["value"] == "35"
    assert "checked" in page.all("input", id="own")[0]
    assert page.data[0]["limit"] == 2.5
    river = CLASSES.index("River")
    assert next(iter(page.data[0]["variants"].values()))["target"] == [river, river]
    text = (tmp_path / "page.html").read_text()
    assert text.count("Note: a &lt;bank&gt;") == 1
    layer = maps["vit"]["River"].layer
    assert text.count(layer) == 1  # in the tooltip
    assert f'title="{layer}">output of block 1<' in text


def test_many_columns_begin_with_one_for_each_model(some: TileSet, tmp_path: Path):
    """More than four columns: the first of each model is ticked, the others wait."""
    maps = {f"{m} · {k}": made(some) for m in ("a", "b") for k in ("x", "y", "z")}
    boxes = written(tmp_path, some, maps).all("input", class_="toggle")
    assert ["checked" in box for box in boxes] == [True, False, False, True, False, False]


def test_the_page_knows_what_filters_ask_for(some: TileSet, tmp_path: Path):
    """Predicted class, confidence, loss and disagreement are those of the predictions."""
    good = right(some)
    bad = replace(good, logits=np.roll(good.logits, 1, axis=1))
    path = gallery_html(
        some, {"a": made(some), "b": made(some)}, tmp_path / "page.html", {"a": good, "b": bad}
    )
    data = json.loads(Page(path.read_text("utf-8")).text["script"][0])
    one, other = data["models"]
    assert one["predicted"] == data["labels"] == some.labels.tolist()
    assert other["predicted"] == ((some.labels + 1) % 10).tolist()
    assert one["confidence"] == pytest.approx(good.confidence, abs=1e-4)
    assert other["loss"] == pytest.approx(bad.losses, abs=1e-3)
    assert data["apart"] == pytest.approx(
        disagreement([good.probabilities, bad.probabilities]), abs=1e-4
    )


def test_names_are_escaped(some: TileSet, tmp_path: Path):
    """Names with markup stay names: in words, in attributes and in the data."""
    nasty = '</script><img src=x onerror="alert(1)">&"'
    named = replace(some, names=tuple(f"{i}{nasty}.jpg" for i in range(len(some))))
    maps = replace(made(some), layer=nasty, method=nasty)
    page = written(tmp_path, named, {nasty: maps}, title=nasty)
    plain = written(tmp_path, some, {"m": made(some)})
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.data[0]["name"] == nasty
    assert page.text["h1"] == [nasty]
    assert not any("onerror" in attrs for _, attrs in page.elements)


def test_plain_images_have_no_verdict(some: TileSet, tmp_path: Path):
    """Images without labels are neither right nor wrong, and there is nothing to filter."""
    page = written(tmp_path, some.images, {"m": made(some)}, ground=None)
    text = "".join(page.text["strong"])
    assert "✓" not in text
    assert "✗" not in text
    assert not page.all("select", id="label")
    assert " m across" not in _text(tmp_path)


def test_drawn_tiles_are_not_called_satellite_images(some: TileSet, tmp_path: Path):
    """The credit under the page fits the tiles."""
    written(tmp_path, some, {"m": made(some)})
    assert "made by a program, not satellite images" in _text(tmp_path)
    assert "Copernicus" not in _text(tmp_path)
    written(tmp_path, replace(some, source="eurosat"), {"m": made(some)})
    assert "Copernicus" in _text(tmp_path)


def test_training_tiles_and_broken_maps_are_named(some: TileSet, tmp_path: Path):
    """A tile the model was trained on, a NaN map and a zero map are said in words."""
    maps = made(some)
    maps.grid[0], maps.heatmap[0] = np.nan, np.nan
    maps.grid[1], maps.heatmap[1] = 0, 0
    pred = replace(right(some), seen=np.arange(len(some)) == 2)
    page = written(tmp_path, some, {"m": maps}, predictions={"m": pred})
    text = "".join(page.text["figcaption"] + page.text["span"])
    assert text.count("the model was trained on this tile") == 1
    assert text.count("raw NaN: no map") == 1
    assert text.count("raw 0 everywhere") == 1
    assert page.data[0]["variants"]["predicted"]["peaks"][:2] == [0, 0]


def test_errors_name_what_does_not_fit(some: TileSet, tmp_path: Path):
    """Maps of other tiles and places that cannot be written are refused, and nothing is left."""
    with pytest.raises(ValueError, match="'m' holds 4 maps, but there are 5 tiles"):
        gallery_html(some, {"m": made(some[:4])}, tmp_path / "page.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        gallery_html(some, {"m": made(some)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_browser_draws_the_page(some: TileSet, tmp_path: Path):
    """In a real browser the script runs under the page's own policy and draws every card."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    path = gallery_html(some, {"a": made(some), "b": made(some, 16)}, tmp_path / "page.html")
    result = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--virtual-time-budget=3000",
         f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
         "--window-size=1200,4000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in result.stderr
    page = Page(result.stdout)
    assert "5 of 5 tiles" in page.text["p"]
    assert [card.get("data-drawn") for card in page.all("article")] == ["yes"] * 5
    assert len(page.all("canvas", class_="under")) == 10


STATIC = Path(__file__).parents[1] / "lulc_lib" / "static"


def test_each_token_is_set_once():
    """Colours for light and dark stand in style.css alone, each in one line."""
    owner = (STATIC / "style.css").read_text()
    names = re.findall(r"^  (--lulc-[a-z-]+):", owner, re.MULTILINE)
    assert len(names) == len(set(names)) > 10
    for sheet in STATIC.glob("*.css"):
        text = sheet.read_text()
        assert set(re.findall(r"var\((--lulc-[a-z-]+)", text)) <= set(names), sheet.name
        if sheet.name != "style.css":
            assert not re.search(r"--(lulc|ll)-[a-z-]+:|prefers-color-scheme", text), sheet.name


def test_pages_share_their_head():
    """Only one file is a whole document; the others are bodies."""
    heads = [file.name for file in STATIC.glob("*.html") if "<head>" in file.read_text()]
    assert heads == ["page.html"]
