"""A hand on the gallery: JupyterLab, its kernel and a browser, all of them real."""

import pytest

pytestmark = pytest.mark.browser

# Untrained networks: what they answer does not matter here, that it arrives on the page does.
MODELS = """\
import torch
import lulc_lib as lulc
torch.manual_seed(0)
tiles = lulc.synthetic(n_per_class=2, seed=0)
models = {"resnet50": lulc.create_model("resnet18", image_size=64),
          "vit": lulc.create_model("vit", depth=1, embed_dim=48, num_heads=3)}"""
SHOW = "lulc.Gallery(models, tiles)"
SHOW_BROKEN = """\
flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 10))  # has no grid
logits = torch.eye(10)[tiles.labels].numpy()  # as if the ViT were always right
knows = {"vit": lulc.Predictions(logits, tiles.labels.numpy(), tiles.names)}
lulc.Gallery({"vit": models["vit"], "flat": lulc.create_model(flat)}, tiles, knows)"""

# Notes each height of the picture and whether its element is still the same one.
WATCH = """picture => {
    window.watched = {element: picture, heights: []};
    const note = () => window.watched.heights.push(picture.getBoundingClientRect().height);
    new ResizeObserver(note).observe(picture);
    new MutationObserver(note).observe(picture, {attributes: true});
}"""


@pytest.fixture(scope="module")
def cells(lab, page):
    """The cells of an open notebook that has run: the models, a gallery, and one with an error."""
    page.goto(lab.write("gallery.ipynb", MODELS, SHOW, SHOW_BROKEN))
    lab.run_all(page)
    return page.locator(".jp-Notebook .jp-Cell")


def test_gallery_in_jupyterlab(lab, page, cells, screenshot):
    """Clicks and keys reach the kernel and come back as a new picture and new words, in one image.

    One walk, since each step starts where the one before it ended.
    """
    panel = cells.nth(1)
    picture, words = panel.locator("img.lulc-picture"), panel.locator(".lulc-words")
    place, status = panel.locator(".lulc-position"), panel.locator(".lulc-status")
    picture.wait_for()
    picture.evaluate(WATCH)
    screenshot("gallery-1200-first")

    def changed(act) -> None:
        """Act, and wait until the picture is another one that is whole."""
        before = picture.get_attribute("src")
        act()
        page.wait_for_function(
            "before => { const i = window.watched.element;"
            " return i.src !== before && i.complete && i.naturalWidth > 300 }",
            arg=before,
        )

    assert place.inner_text() == "1 / 20"
    assert "AnnualCrop_1.jpg" in words.inner_text()
    following = panel.get_by_role("button", name="next")
    changed(following.click)
    assert place.inner_text() == "2 / 20"
    assert "AnnualCrop_2.jpg" in words.inner_text()
    changed(lambda: panel.get_by_label("Label").select_option("River (2)"))
    assert place.inner_text() == "1 / 2"
    assert status.inner_text() == "label River"
    assert "River_1.jpg" in words.inner_text()
    following.focus()
    for key in ("Enter", "Space"):  # the notebook does not take the keys of a focused button
        changed(lambda key=key: page.keyboard.press(key))
    assert place.inner_text() == "1 / 2"
    changed(lambda: panel.get_by_label("Method").select_option("eigencam"))
    assert words.inner_text().count("eigencam does not look at the class") == 2
    screenshot("gallery-1200-warnings")
    changed(lambda: panel.get_by_label("Model").select_option("vit"))
    assert "8x8 grid, 1 cell = 80 m" in words.inner_text()
    assert "resnet50" not in words.inner_text()

    panel.get_by_label("Label").select_option("all (20)")
    panel.get_by_label("Answer").select_option("wrong")
    status.get_by_text("all labels, vit is wrong").wait_for()
    screenshot("gallery-1200-wrong")
    page.set_viewport_size({"width": 700, "height": 1000})
    changed(lambda: panel.get_by_label("Model").select_option("all side by side"))
    screenshot("gallery-700-files")
    lab.toggle_files(page)
    screenshot("gallery-700")
    assert_nothing_is_clipped(panel)

    assert picture.evaluate("picture => picture === watched.element")
    assert min(page.evaluate("watched.heights")) > 100, "it collapsed while it was replaced"
    assert lab.errors(page) == []


def test_errors_are_said_in_the_panel(lab, page, cells, screenshot):
    """A model without a map, and an empty choice, are told in words where the hand is."""
    panel = cells.nth(2)
    problem, picture = panel.locator(".lulc-problem"), panel.locator("img.lulc-picture")
    problem.get_by_text("flat has no map by gradcam++").wait_for()
    picture.scroll_into_view_if_needed()
    assert picture.is_visible()
    screenshot("gallery-error")
    panel.get_by_label("Model").select_option("vit")
    problem.wait_for(state="hidden")
    panel.get_by_label("Label").select_option("SeaLake (2)")
    panel.get_by_label("Answer").select_option("wrong")
    problem.get_by_text("No tile fits: label SeaLake, vit is wrong").wait_for()
    picture.wait_for(state="hidden")
    assert panel.locator(".lulc-position").inner_text() == "0 / 0"
    screenshot("gallery-empty")
    assert lab.errors(page) == []


def assert_nothing_is_clipped(panel) -> None:
    """All parts of the panel end inside its cell."""
    parts = panel.locator(".lulc-row > *, .lulc-picture, .lulc-words p")
    right = "part => part.getBoundingClientRect().right"
    edges = parts.evaluate_all(f"parts => parts.map({right})")
    assert len(edges) >= 9
    assert max(edges) <= panel.evaluate(right)
