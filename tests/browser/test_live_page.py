"""The live page as a reader meets it: one file in a real browser, compared with PyTorch."""

import base64
import contextlib
import functools
import http.server
import itertools
import json
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lulc_lib.arrays import softmax
from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.explanations.attention import look
from lulc_lib.explanations.batch import Batch
from lulc_lib.faithfulness import remove
from lulc_lib.images import png_bytes
from lulc_lib.live import kernel, live_html, live_methods, live_script, pack_vit
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.running import evaluating
from lulc_lib.tiles import CLASSES, as_images

pytestmark = pytest.mark.browser

MARKUP = "River/<img src=x onerror=alert(1)>.jpg"
KINDS = ("relaxed", "simd", "JavaScript")
NETWORKS = {
    "shipped": None,
    "averaged": {"depth": 2, "embed_dim": 30, "num_heads": 3, "patch_size": 16},
    "token": {
        "depth": 3, "embed_dim": 36, "num_heads": 2, "class_token": True, "global_pool": "token",
    },
}  # fmt: skip


def network(name: str):
    """The shipped ViT, or a small one whose weights are far from their start."""
    if NETWORKS[name] is None:
        return load_checkpoint("vit")[0]
    torch.manual_seed(1)
    model = create_model("vit", **NETWORKS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


# --- the engine alone --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(page):
    """A blank page with the engine in it."""
    page.goto("about:blank")
    page.evaluate(
        "code => { const s = document.createElement('script'); s.textContent = code; "
        "document.head.append(s); }",
        live_script() + "\nwindow.engine = engineCode();",
    )
    return page


@pytest.mark.parametrize("name", NETWORKS)
def test_engine_agrees_with_torch(bench, name):
    """Each kernel gives the logits within 1e-4, the same answers, and the maps within 1e-5."""
    packed = pack_vit(network(name))
    early = {"method": "gradcam", "layer": "network.blocks.0", "block": 0, "mean": True}
    model, methods = packed.model, [*live_methods(packed.model), early]
    tiles = synthetic(n_per_class=1, seed=3)[:4]
    logits = predict(model, tiles).logits
    ranked = logits.argsort(axis=1)
    expected = {
        (m, rank): explain(
            model, tiles, how["method"], ranked[:, rank], layer=how["layer"]
        ).grid.reshape(4, -1)
        for m, how in enumerate(methods)
        for rank in (-1, -3)
    }
    with evaluating(model):
        seen = look(Batch(model, as_images(tiles), None, None)).attention[-1].detach().mean(dim=1)
    encoded = base64.b64encode(packed.weights).decode()
    bench.evaluate(
        "([spec, text]) => { window.spec = spec; "
        "window.values = engine.fromHalf(engine.bytesOf64(text)); }",
        [packed.spec, encoded],
    )
    for kind in KINDS:
        known = {kind: kernel.committed()[kind]} if kind != "JavaScript" else {}
        taken = bench.evaluate(
            "known => { window.vit = engine.makeVit(spec, values, known); return vit.kind; }", known
        )
        assert taken == kind
        for i, image in enumerate(as_images(tiles).numpy()):
            got = bench.evaluate(
                "p => Array.from(vit.run(Float32Array.from(p)))", image.ravel().tolist()
            )
            assert np.abs(np.array(got) - logits[i]).max() < 1e-4
            assert int(np.argmax(got)) == ranked[i, -1]
            for (m, rank), grids in expected.items():
                made = bench.evaluate(
                    "([how, k]) => { const d = new Float32Array(spec.classes); d[k] = 1; "
                    "return Array.from(vit.map(how, d)); }",
                    [methods[m], int(ranked[i, rank])],
                )
                assert np.abs(np.array(made) - grids[i]).max() < 1e-5, (kind, methods[m], rank)
            last = packed.spec["depth"] - 1
            read = bench.evaluate("block => Array.from(vit.attention(block))", last)
            assert np.abs(np.array(read) - seen[i].numpy().ravel()).max() < 1e-5


def test_a_kernel_that_fails_is_named(bench):
    """What cannot be assembled, or multiplies wrongly, is not taken, and the reason is kept."""
    packed = pack_vit(network("averaged"))
    bench.evaluate("spec => { window.spec = spec; }", packed.spec)
    zeros = "new Float32Array(spec.tensors.reduce((sum, [, n]) => sum + n, 0))"
    kind, tried = bench.evaluate(
        f"() => {{ const v = engine.makeVit(spec, {zeros}, {{ relaxed: 'AGFzbQ==' }}); "
        "return [v.kind, v.tried]; }"
    )
    assert kind == "JavaScript"
    assert tried[0].startswith("relaxed: ")
    right = base64.b64decode(kernel.committed()["simd"])
    wrong = right.replace(b"\xfd\xe4\x01", b"\xfd\xe5\x01")  # f32x4.add becomes f32x4.sub
    assert wrong != right
    kind, tried = bench.evaluate(
        f"code => {{ const v = engine.makeVit(spec, {zeros}, {{ simd: code }}); "
        "return [v.kind, v.tried]; }",
        base64.b64encode(wrong).decode(),
    )
    assert kind == "JavaScript"
    assert tried[0].startswith("simd: ")


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_fast_drawing_shows_what_the_gallery_shows(bench, signed, whole):
    """`drawOver` gives the pixels of `drawMap` over `toGrey`, to a rounding."""
    apart = bench.evaluate(
        """([signed, whole]) => {
          const [side, drawn] = [64, 96];
          const n = side * side;
          const pixels = Float32Array.from({ length: 3 * n }, (_, i) => (i * 7919 % 256) / 255);
          const low = signed ? 0.4 : 0;
          const grid = Float32Array.from({ length: 20 }, (_, i) => (i * 37 % 19) / 19 - low);
          const table = Uint8Array.from({ length: 768 }, (_, i) => (i * 31) % 256);
          const map = { rows: 4, columns: 5, grid, peak: 127, limit: 0.6, signed, table };
          const fast = document.createElement("canvas");
          drawOver(fast, pixels, side, map, whole, drawn);
          const [tile, colours, slow] = [side, drawn, drawn].map((size) => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = size;
            return canvas;
          });
          const image = new ImageData(side, side);
          for (let i = 0; i < n; i += 1) {
            for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = 255 * pixels[c * n + i];
            image.data[4 * i + 3] = 255;
          }
          tile.getContext("2d").putImageData(toGrey(image), 0, 0);
          drawMap(colours, map, whole);
          const context = slow.getContext("2d");
          context.imageSmoothingEnabled = false;
          context.drawImage(tile, 0, 0, drawn, drawn);
          context.globalAlpha = 0.65;
          context.drawImage(colours, 0, 0);
          const [a, b] = [fast, slow].map(
            (canvas) => canvas.getContext("2d").getImageData(0, 0, drawn, drawn).data);
          return Array.from(a, (value, i) => Math.abs(value - b[i]));
        }""",
        [signed, whole],
    )  # fmt: skip
    assert np.mean(np.array(apart) > 2) < 0.002


# --- the page ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiles():
    """Twelve drawn tiles, one of which has markup in its name."""
    some = synthetic(n_per_class=2, seed=0)[:12]
    return replace(some, names=(some.names[0], MARKUP, *some.names[2:]))


@pytest.fixture(scope="module")
def model():
    return network("averaged")


@pytest.fixture(scope="module")
def file(tiles, model, tmp_path_factory):
    """The page of a small ViT with a small ResNet beside it."""
    torch.manual_seed(0)
    other = create_model("resnet10t", image_size=64).eval()
    return live_html(model, tiles, tmp_path_factory.mktemp("live") / "live.html", ("other", other))


def until(page, test, seconds=60):
    """Wait until an expression is true; `wait_for_function` does not work under every policy."""
    end = time.monotonic() + seconds
    while not page.evaluate(test):
        if time.monotonic() > end:
            pytest.fail(f"{test} did not become true")
        time.sleep(0.02)


READY = "['live', 'failed'].includes(document.querySelector('.ll-root')?.dataset.ready)"


@pytest.fixture(scope="module")
def opened(page, file):
    """The page in the browser, live; nothing is asked of any server and no error is logged."""
    problems, asked = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    until(page, READY)
    yield page
    assert problems == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture
def live(opened, file):
    """The page as it was when it opened."""
    opened.set_viewport_size({"width": 1200, "height": 1000})
    opened.evaluate("lulcPage.follow('')")
    settle(opened)
    return opened


def settle(page):
    page.evaluate("lulcPage.settled()")


def logits(page) -> np.ndarray:
    return np.array(page.evaluate("Array.from(lulcPage.look().last.logits)"))


def pixels(page) -> np.ndarray:
    """The image that the network saw last, (1, 3, 64, 64)."""
    seen = page.evaluate("Array.from(lulcPage.look().last.pixels)")
    return np.array(seen, dtype=np.float32).reshape(1, 3, 64, 64)


def part(page, name):
    return page.locator(f'[data-part="{name}"]')


def drag(page, start=(0.3, 0.3), end=(0.6, 0.5)):
    """Paint a stroke with the mouse, from and to shares of the tile."""
    canvas = part(page, "tile")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=6)
    page.mouse.up()
    settle(page)


