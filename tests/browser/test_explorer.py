"""The explorer as a reader meets it: JupyterLab, its kernel and a browser, all of them real."""

import ast
import base64
import json
import re

import numpy as np
import pytest

pytestmark = pytest.mark.browser

# Untrained networks: what they answer does not matter here, that it arrives on the page does.
MODELS = """\
import torch
import lulc_lib as lulc
torch.manual_seed(0)
tiles = lulc.synthetic(n_per_class=8, seed=0)
models = {"resnet50": lulc.create_model("resnet18", image_size=64),
          "vit": lulc.create_model("vit", depth=1, embed_dim=48, num_heads=3)}
preds = {name: lulc.predict(model, tiles, features=True) for name, model in models.items()}"""
SHOW = "explorer = lulc.Explorer(models, tiles, preds)\nexplorer"
BARE = "bare = lulc.Explorer(models, tiles[:40])\nbare"
# Networks whose report cards recommend two methods, of which one has no sign; their biases are
# moved so that the tiles get several answers.
CARDS = """\
import copy, pathlib, tempfile
from lulc_lib.evidence import Recommendation, ReportCard, network_digest
from lulc_lib.predictions import weights_digest
from lulc_lib.widgets.state import Stroke
tested, folder = copy.deepcopy(models), pathlib.Path(tempfile.mkdtemp())
for name, method in (("resnet50", "elementwise"), ("vit", "libragrad")):
    with torch.no_grad():
        mean = torch.from_numpy(preds[name].logits.mean(axis=0))
        tested[name].network.get_classifier().bias -= mean
    tested[name].report_file = folder / name
    best, digest = Recommendation(method, None, ""), weights_digest(tested[name])
    of = {"network": network_digest(tested[name])}
    ReportCard(name, digest, "", "", (), best, **of).save(folder / name)
answers = {name: lulc.predict(model, tiles) for name, model in tested.items()}
carded = lulc.Explorer(tested, tiles, answers)
carded"""
# Paints the tile over with one that the ViT takes for another class.
FLIP = """\
said = answers["vit"].predicted
other = tiles.names[int((said != said[0]).nonzero()[0][0])]
whole = Stroke("swap", 64.0, ((32.0, 32.0),), other)
carded.show(tile=tiles.names[0], strokes=(whole,), beside="before")"""
FLIPPED = "[lulc.CLASSES[said[tiles.names.index(name)]] for name in (other, tiles.names[0])]"

PROBABILITIES = "els => els.map(e => e.innerText)"


@pytest.fixture(scope="module")
def cells(lab, page):
    """The cells of a notebook that has run: models, an explorer, one that must predict."""
    page.goto(lab.write("explorer.ipynb", MODELS, SHOW, BARE, CARDS))
    lab.run_all(page)
    lab.toggle_files(page)
    return page.locator(".jp-Notebook .jp-Cell")


@pytest.fixture
def panel(page, cells):
    """The panel of the first explorer, wide, with its first map drawn."""
    page.set_viewport_size({"width": 1200, "height": 1100})
    panel = cells.nth(1)
    panel.locator(".lulc-over").first.wait_for()
    panel.scroll_into_view_if_needed()
    return panel


def answers(panel) -> list[str]:
    """The probabilities on the page."""
    return panel.locator(".lulc-bar-value").evaluate_all(PROBABILITIES)


def answers_after(page, panel, old: list[str]) -> list[str]:
    """The probabilities on the page, as soon as they are no longer the old ones."""
    page.wait_for_function(
        f"([el, old]) => String(({PROBABILITIES})([...el.querySelectorAll('.lulc-bar-value')]))"
        " !== old",
        arg=[panel.element_handle(), ",".join(old)],
    )
    return answers(panel)


def in_kernel(page, code: str, expression: str = "None"):
    """Run code in the kernel of the notebook, then return what an expression is there."""
    text = page.evaluate(
        """([code, expression]) => new Promise(done => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const asked = kernel.requestExecute({
                code, silent: true, user_expressions: {found: expression},
            });
            asked.done.then(({content}) => done(content.user_expressions.found.data['text/plain']));
        })""",
        [code, expression],
    )
    return ast.literal_eval(text)


def taken(panel) -> int:
    """The number of the state that the page has drawn last."""
    return int(panel.locator(".lulc-look").get_attribute("data-taken"))


