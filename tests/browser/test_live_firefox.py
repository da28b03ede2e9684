"""The live page in Firefox, from disk, compared with PyTorch. Skips where there is no Firefox."""

import time

import firefox
import numpy as np
import pytest
import torch

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.live import live_html, live_methods, pack_vit
from lulc_lib.models import create_model
from lulc_lib.predictions import predict

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(firefox.found() is None, reason="no Firefox here: apt install firefox-esr"),
]
READY = "document.querySelector('.ll-root')?.dataset.ready"


def test_live_in_firefox(tmp_path):
    """From disk it is live in a worker with SIMD, agrees with PyTorch, and logs nothing."""
    torch.manual_seed(1)
    model = create_model("vit", depth=2, embed_dim=30, num_heads=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    tiles = synthetic(n_per_class=1, seed=3)[:4]
    whole = pack_vit(model).model
    log = tmp_path / "firefox.log"
    with firefox.running(tmp_path / "profile", log) as browser:
        browser("WebDriver:Navigate", url=live_html(model, tiles, tmp_path / "live.html").as_uri())
        for _ in range(1200):
            if browser.evaluate(READY) in ("live", "failed"):
                break
            time.sleep(0.1)
        root = browser.evaluate("({ ...document.querySelector('.ll-root').dataset })")
        assert root["ready"] == "live"
        assert root["kernel"] in ("relaxed", "simd")
        assert root["where"] == "in a worker"
        expected = predict(whole, tiles).logits
        for m, how in enumerate(live_methods(whole)):
            for tile in range(len(tiles)):
                maps = explain(whole, tiles[[tile]], how["method"], 3, layer=how["layer"]).grid
                logits, grid = browser.evaluate(
                    "(lulcPage.set({ tile: given[0], method: given[1], target: 3 }), "
                    "lulcPage.settled().then(() => ['logits', 'grid'].map("
                    "(name) => Array.from(lulcPage.look().last[name]))))",
                    tile,
                    m,
                )
                assert np.abs(np.array(logits) - expected[tile]).max() < 1e-4
                assert np.abs(np.array(grid) - maps.ravel()).max() < 1e-5
        bad = tmp_path / "bad.html"  # the log would have named the page
        bad.write_text("<!DOCTYPE html><script>missing()</script>")
        browser("WebDriver:Navigate", url=bad.as_uri())
        for _ in range(600):
            if "bad.html" in log.read_text(errors="replace"):
                break
            time.sleep(0.1)
        said = log.read_text(errors="replace")
        assert "bad.html" in said
        assert "live.html" not in said