def test_first_view_and_answer(live, model, tiles, screenshot):
    """The page is live with the fastest kernel, and its tiles and answers are the library's."""
    root = live.locator(".ll-root")
    assert root.get_attribute("data-kernel") == "relaxed"
    assert root.get_attribute("data-where") == "in a worker"
    assert (pixels(live) == as_images(tiles[:1]).numpy()).all()
    said = predict(pack_vit(model).model, tiles[:1])
    assert np.abs(logits(live) - said.logits[0]).max() < 1e-4
    assert CLASSES[said.predicted[0]] in part(live, "said").inner_text()
    screenshot("live-first")


@pytest.mark.parametrize("fill", ["blur", "mean", "texture"])
def test_painting_agrees_with_the_library(live, model, fill, tiles, screenshot):
    """A stroke fills its hole as `remove` does, the answers follow, and undo brings them back."""
    clean = logits(live)
    part(live, "fill").select_option(fill)
    drag(live)
    painted = pixels(live)
    hole = live.evaluate("Array.from(ownersOf(lulcPage.look().state.strokes, 64), Boolean)")
    mask = np.array(hole).reshape(64, 64)
    assert 100 < mask.sum() < 1000
    expected = remove(tiles[:1], mask, fill).numpy()
    if fill == "texture":  # among pixels equally near, either way is right
        assert (painted[0, :, ~mask] == expected[0, :, ~mask]).all()
        assert (painted != expected).any(axis=1).mean() < 0.05
    else:
        assert np.abs(painted - expected).max() < 1e-5
    assert np.abs(logits(live) - predict(pack_vit(model).model, painted).logits[0]).max() < 1e-4
    assert "before" in part(live, "said").inner_text()
    screenshot(f"live-painted-{fill}")
    live.locator('[data-act="undo"]').click()
    settle(live)
    assert (logits(live) == clean).all()
    live.locator('[data-act="redo"]').click()
    settle(live)
    assert (pixels(live) == painted).all()
    live.locator('[data-act="clear"]').click()
    settle(live)
    assert (logits(live) == clean).all()