def redrawn(page, panel, act) -> None:
    """Act, and wait until the page has drawn all that came of it."""
    before = taken(panel)
    act()
    page.wait_for_function(
        "([el, n]) => Number(el.dataset.taken) > n && el.dataset.pending === '0'",
        arg=[panel.locator(".lulc-look").element_handle(), before],
    )


def test_find(lab, page, panel, screenshot):
    """Dropdowns, thumbnails, keys, the confusion matrix and the lasso choose tiles."""
    thumbs = panel.locator(".lulc-thumbnail")
    assert thumbs.count() == 60
    screenshot("explorer-1200-first")
    redrawn(page, panel, lambda: panel.get_by_label("Label", exact=True).select_option("River (8)"))
    thumbs.nth(8).wait_for(state="detached")  # the tile may be drawn first
    assert thumbs.count() == 8
    assert "River_1.jpg" in panel.locator(".lulc-caption").inner_text()
    redrawn(page, panel, lambda: thumbs.nth(3).click())
    assert "River_4.jpg" in panel.locator(".lulc-caption").inner_text()
    redrawn(page, panel, lambda: page.keyboard.press("ArrowRight"))
    assert "River_5.jpg" in panel.locator(".lulc-caption").inner_text()
    assert panel.locator('.lulc-thumbnail[aria-selected="true"]').count() == 1
    redrawn(page, panel, lambda: panel.get_by_role("button", name="clear filters").click())
    panel.get_by_role("button", name="next page").click()
    panel.get_by_text("61–80 of 80").wait_for()

    panel.get_by_role("tab", name="confusion").click()
    cell = panel.locator(".lulc-cell:not([disabled])").first
    right = "el => el.getBoundingClientRect().right"
    edge = panel.locator(".lulc-side").evaluate(right)
    assert panel.locator(".lulc-cell").last.evaluate(right) < edge - 4  # the whole matrix is seen
    words = cell.get_attribute("aria-label")
    screenshot("explorer-confusion")
    redrawn(page, panel, cell.click)
    count = int(re.match(r"\d+", words)[0])
    panel.get_by_text(f"1–{count} of {count}").wait_for()
    redrawn(page, panel, lambda: panel.get_by_role("button", name="clear filters").click())

    panel.get_by_role("tab", name="features").click()
    canvas = panel.locator(".lulc-scatter > canvas")
    panel.get_by_text("PCA").wait_for()
    box = canvas.bounding_box()
    left, top, side = box["x"], box["y"], box["width"]
    page.mouse.move(left + 2, top + 2)
    page.mouse.down()
    for x, y in ((0.99, 0.01), (0.99, 0.6), (0.01, 0.6)):
        page.mouse.move(left + x * side, top + y * side, steps=4)
    screenshot("explorer-lasso")
    page.mouse.up()
    panel.get_by_text("tiles in the lasso").wait_for()
    canvas.hover(position={"x": side / 2, "y": side / 2})
    page.mouse.wheel(0, -400)
    assert panel.get_by_role("button", name="whole map").is_enabled()
    panel.get_by_role("button", name="whole map").click()
    panel.get_by_role("button", name="clear the lasso").click()
    places = in_kernel(page, "", "explorer._scatter.cloud['places']")
    places = np.frombuffer(base64.b64decode(places), dtype=np.float32).reshape(-1, 2)
    apart = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(len(places))
    x, y = places[apart.min(axis=1).argmax()]  # a point by itself
    spot = {"x": float(side * (240 + 232 * x) / 480), "y": float(side * (240 - 232 * y) / 480)}
    hover = panel.locator(".lulc-hover")
    for _ in range(2):  # its picture comes again
        canvas.hover(position=spot)
        hover.wait_for()
        panel.get_by_role("tab", name="features").hover()
        hover.wait_for(state="hidden")
    panel.get_by_role("tab", name="tiles").click()
    panel.get_by_text("–60 of 80").wait_for()
    assert lab.errors(page) == []


def unfold(panel, words):
    """Open a section below the tile."""
    section = panel.locator("details.lulc-section", has_text=words).first
    if section.get_attribute("open") is None:
        section.locator("summary").first.click()
    return section


