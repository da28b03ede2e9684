"""The page that needs no kernel, as a reader meets it: one file, opened from disk."""

import numpy as np
import pytest
import torch

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.export import explain_for_page, gallery_html
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.tiles import CLASSES

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def tiles():
    return synthetic(n_per_class=3, seed=0)


@pytest.fixture(scope="module")
def predictions(tiles):
    torch.manual_seed(0)
    models = {
        "one": create_model("resnet18", image_size=64).eval(),
        "two": create_model("vit", depth=1, embed_dim=48).eval(),
    }
    return models, {name: predict(model, tiles) for name, model in models.items()}


@pytest.fixture(scope="module")
def opened(page, tiles, predictions, tmp_path_factory):
    """The page of 30 tiles, two models, three methods and three targets, in the browser."""
    models, said = predictions
    maps = explain_for_page(models, tiles, ["gradcam", "hirescam", "eigencam"], said)
    path = gallery_html(tiles, maps, tmp_path_factory.mktemp("page") / "page.html", said)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    page.locator(".card[data-drawn]").first.wait_for()
    yield page
    assert errors == []


def shown(page) -> list[int]:
    """The numbers of the tiles on the page, in their order."""
    return page.locator(".card:not([hidden])").evaluate_all(
        "cards => cards.map(card => Number(card.dataset.tile))"
    )


def test_filters_and_orders(opened, predictions, tiles, screenshot):
    """Label, prediction, answer, confidence and order are those of the predictions."""
    page, (_, said) = opened, predictions
    screenshot("page-first")
    labels = tiles.labels.numpy()
    assert shown(page) == list(range(30))
    page.locator("#label").select_option("River")
    assert shown(page) == np.flatnonzero(labels == CLASSES.index("River")).tolist()
    page.locator("#label").select_option("")
    predicted = int(said["one"].predicted[0])
    page.locator("#judge").select_option("one")
    page.locator("#predicted").select_option(str(predicted))
    assert shown(page) == np.flatnonzero(said["one"].predicted == predicted).tolist()
    page.locator("#predicted").select_option("")
    page.locator("#verdict").select_option("wrong")
    assert shown(page) == np.flatnonzero(said["one"].predicted != labels).tolist()
    page.locator("#verdict").select_option("disagree")
    apart = said["one"].predicted != said["two"].predicted
    assert shown(page) == np.flatnonzero(apart).tolist()
    page.locator("#verdict").select_option("")
    page.locator("#most").fill("11")
    page.locator("#most").blur()
    assert shown(page) == np.flatnonzero(said["one"].confidence <= 0.11).tolist()
    page.locator("#most").fill("100")
    page.locator("#most").blur()
    page.locator("#sort").select_option("loss")
    losses = said["one"].losses[shown(page)]
    assert (np.diff(losses) <= 1e-4).all()
    screenshot("page-sorted")
    page.locator("#sort").select_option("")
    page.locator("#judge").select_option("")
    assert shown(page) == list(range(30))


def test_targets_change_maps_and_words(opened, predictions, tiles, screenshot):
    """Another target draws other maps, names its class, and stays away where a method is blind."""
    page, (_, said) = opened, predictions
    figure = page.locator(".card").nth(4).locator(".map").first
    figure.scroll_into_view_if_needed()
    pixels = "canvas => canvas.toDataURL()"
    before = figure.locator(".over").evaluate(pixels)
    page.locator("#target").select_option("runner-up")
    second = CLASSES[int(said["one"].logits[4].argsort()[-2])]
    assert f"map for {second}" in figure.inner_text()
    assert second in figure.locator(".over").get_attribute("aria-label")
    assert figure.locator(".over").evaluate(pixels) != before
    screenshot("page-runner-up")
    page.locator("#target").select_option("predicted")
    assert figure.locator(".over").evaluate(pixels) == before
    assert "map for" not in figure.inner_text()


def test_methods_can_be_shown_and_hidden(opened):
    """Of six columns each model's first is shown; a tick shows another."""
    page = opened
    card = page.locator(".card").first
    assert card.locator(".map:not([hidden])").count() == 2
    page.locator(".toggle").nth(1).check()
    assert card.locator(".map:not([hidden])").count() == 3
    page.locator(".toggle").nth(1).uncheck()


@pytest.mark.parametrize("width", [1200, 700])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_sticks_out(opened, screenshot, width, theme):
    """The page fits its window at both widths, in both themes."""
    page = opened
    page.set_viewport_size({"width": width, "height": 1000})
    page.locator("#theme").select_option(theme)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(200)
    screenshot(f"page-{width}-{theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_sees_a_tile_on_its_first_screen(opened, screenshot):
    """At 400 px the first tile lies on the screen; filters and scales unfold."""
    page = opened
    page.set_viewport_size({"width": 400, "height": 800})
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(200)
    screenshot("page-400")
    tile = page.locator(".card .tile").first.bounding_box()
    assert tile["y"] + tile["height"] <= 800
    assert not page.locator("#sort").is_visible()
    page.locator("#more").click()
    assert page.locator("#sort").is_visible()
    assert page.locator(".scale").first.is_visible()
    page.locator("#more").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.set_viewport_size({"width": 1200, "height": 1000})


def test_the_page_says_that_its_tiles_are_a_selection(opened):
    """So that nobody reads an accuracy from how many are right."""
    words = opened.locator(".selection").inner_text()
    assert "how many are right here is not the accuracy" in words


def test_a_maps_own_range_and_the_link(opened):
    """One click stretches each map; the address carries the filters and opens them again."""
    page = opened
    over = page.locator(".card .map:not([hidden]) .over").first
    pixels = "canvas => canvas.toDataURL()"
    before = over.evaluate(pixels)
    page.locator("#own").check()
    assert over.evaluate(pixels) != before
    scale = page.locator("section.scale").first
    assert not scale.locator(".end").first.is_visible()  # the number of a scale that is not drawn
    assert "the class" in scale.locator(".ends").inner_text()
    assert "to its own strongest value" in scale.locator(".own-ends").inner_text()
    assert scale.locator(".bar img").get_attribute("alt").endswith("to its own strongest value")
    page.locator("#own").uncheck()
    assert scale.locator(".end").first.is_visible()
    assert ", from " in scale.locator(".bar img").get_attribute("alt")
    assert over.evaluate(pixels) == before
    page.locator("#label").select_option("River")
    assert page.url.endswith("#label=River")
    count = len(shown(page))
    page.locator("#label").select_option("")
    assert "#" not in page.url
    page.evaluate("location.hash = 'label=River&sort=nonsense'")
    page.wait_for_function(f"document.querySelectorAll('.card:not([hidden])').length === {count}")
    page.locator("#label").select_option("")


def test_headings_are_not_under_the_bar(opened):
    """A card that is scrolled to has its heading below the bar of filters."""
    page = opened
    page.set_viewport_size({"width": 1200, "height": 700})
    card = page.locator(".card").nth(12)
    card.evaluate("card => card.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(200)
    bar = page.locator(".controls").bounding_box()
    heading = card.locator("h2").bounding_box()
    assert heading["y"] >= bar["y"] + bar["height"] - 1