def test_swap_and_erase(live, tiles):
    """A hole may show another tile, and the eraser brings the tile's own pixels back."""
    part(live, "fill").select_option("swap")
    part(live, "other").select_option("2")
    drag(live)
    one, other = as_images(tiles[[0, 2]]).numpy()
    changed = (pixels(live)[0] != one).any(axis=0)
    assert changed.sum() > 50
    assert (pixels(live)[0][:, changed] == other[:, changed]).all()
    live.locator('[data-tool="erase"]').click()
    drag(live)
    assert (pixels(live)[0] == one).all()
    live.locator('[data-tool="paint"]').click()


def test_keys_paint_and_undo(live):
    """Arrow keys move the brush, the space bar paints, Backspace undoes."""
    part(live, "tile").focus()
    for key in ("Shift+ArrowLeft", "ArrowUp", "Space"):
        live.keyboard.press(key)
    settle(live)
    assert live.evaluate("lulcPage.look().state.strokes.length") == 1
    live.keyboard.press("Backspace")
    settle(live)
    assert live.evaluate("lulcPage.look().state.strokes.length") == 0
    part(live, "thumbs").focus()
    live.keyboard.press("ArrowRight")
    settle(live)
    assert live.evaluate("lulcPage.look().state.tile") == 1


def test_a_stroke_ends_where_the_tile_changes(live):
    """Turned in the middle of a stroke, it ends; with another tile, it goes."""
    box = part(live, "tile").bounding_box()
    place = (box["x"] + 90, box["y"] + 90)
    for change, strokes in (("r", 1), (None, 0)):
        live.mouse.move(*place)
        live.mouse.down()
        live.mouse.move(place[0] + 20, place[1])
        if change:
            live.keyboard.press(change)
        else:
            live.evaluate("lulcPage.set({ tile: 4 })")
        live.mouse.move(place[0], place[1] + 60)
        live.mouse.up()
        settle(live)
        assert live.evaluate("lulcPage.look().state.strokes.length") == strokes


def test_everything_has_a_name(live):
    """A screen reader finds a name for each control and each picture."""
    tree = live.context.new_cdp_session(live).send("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "combobox", "checkbox", "slider", "radio", "tab", "listbox", "image",
             "application", "textbox", "option", "region"}  # fmt: skip
    found = [node for node in tree if node.get("role", {}).get("value") in named]
    assert len(found) > 60
    assert [node for node in found if not node.get("name", {}).get("value")] == []


def test_maps_of_any_target_and_why_not_another(live, model, tiles):
    """Target and contrast change the map; a difference of classes is the difference of maps."""
    whole = pack_vit(model).model
    method = live_methods(whole)[0]
    part(live, "target").select_option("3")
    part(live, "against").select_option("5")
    settle(live)
    grid = np.array(live.evaluate("Array.from(lulcPage.look().last.grid)"))
    a, b = (explain(whole, tiles[:1], method["method"], k).grid.ravel() for k in (3, 5))
    assert np.abs(grid - (a - b)).max() < 1e-5
    words = part(live, "mapped").inner_text()
    assert f"{CLASSES[3]} rather than {CLASSES[5]}" in words
    assert CLASSES[3] in part(live, "map").get_attribute("aria-label")
    for name in ("target", "against"):
        part(live, name).select_option("")
    settle(live)
    predicted = int(logits(live).argmax())
    alone = live.evaluate("Array.from(lulcPage.look().last.grid)")
    part(live, "against").select_option(str(predicted))
    settle(live)
    assert live.evaluate("Array.from(lulcPage.look().last.grid)") == alone
    assert part(live, "mapped").inner_text().endswith(f": {CLASSES[predicted]}")