def choose(page, panel, *names):
    """Tick just these methods."""
    section = unfold(panel, "Maps:")
    boxes = section.locator(".lulc-methods input")
    ticked = boxes.evaluate_all("all => all.filter(one => one.checked).map(one => one.value)")
    for name in [*(n for n in names if n not in ticked), *(n for n in ticked if n not in names)]:
        redrawn(page, panel, section.locator(f'.lulc-methods input[value="{name}"]').click)


def test_look(lab, page, panel, screenshot):
    """Method, target and layer change the maps; what cannot be is said beside them."""
    choose(page, panel, "gradcam", "eigencam")
    assert panel.locator(".lulc-map").count() == 4
    assert panel.locator(".lulc-method").count() == 2  # one legend for the maps of a method
    assert "for the class" in panel.locator(".lulc-method").first.inner_text()
    panel.locator(".lulc-map details summary").last.click()
    panel.get_by_text("eigencam does not look at the class").last.wait_for()
    # A state that comes later, be it asked for or not, leaves open what the reader opened.
    redrawn(page, panel, lambda: panel.get_by_label("Map for").select_option("SeaLake"))
    assert panel.get_by_text("eigencam does not look at the class").last.is_visible()
    assert panel.locator(".lulc-map details[open]").count() == 1
    assert "map for SeaLake" in panel.locator(".lulc-map figcaption").first.inner_text()
    redrawn(
        page, panel, lambda: panel.get_by_label("Show").select_option("only what is for the class")
    )
    assert panel.get_by_label("and not", exact=True).is_disabled()  # with its reason beside it
    assert "only finercam compares" in panel.locator('[data-name="contrast"]').inner_text()
    own = panel.get_by_role("button", name="each map its own range").first
    redrawn(page, panel, own.click)
    focused = page.evaluate("document.activeElement.innerText")
    assert focused == "one scale for all tiles"  # the button that was clicked, drawn anew
    assert panel.get_by_text("not to be compared with other maps").count() == 2
    redrawn(page, panel, panel.get_by_role("button", name="one scale for all tiles").first.click)
    screenshot("explorer-methods")
    choose(page, panel, "rollout")
    panel.get_by_text("resnet50 has no map by rollout").wait_for()
    screenshot("explorer-problem")
    choose(page, panel, "gradcam")
    assert lab.errors(page) == []