def test_pointing_at_a_token_shows_its_attention(live, model, tiles):
    """A click with the pointing tool chooses a token, and the map is what it attends to.

    On the turned tile it is compared with what the token of the same ground attends to.
    """
    live.locator('[data-tool="point"]').click()
    box = part(live, "tile").bounding_box()
    live.mouse.click(box["x"] + 5, box["y"] + 5)
    settle(live)
    grid = np.array(live.evaluate("Array.from(lulcPage.look().last.grid)"))
    assert grid.sum() == pytest.approx(1, abs=1e-4)
    assert "row 1, column 1 attends to" in part(live, "mapped").inner_text()
    live.evaluate("lulcPage.set({ turn: 1 })")
    settle(live)
    straight = live.evaluate("Array.from(lulcPage.look().last.straight.grid)")
    whole = pack_vit(model).model
    with evaluating(whole):
        seen = look(Batch(whole, as_images(tiles[:1]), None, None)).attention[-1].mean(dim=1)
    assert np.abs(seen[0, 12].detach().numpy() - straight).max() < 1e-5  # row 4, column 1 of 4x4
    words = part(live, "turned").text_content()
    assert "two maps of what the token in row 1, column 1 attends to: " in words
    live.locator('[data-tool="paint"]').click()


def test_covering_under_the_pointer(live):
    """What lies under the pointer is covered as long as it is there."""
    clean = logits(live)
    live.locator('[data-tool="occlude"]').click()
    box = part(live, "tile").bounding_box()
    live.mouse.move(box["x"] + 100, box["y"] + 100)
    settle(live)
    assert (logits(live) != clean).any()
    live.mouse.move(box["x"] - 300, box["y"] - 80)
    settle(live)
    assert (logits(live) == clean).all()
    live.locator('[data-tool="paint"]').click()


def test_deletion_draws_its_curve(live, screenshot):
    """Moving the slider takes cells away in the map's order and draws both curves."""
    part(live, "removed").fill("4")
    until(live, "document.querySelector('.ll-root').dataset.curve === 'done'")
    settle(live)
    curve = live.evaluate("lulcPage.look().curve")
    assert len(curve["map"]) == len(curve["random"]) == 17
    assert curve["map"][0] == pytest.approx(curve["random"][0])
    now = softmax(logits(live))[curve["target"]]
    assert now == pytest.approx(curve["map"][4], abs=1e-6)
    assert "Mean probability" in part(live, "curvewords").inner_text()
    screenshot("live-deletion")
    live.locator('[data-tab="stories"]').click()
    live.evaluate("lulcPage.set({ tile: 4 })")
    assert "Mean probability" not in part(live, "curvewords").text_content()
    live.locator('[data-tab="delete"]').click()


def test_turning_asks_whether_the_map_turns(live, tiles):
    """The network sees the turned tile, strokes stay where they were, and a figure is given."""
    drag(live, (0.1, 0.1), (0.2, 0.1))
    painted = pixels(live)[0]
    live.locator('[data-act="turn"]').click()
    settle(live)
    assert (pixels(live)[0] == np.rot90(painted, -1, axes=(1, 2))).all()
    live.locator('[data-act="flip"]').click()
    settle(live)
    assert (pixels(live)[0] == np.rot90(painted, -1, axes=(1, 2))[:, :, ::-1]).all()
    shown = pixels(live)[0]
    live.locator('[data-tab="turns"]').click()
    assert "Rank correlation" in part(live, "turned").inner_text()
    box = part(live, "tile").bounding_box()
    live.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    settle(live)
    changed = (pixels(live)[0] != shown).any(axis=0)
    rows, columns = np.nonzero(changed)
    assert len(rows) > 30
    assert abs(rows.mean() - 47.5) < 1.5
    assert abs(columns.mean() - 15.5) < 1.5
    live.locator('[data-tab="delete"]').click()


def test_no_comparison_while_cells_are_taken_away(live):
    """Where no map of the tile as it came is made, no words of an earlier view stay."""
    live.evaluate("lulcPage.set({ removed: 4 })")
    live.evaluate("lulcPage.set({ turn: 1 })")
    settle(live)
    assert "set the slider to 0" in part(live, "turned").text_content()
    live.evaluate("lulcPage.set({ removed: 0 })")
    settle(live)
    assert "Rank correlation" in part(live, "turned").text_content()
    live.evaluate("lulcPage.set({ removed: 4 })")
    settle(live)
    assert "set the slider to 0" in part(live, "turned").text_content()


def test_find(live, tiles, model):
    """Filters and orders are those of labels and answers; a click shows the tile."""
    labels = tiles.labels.numpy()
    k = int(labels[3])
    part(live, "label").select_option(str(k))
    assert live.locator(".ll-thumb").count() == int((labels == k).sum())
    live.locator(".ll-thumb").first.click()
    settle(live)
    assert live.evaluate("lulcPage.look().state.tile") == int(np.flatnonzero(labels == k)[0])
    part(live, "label").select_option("")
    part(live, "answer").select_option("wrong")
    wrong = int((predict(pack_vit(model).model, tiles).predicted != labels).sum())
    assert part(live, "count").inner_text() == f"{wrong} of 12 tiles"
    part(live, "answer").select_option("")
    sure = predict(pack_vit(model).model, tiles).confidence
    for order, first in (("sure", sure.argmax()), ("unsure", sure.argmin())):
        part(live, "sort").select_option(order)
        live.locator(".ll-thumb").first.click()
        settle(live)
        assert live.evaluate("lulcPage.look().state.tile") == int(first)
    part(live, "sort").select_option("")


def test_own_picture(live, model, tmp_path, screenshot):
    """A file, a dropped and a pasted picture are cut or shrunk as told, and stay on the page."""
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    file = tmp_path / "<b>mine.png"
    file.write_bytes(png_bytes(picture))
    part(live, "crop").check()
    part(live, "file").set_input_files(file)
    until(live, "lulcPage.look().last.view.tile === 12")
    settle(live)
    seen = pixels(live)
    middle = picture[8:72, 18:82].transpose(2, 0, 1)[None] / np.float32(255)
    assert np.abs(seen - middle).max() < 1e-6
    assert np.abs(logits(live) - predict(pack_vit(model).model, seen).logits[0]).max() < 1e-4
    assert part(live, "name").inner_text() == "<b>mine.png"
    assert "middle 64x64 of 100x80 pixels, cut out" in part(live, "fitted").inner_text()
    assert "has not seen this picture" in part(live, "besidename").inner_text()
    drag(live)
    assert "before" in part(live, "said").inner_text()
    live.locator('[data-act="link"]').click()
    assert "cannot carry your own picture" in part(live, "notes").inner_text()
    screenshot("live-own")
    live.evaluate("lulcPage.set({ tile: 3 })")
    settle(live)
    assert not part(live, "notes").is_visible()  # it was about the picture
    part(live, "shrink").check()
    for event in ("paste", "drop"):
        send(live, event, file)
        until(
            live, "document.querySelector('[data-part=\"fitted\"]').textContent.includes('80x80')"
        )
        settle(live)
        assert (pixels(live) != seen).any()
        part(live, "fitted").evaluate("element => { element.textContent = ''; }")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    part(live, "file").set_input_files(broken)
    until(
        live, "document.querySelector('[data-part=\"notes\"]').textContent.includes('broken.png')"
    )


def send(page, event, file):
    """Drop or paste a file."""
    page.evaluate(
        """([event, text, name]) => {
          const data = new DataTransfer();
          data.items.add(new File([bytesOf64(text)], name, { type: 'image/png' }));
          const kind = event === 'drop' ? DragEvent : ClipboardEvent;
          const given = event === 'drop' ? { dataTransfer: data } : { clipboardData: data };
          document.querySelector('.ll-root').dispatchEvent(
            new kind(event, { bubbles: true, cancelable: true, ...given }));
        }""",
        [event, base64.b64encode(file.read_bytes()).decode(), file.name],
    )


def followed(page) -> str:
    """Copy the link, leave its view, follow the link, and return its words."""
    page.locator('[data-act="link"]').click()
    address = part(page, "linktext").input_value()
    page.evaluate("lulcPage.follow('')")
    settle(page)
    page.evaluate("text => lulcPage.follow(text)", address.split("#")[1])
    settle(page)
    return address


@pytest.mark.parametrize("fill", ["blur", "mean", "texture", "swap"])
def test_links_carry_the_state(live, fill):
    """A link brings back tile, map, painting, deletion and turn: the same picture and answer."""
    live.evaluate("lulcPage.set({ tile: 1, target: 4, against: 2, turn: 1, whole: true })")
    part(live, "fill").select_option(fill)
    if fill == "swap":
        part(live, "other").select_option("5")
    drag(live)
    drag(live, (0.137, 0.711), (0.853, 0.342))
    live.locator('[data-tool="erase"]').click()
    drag(live, (0.2, 0.2), (0.7, 0.6))
    live.locator('[data-tool="paint"]').click()
    part(live, "removed").fill("3")
    settle(live)
    wished, seen = logits(live), pixels(live)
    before = live.evaluate("lulcPage.look().state")
    address = followed(live)
    assert "<" not in address
    after = live.evaluate("lulcPage.look().state")
    assert {**after, "strokes": 0} == {**before, "strokes": 0}
    assert (pixels(live) == seen).all()
    assert (logits(live) == wished).all()
    assert part(live, "name").inner_text() == MARKUP
    assert live.locator(".ll-root img").count() == 0
    live.locator('[data-act="undo"]').click()
    settle(live)
    assert live.evaluate("lulcPage.look().state.strokes") == []


def test_a_link_goes_with_its_view(live):
    """The field shows a link to what is seen, or none."""
    live.locator('[data-act="link"]').click()
    assert part(live, "linkline").is_visible()
    live.evaluate("lulcPage.set({ target: 3 })")
    assert part(live, "linkline").is_hidden()


def test_the_longest_link_is_short(live):
    """However much is painted, a painting takes at most a letter for each pixel of the tile."""
    live.evaluate(
        """lulcPage.set({ strokes: Array.from({ length: 2048 }, (_, i) => ({
          kind: FILLS[i % 4], size: 1, points: [[(2 * i) % 64 + 0.5, Math.floor(i / 32) + 0.5]],
        })) })"""
    )
    settle(live)
    seen = pixels(live)
    address = followed(live)
    assert 4096 < len(address.split("#")[1]) < 4096 + 400
    assert (pixels(live) == seen).all()