def test_paint(lab, page, panel, screenshot):
    """A stroke of the mouse changes probabilities; undo, redo, compare and keys work."""
    tile = panel.locator(".lulc-tile")
    tile.scroll_into_view_if_needed()
    clean = answers(panel)
    redrawn(page, panel, panel.locator('[data-tool="texture"]').click)  # changes every tile
    box = tile.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 170, box["y"] + 130, steps=8)
    for kind in ("pointerdown", "pointermove", "pointerup"):  # a second finger
        tile.dispatch_event(kind, {"pointerId": 7, "clientX": box["x"], "clientY": box["y"]})
    redrawn(page, panel, page.mouse.up)
    panel.get_by_text("1 stroke").wait_for()
    points = in_kernel(page, "", "explorer.state.strokes[0].points")
    assert len(points) > 3
    assert min(min(point) for point in points) > 5  # nothing of the other finger's corner
    painted = answers_after(page, panel, clean)
    assert panel.locator(".lulc-bar-before").count() >= 4
    screenshot("explorer-painted")
    compare = panel.get_by_role("button", name="compare")
    redrawn(page, panel, compare.click)
    panel.locator(".lulc-still").wait_for()
    assert panel.locator(".lulc-pair .lulc-stack").count() == 4
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    sides = panel.locator(".lulc-sides").first.inner_text().split("\n")
    assert sides[::2] == ["this tile", "before painting"]
    assert all("map for " in words for words in sides[1::2])
    rings = panel.locator(".lulc-spot").evaluate_all(
        "all => all.filter(one => getComputedStyle(one, '::after').display === 'block').length"
    )
    assert rings == 5  # the other tile and four maps
    screenshot("explorer-compare")
    redrawn(page, panel, compare.click)
    redrawn(page, panel, lambda: panel.get_by_role("button", name="undo").click())
    assert answers_after(page, panel, painted) == clean
    redrawn(page, panel, lambda: panel.get_by_role("button", name="next", exact=True).click())
    other = answers_after(page, panel, clean)
    redrawn(page, panel, lambda: panel.get_by_role("button", name="redo").click())
    assert answers_after(page, panel, other) == painted  # on the tile that it was painted on
    redrawn(page, panel, lambda: panel.get_by_role("button", name="undo").click())
    tile.focus()
    for key in ("ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(key)
    panel.get_by_text("1 stroke").wait_for()
    assert page.locator(".jp-Notebook .jp-Cell").count() == 4  # the notebook took none of the keys
    redrawn(page, panel, lambda: page.keyboard.press("Backspace"))
    redrawn(page, panel, lambda: page.keyboard.press("m"))
    assert panel.locator('[data-tool="mean"]').get_attribute("aria-pressed") == "true"
    assert panel.locator('[data-tool="swap"]').is_disabled()
    panel.locator(".lulc-stack").first.click()  # keys work wherever the panel was clicked
    redrawn(page, panel, lambda: page.keyboard.press("t"))
    panel.locator(".lulc-caption").click()
    redrawn(page, panel, lambda: page.keyboard.press("b"))
    assert panel.locator('[data-tool="blur"]').get_attribute("aria-pressed") == "true"
    unfold(panel, "Delete, note, keep")
    note = panel.get_by_label("Note on this tile")
    note.press_sequentially("tm")  # but where text is typed
    assert note.input_value() == "tm"
    note.fill("")
    assert panel.locator('[data-tool="blur"]').get_attribute("aria-pressed") == "true"
    assert page.locator(".jp-Notebook .jp-Cell").count() == 4
    assert "take from it" in panel.locator('[data-tool="swap"]').get_attribute("title")
    assert lab.errors(page) == []


def test_each_map_names_its_method_and_class(lab, page, cells, screenshot):
    """Also where report cards recommend different methods, and where painting changes the class."""
    page.set_viewport_size({"width": 1200, "height": 1100})
    panel = cells.nth(3)
    panel.scroll_into_view_if_needed()
    panel.locator(".lulc-over").nth(1).wait_for()
    assert panel.locator(".lulc-method b").inner_text() == "recommended"
    captions = panel.locator(".lulc-map figcaption").all_inner_texts()
    assert [words.split(",")[0] for words in captions] == ["elementwise", "libragrad"]
    legends = panel.locator(".lulc-scale").all_inner_texts()
    assert [" ".join(words.split()) for words in legends] == [
        "resnet50: nothing for the class",
        "vit: against the class for the class",
    ]
    redrawn(page, panel, lambda: in_kernel(page, FLIP))
    now, before = in_kernel(page, "pass", FLIPPED)
    sides = panel.locator(".lulc-map").nth(1).locator(".lulc-sides > span").all_inner_texts()
    assert sides[0].startswith(f"this tile\nlibragrad, map for {now}")
    assert sides[1].startswith(f"before painting\nlibragrad, map for {before}")
    details = panel.locator(".lulc-map").nth(1).locator("details")
    details.locator("summary").click()
    assert "this tile: " in details.inner_text()
    assert "before painting: " in details.inner_text()
    screenshot("explorer-recommended")
    panel.get_by_role("tab", name="confusion").click()
    one = panel.locator(".lulc-cell", has_text=re.compile("^1$")).first
    assert one.get_attribute("aria-label").startswith("1 tile with label ")
    assert lab.errors(page) == []


def test_what_is_being_typed_stays(lab, page, panel):
    """A file that is ready, or another change, leaves the field alone; another tile does not."""
    unfold(panel, "Delete, note, keep")
    note = panel.get_by_label("Note on this tile")
    note.press_sequentially("half a no")
    redrawn(page, panel, lambda: in_kernel(page, "explorer._keep_state(); explorer.show(page=0)"))
    panel.locator('a[download="view.json"]').wait_for()
    assert note.input_value() == "half a no"
    lowest = panel.get_by_label("Confidence from")
    redrawn(page, panel, lowest.focus)  # the note is sent
    assert in_kernel(page, "pass", "explorer.state.note(explorer.state.tile)") == "half a no"
    lowest.press("End")
    lowest.press_sequentially("7")
    redrawn(page, panel, lambda: in_kernel(page, "explorer.show(opacity=0.5)"))
    assert lowest.input_value() == "07"
    lowest.fill("0")
    note.press("End")
    note.press_sequentially("te")
    redrawn(page, panel, lambda: in_kernel(page, "explorer.step(); explorer.show(notes=())"))
    assert note.input_value() == ""
    assert lab.errors(page) == []


def test_controls_show_what_is_set(lab, page, panel):
    """The last method stays ticked, a probability keeps its decimals, and one tile is no tiles."""
    choose(page, panel, "gradcam")
    box = panel.locator('.lulc-methods input[value="gradcam"]')
    box.click()
    panel.get_by_text("one method stays: tick another one first").wait_for()
    assert box.is_checked()
    redrawn(page, panel, lambda: in_kernel(page, "explorer.show(confidence=(0.995, 1.0))"))
    assert panel.get_by_label("Confidence from").input_value() == "99.5"
    highest = panel.get_by_label("Confidence to")
    highest.fill("99.9")
    redrawn(page, panel, highest.blur)
    assert in_kernel(page, "pass", "explorer.state.confidence") == pytest.approx((0.995, 0.999))
    redrawn(page, panel, panel.get_by_role("button", name="clear filters").click)
    highest.fill("150")
    redrawn(page, panel, highest.blur)
    assert highest.input_value() == "100"
    panel.get_by_role("tab", name="features").click()
    redrawn(page, panel, lambda: in_kernel(page, "explorer.show(among=tiles.names[:1])"))
    panel.get_by_text("1 tile in the lasso").wait_for()
    redrawn(page, panel, panel.get_by_role("button", name="clear filters").click)
    panel.get_by_role("tab", name="tiles").click()
    assert lab.errors(page) == []


def test_a_file_that_is_too_large_is_said(lab, page, panel):
    """The connection that it would close stays, and there is another way."""
    chooser = unfold(panel, "Delete, note, keep").locator('input[type="file"]')
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(10_500_000)}
    chooser.set_input_files(large)
    panel.get_by_text("large.png has 10.5 MB, and at most 10 MB can be opened here").wait_for()
    assert "explorer.add_picture(path)" in panel.locator('[data-name="upload"]').inner_text()
    assert lab.errors(page) == []