def test_a_stroke_touches_what_lies_near_its_line(live):
    """It owns the pixels whose middle is within half its size of the line, ends included."""
    points = np.array([[10.3, 12.8], [50.1, 20.4], [45.0, 60.2]])
    owner = live.evaluate(
        "points => Array.from(ownersOf([{ kind: 'mean', size: 7, points }], 64))", points.tolist()
    )
    middles = np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1) + 0.5
    near = np.zeros((64, 64), bool)
    for start, end in itertools.pairwise(points):
        along = ((middles - start) @ (end - start) / ((end - start) ** 2).sum()).clip(0, 1)
        foot = start + along[..., None] * (end - start)
        near |= ((middles - foot) ** 2).sum(axis=-1) <= 3.5**2
    assert (np.array(owner).reshape(64, 64) == 2 * near).all()


def test_many_strokes_stay(live):
    """Beyond a hundred strokes the oldest become one: what was painted stays."""
    points = [[i % 60 + 2.5, i % 50 + 5.5] for i in range(130)]
    apart = live.evaluate(
        """points => {
          const strokes = points.map((at) => ({ kind: "mean", size: 3, points: [at] }));
          let kept = [];
          for (const stroke of strokes) kept = merged([...kept, stroke], 64);
          const [all, some] = [ownersOf(strokes, 64), ownersOf(kept, 64)];
          return [kept.length, all.filter((value, i) => value !== some[i]).length];
        }""",
        points,
    )
    assert apart[0] <= 100
    assert apart[1] == 0


def test_a_link_with_markup_stays_text(live):
    """What a link names that is not there is said, as text, and the rest is followed."""
    live.evaluate(
        "lulcPage.follow('tile=%3Cimg src=x onerror=alert(1)%3E&target=River"
        "&painting=K9x_B&turn=9&%3Cb%3E=1')"
    )
    settle(live)
    words = part(live, "notes").inner_text()
    assert "this page has no tile “<img src=x onerror=alert(1)>”" in words
    assert "the painting of the link cannot be read" in words
    assert "this page has no turn “9”" in words
    assert "a link has no “<b>”" in words
    state = live.evaluate("lulcPage.look().state")
    assert (state["target"], state["strokes"]) == (CLASSES.index("River"), [])
    assert live.locator(".ll-root img").count() == 0


def test_the_picture_says_what_it_shows(live):
    """The saved picture holds all its words in lines that fit, below the tile and its maps."""
    with live.expect_download() as download:
        live.locator('[data-act="picture"]').click()
    width, height = struct.unpack(">II", Path(download.value.path()).read_bytes()[16:24])
    assert width == 980
    assert 440 <= height < 700
    lines = live.evaluate(
        """() => {
          const context = document.createElement("canvas").getContext("2d");
          return wrapped(context, "a word ".repeat(100), 300)
            .map((line) => context.measureText(line).width);
        }"""
    )
    assert len(lines) > 5
    assert max(lines) <= 300


@pytest.mark.parametrize("media", [{"forced_colors": "active"}, {"media": "print"}])
def test_bars_stay_on_paper_and_in_forced_colours(live, screenshot, media):
    """Bars mean something, so that they are drawn in their colours."""
    live.emulate_media(**media)
    screenshot(f"live-{'-'.join(media.values())}")
    bar = live.locator(".ll-bar").first
    colour = bar.evaluate("bar => getComputedStyle(bar).backgroundColor")
    kept = bar.evaluate("bar => getComputedStyle(bar.parentElement).printColorAdjust")
    live.emulate_media(forced_colors="none", media="screen")
    assert colour == bar.evaluate("bar => bar.style.backgroundColor")
    assert kept == "exact"


def test_about_names_limits_and_licence(live):
    """The last panel says what the network is, what the maps do not say, and the licence."""
    live.locator('[data-tab="about"]').click()
    words = part(live, "about").inner_text()
    assert "Limits" in words
    assert "MIT licence" in words
    live.locator('[data-tab="delete"]').click()