def test_a_story_is_told(lab, page, panel, screenshot):
    """The answers are hidden until the reader has predicted; then they are shown beside it."""
    redrawn(page, panel, lambda: panel.get_by_label("Story").select_option("A lost river"))
    assert panel.locator(".lulc-answer").count() == 0
    assert "River" not in panel.locator(".lulc-caption").inner_text()
    assert "River" not in panel.locator(".lulc-thumbnail").first.get_attribute("title")
    screenshot("explorer-story")
    guess = panel.locator(".lulc-guess button").nth(3)
    redrawn(page, panel, lambda: guess.press("Enter"))
    # The button is gone: the focus stays in the panel, where the tools' keys are heard.
    assert page.evaluate("document.activeElement.matches('.lulc-story')")
    panel.get_by_text("You expected Highway").wait_for()
    assert panel.locator(".lulc-answer").count() == 2
    redrawn(page, panel, panel.get_by_role("button", name="end the story").click)
    redrawn(page, panel, panel.get_by_role("button", name="clear filters").click)
    unfold(panel, "Maps:")
    redrawn(page, panel, lambda: panel.get_by_label("Map for").select_option("the predicted class"))
    assert lab.errors(page) == []


def test_keep(lab, page, panel, screenshot, tmp_path):
    """Picture, page and view can be saved, the page opens, the view opens as it was."""
    panel.get_by_role("tab", name="tiles").click()
    redrawn(
        page, panel, lambda: panel.get_by_label("Label", exact=True).select_option("Forest (8)")
    )
    section = unfold(panel, "Delete, note, keep")
    note = panel.get_by_label("Note on this tile")
    note.fill("trees")
    redrawn(page, panel, note.blur)
    saved = {}
    for button, name in (("picture", ".png"), ("page", "tiles.html"), ("view", "view.json")):
        panel.get_by_role("button", name=f"keep as {button}").click()
        link = panel.locator(f'a[download$="{name}"]').last
        link.wait_for()
        with page.expect_download() as download:
            link.click()
        saved[name] = tmp_path / name
        download.value.save_as(saved[name])
    assert saved[".png"].read_bytes().startswith(b"\x89PNG")
    assert saved["tiles.html"].read_text().count("<article") == 8
    state = json.loads(saved["view.json"].read_text())
    assert state["label"] == "Forest"
    assert [text for _, text in state["notes"]] == ["trees"]
    redrawn(page, panel, lambda: panel.get_by_role("button", name="clear filters").click())
    chooser = section.locator('input[type="file"]')
    redrawn(page, panel, lambda: chooser.set_input_files(saved["view.json"]))
    panel.get_by_text("1–8 of 8").wait_for()
    assert note.input_value() == "trees"
    assert section.locator(".lulc-notes li").count() == 1
    screenshot("explorer-restored")
    assert lab.errors(page) == []