@pytest.mark.parametrize("width", [1400, 1200, 700, 400, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_sticks_out(live, screenshot, width, theme):
    """The page fits its window from a phone to a desk, in both themes."""
    live.set_viewport_size({"width": width, "height": 1000})
    part(live, "theme").select_option(theme)
    live.evaluate("scrollTo(0, 0)")
    live.wait_for_timeout(100)
    screenshot(f"live-{width}-{theme}")
    assert live.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("size", [(400, 800), (360, 740), (700, 1000), (1200, 1000)])
def test_first_screen_shows_tile_and_answers(live, size):
    """Without scrolling one sees the tile, what the network says of it, and its bars."""
    width, height = size
    live.set_viewport_size({"width": width, "height": height})
    live.evaluate("scrollTo(0, 0)")
    ends = {name: part(live, name).bounding_box() for name in ("tile", "said", "bars")}
    assert ends["tile"]["y"] >= 0
    assert ends["tile"]["width"] > 200
    for name, box in ends.items():
        assert box["y"] + min(box["height"], 130) < height, name
    cut = "all => all.filter(o => o.scrollWidth > o.clientWidth + 1).map(o => o.innerText)"
    assert live.locator(".ll-name").evaluate_all(cut) == []  # no class name is cut off


# --- other places ------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder, policy=None):
    """Serve a folder on this machine, with a policy in the answers' headers."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self):
            if policy:
                self.send_header("Content-Security-Policy", policy)
            super().end_headers()

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_stories_end(page, tmp_path, screenshot):
    """Each story asks before it shows, and then tells what happened; all six are there.

    What is told is of the story's tile, whatever was looked at before the answer.
    """
    model, some = network("shipped"), synthetic(n_per_class=3, seed=0)
    predicted = predict(model, some).predicted.copy()
    predicted[:2] = (predicted[:2] + 1) % 10  # two mistakes
    some = replace(some, labels=torch.from_numpy(predicted))
    other = create_model("resnet10t", image_size=64).eval()
    file = live_html(model, some, tmp_path / "live.html", ("other", other))
    tab = page.context.browser.new_page()
    try:
        tab.goto(file.as_uri())
        until(tab, READY)
        tab.locator('[data-tab="stories"]').click()
        stories = tab.locator(".ll-story")
        told = [stories.nth(i).inner_text() for i in range(stories.count())]
        assert len(told) == 6, f"{told}, of answers {sorted({CLASSES[k] for k in predicted})}"
        for story in stories.all():
            story.locator(".ll-story-title").click()
            story.locator(".ll-buttons button").first.click()
            story.locator(".ll-reveal").wait_for()
            assert len(story.locator(".ll-reveal").inner_text()) > 40
            assert "undefined" not in story.inner_text()
            assert "NaN" not in story.inner_text()
        first = stories.first
        first.locator(".ll-story-title").click()
        first.locator(".ll-buttons").wait_for()
        asked = tab.evaluate("lulcPage.look().state.tile")
        tab.evaluate("tile => lulcPage.set({ tile })", (asked + 1) % len(some))
        first.locator(".ll-buttons button").first.click()
        first.locator(".ll-reveal").wait_for()
        assert tab.evaluate("lulcPage.look().state.tile") == asked
        tab.screenshot(path=screenshot("live-stories"), full_page=True)
    finally:
        tab.close()


# Counts timers that fire while the curve grows, from the moment at which the slider moves.
COUNT_TICKS = """() => {
  window.ticks = 0;
  const slider = document.querySelector('[data-part="removed"]');
  slider.value = 4;
  slider.dispatchEvent(new Event("input"));
  const { dataset } = document.querySelector(".ll-root");
  setInterval(() => { window.ticks += dataset.curve !== "done"; }, 1);
}"""


@pytest.mark.parametrize(
    ("policy", "kind", "where"),
    [
        (None, "relaxed", "in a worker"),
        ("script-src 'unsafe-inline'; worker-src blob:", "JavaScript", "in a worker"),
        ("script-src 'unsafe-inline'", "JavaScript", "in the page"),
    ],
)
def test_from_a_server(page, file, model, tiles, policy, kind, where):
    """From a server it is the same; where its policy forbids wasm or workers it still agrees.

    Without a worker, the page goes on with other work while a curve is drawn.
    """
    with served(file.parent, policy) as address:
        other = page.context.browser.new_page()
        try:
            other.goto(f"{address}/{file.name}")
            until(other, READY)
            root = other.locator(".ll-root")
            assert root.get_attribute("data-kernel") == kind
            assert root.get_attribute("data-where") == where
            expected = predict(pack_vit(model).model, tiles[:1]).logits[0]
            assert np.abs(logits(other) - expected).max() < 1e-4
            if policy:
                words = other.locator('[data-part="about"]').text_content()
                assert "What this browser refused" in words
            if where == "in the page":
                other.evaluate(COUNT_TICKS)
                until(other, "document.querySelector('.ll-root').dataset.curve === 'done'")
                assert other.evaluate("ticks") > 10
        finally:
            other.close()


def ready(frame) -> bool:
    """Return whether a frame is live; not while it goes from its empty page to ours."""
    from playwright.sync_api import Error

    try:
        return frame.evaluate(READY)
    except Error:
        return False


def test_in_a_sandboxed_frame(page, file, model, tiles):
    """In an iframe's srcdoc that may run scripts and nothing else, it is live as well."""
    other = page.context.browser.new_page()
    try:
        other.set_content("<iframe sandbox='allow-scripts' width=1100 height=900></iframe>")
        other.evaluate(
            "text => { document.querySelector('iframe').srcdoc = text; }", file.read_text()
        )
        end = time.monotonic() + 60
        while len(other.frames) < 2 or not ready(other.frames[1]):
            if time.monotonic() > end:
                pytest.fail("the frame is not live")
            time.sleep(0.05)
        frame = other.frames[1]
        assert frame.locator(".ll-root").get_attribute("data-kernel") == "relaxed"
        expected = predict(pack_vit(model).model, tiles[:1]).logits[0]
        assert np.abs(logits(frame) - expected).max() < 1e-4
        frame.locator('[data-act="link"]').click()
        assert "tile=" in frame.locator('[data-part="linktext"]').input_value()
    finally:
        other.close()


@pytest.mark.parametrize("left", [1000, 1001])
def test_a_file_that_was_cut_is_refused(page, file, tmp_path, left):
    """Where a part of the weights is missing, the page says so instead of answering.

    What was computed before is shown for the tiles as they are, and for nothing else.
    """
    whole = file.read_text()
    cut = tmp_path / "cut.html"
    cut.write_text(whole[: whole.index('data-block="weights">') + left])
    other = page.context.browser.new_page()
    try:
        other.goto(cut.as_uri())
        until(other, READY)
        assert other.locator(".ll-root").get_attribute("data-ready") == "failed"
        assert "this file was cut" in part(other, "notes").inner_text()
        settle(other)
        assert " says " in part(other, "said").inner_text()
        other.evaluate("lulcPage.set({ turn: 1 })")
        settle(other)
        assert part(other, "said").inner_text() == "No answer: the engine is not running"
        assert "as it came" not in part(other, "turned").text_content()
        assert other.locator(".ll-value").all_inner_texts() == [""] * 10
        widths = other.locator(".ll-bar").evaluate_all("bars => bars.map((b) => b.offsetWidth)")
        assert widths == [0] * 10
        other.evaluate("lulcPage.set({ turn: 0 })")
        settle(other)
        assert " says " in part(other, "said").inner_text()
    finally:
        other.close()


def test_a_story_waits_for_the_engine(page, file):
    """An answer given while the engine starts is told once it runs."""
    other = page.context.browser.new_page()
    slow = """const Quick = Worker;
      Worker = function (url) {
        const worker = new Quick(url);
        const post = worker.postMessage.bind(worker);
        worker.postMessage = (said) => setTimeout(post, said.spec ? 1500 : 0, said);
        return worker;
      };"""
    try:
        other.add_init_script(slow)
        other.goto(file.as_uri())
        until(other, "document.querySelector('.ll-root').dataset.ready === 'tiles'")
        other.locator('[data-tab="stories"]').click()
        other.locator(".ll-story-title").first.click()
        other.locator(".ll-story .ll-buttons button").first.click()
        assert other.locator(".ll-reveal").count() == 0
        other.locator(".ll-reveal").wait_for()
        assert part(other, "notes").is_hidden()
    finally:
        other.close()


def test_one_tile_and_one_network(page, model, tiles, tmp_path):
    """A page of one tile with nothing beside it works, by a link too; swapping shows the tile."""
    file = live_html(model, tiles[:1], tmp_path / "live.html")
    other = page.context.browser.new_page()
    problems = []
    other.on("pageerror", lambda error: problems.append(str(error)))
    try:
        other.goto(f"{file.as_uri()}#fill=swap&painting=KrsSgK2dk")
        until(other, READY)
        assert other.locator(".ll-root").get_attribute("data-ready") == "live"
        assert part(other, "notes").is_hidden()
        assert (pixels(other) == as_images(tiles[:1]).numpy()).all()
        assert part(other, "beside").is_hidden()
        assert problems == []
    finally:
        other.close()


def test_opened_by_a_link(page, file):
    """The words behind # choose the first view."""
    other = page.context.browser.new_page()
    try:
        other.goto(f"{file.as_uri()}#target=Forest&painting=KrsMgK2dk")
        until(other, READY)
        state = other.evaluate("lulcPage.look().state")
        assert (state["target"], len(state["strokes"])) == (CLASSES.index("Forest"), 1)
        assert json.dumps(state)
    finally:
        other.close()


# --- the widget --------------------------------------------------------------------------------

WIDGET = """\
import torch
import lulc_lib as lulc
torch.manual_seed(0)
tiles = lulc.synthetic(n_per_class=1, seed=0)
model = lulc.create_model("vit", depth=2, embed_dim=48, num_heads=3)
lulc.Live(model, tiles)"""


def test_widget_in_jupyterlab(lab, page, screenshot):
    """In a notebook it is live too, and goes on answering while the kernel is gone."""
    tab = page.context.browser.new_page(viewport={"width": 1200, "height": 1000})
    tab.set_default_timeout(120_000)
    try:
        tab.goto(lab.write("live.ipynb", WIDGET))
        lab.run_all(tab)
        lab.toggle_files(tab)
        root = tab.locator(".ll-root")
        root.wait_for()
        until(tab, READY)
        assert root.get_attribute("data-ready") == "live"
        assert root.get_attribute("data-kernel") == "relaxed"
        lab.end_kernels()
        part(tab, "tile").scroll_into_view_if_needed()
        box = part(tab, "tile").bounding_box()
        tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        drawn = "document.querySelector('.ll-root').parentElement.lulcPage.look().last"
        until(tab, f"{drawn}.view.strokes.length === 1 && {drawn}.logits.length === 10")
        cells = tab.locator(".jp-Notebook .jp-Cell").count()
        for key in ("b", "e", "Backspace"):
            tab.keyboard.press(key)
        tab.locator('[data-act="turn"]').click()
        for key in ("r", "b", "a"):
            tab.keyboard.press(key)
        part(tab, "target").focus()
        tab.keyboard.press("a")
        assert tab.locator(".jp-Notebook .jp-Cell").count() == cells
        assert tab.locator(".jp-Notebook .jp-CodeCell").count() == cells
        tab.screenshot(path=screenshot("live-widget"))
    finally:
        tab.close()