def test_it_opens_before_its_predictions(lab, page, cells, screenshot):
    """Without predictions the panel is there, and fills in."""
    bare = cells.nth(2)
    bare.scroll_into_view_if_needed()
    bare.locator(".lulc-over").first.wait_for()
    bare.get_by_label("Answer", exact=True).select_option("wrong")
    bare.locator(".lulc-thumbnail.lulc-is-wrong").first.wait_for()
    assert lab.errors(page) == []


@pytest.mark.parametrize("width", [1200, 700, 400])
@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_is_legible(page, panel, screenshot, width, theme):
    """Nothing sticks out of the panel, and words stand out from their ground, in both themes."""
    page.set_viewport_size({"width": width, "height": 1100})
    page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    dark = theme.endswith("Dark")
    page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(not dark).lower()}'")
    page.wait_for_timeout(500)
    panel.locator(".lulc-findbar").evaluate("bar => bar.scrollIntoView({block: 'start'})")
    screenshot(f"explorer-{width}-{'dark' if dark else 'light'}")
    right = "part => part.getBoundingClientRect().right"
    parts = panel.locator(".lulc-look, .lulc-grid, .lulc-field, .lulc-map, .lulc-bar-value")
    edges = parts.evaluate_all(
        "parts => parts.map(p => [p.getBoundingClientRect().right, p.className + p.innerText])"
    )
    assert len(edges) > 20
    edge = panel.evaluate(right) + 1
    assert [words for found, words in edges if found > edge] == []
    if width == 700:  # the tile is on the first screen
        tile = panel.locator(".lulc-tile").bounding_box()
        top = panel.locator(".lulc-explorer").bounding_box()["y"]
        assert tile["y"] + tile["height"] - top < 700
    if width == 1200:  # the maps stand beside the tile
        tile = panel.locator(".lulc-tile").bounding_box()
        stack = panel.locator(".lulc-stack").last.bounding_box()
        assert stack["x"] > tile["x"] + tile["width"]
        assert stack["y"] < tile["y"] + tile["height"]
    ends = panel.locator('.lulc-findbar input[type="number"]')
    assert ends.evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")
    light = panel.locator(".lulc-caption, .lulc-answer h4, .lulc-bar-name").evaluate_all(CONTRAST)
    assert min(light) >= 4.5


def test_a_cell_that_runs_again_leaves_no_widgets(lab, page, cells):
    """The kernel holds as many widgets after the cell has run again as before."""
    count = "len(__import__('ipywidgets').widgets.widget._instances)"
    before = in_kernel(page, "pass", count)
    lab.run_all(page)
    cells.nth(1).locator(".lulc-over").first.wait_for()
    cells.nth(2).locator(".lulc-over").first.wait_for()
    assert in_kernel(page, "pass", count) == before


def test_a_restarted_kernel_is_said(lab, page, panel, screenshot):
    """The panel says that it no longer answers, in one place and in words."""
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    gone = panel.locator(".lulc-explorer.jupyter-widgets-disconnected")
    gone.wait_for()
    words = gone.evaluate("one => getComputedStyle(one, '::before').content")
    assert "The kernel was restarted" in words
    screenshot("explorer-restarted")
    broken = panel.locator(".lulc-explorer .jupyter-widgets-disconnected").evaluate_all(
        "all => all.filter(one => getComputedStyle(one, '::before').display !== 'none').length"
    )
    assert broken == 0


CONTRAST = """parts => parts.map(part => {
    const luminance = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => {
            const s = v / 255;
            return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ink = luminance(getComputedStyle(part).color);
    const ground = luminance(getComputedStyle(part.closest('.lulc-explorer')).backgroundColor);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
})"""
