"""The live page: what it can run, what it refuses, and what stands in its file."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations.attention import Seen, look
from lulc_lib.explanations.batch import Batch
from lulc_lib.live import kernel, live_data, live_html, live_methods, live_script, pack_vit
from lulc_lib.live import page as live_page
from lulc_lib.models import TileClassifier, create_model
from lulc_lib.predictions import predict
from lulc_lib.running import evaluating
from lulc_lib.tiles import TileSet, as_images

STATIC = Path(kernel.__file__).parents[1] / "static"
TINY = {"depth": 2, "embed_dim": 24, "num_heads": 2}
CLASS_TOKEN = {"class_token": True, "global_pool": "token", "patch_size": 16}


@pytest.fixture(scope="module")
def few() -> TileSet:
    """Six drawn tiles."""
    return synthetic(n_per_class=1, seed=0)[:6]


@pytest.fixture(scope="module")
def vit() -> TileClassifier:
    """A tiny ViT with averaged tokens."""
    torch.manual_seed(0)
    return create_model("vit", **TINY).eval()


def block(page: str, name: str) -> str:
    """Return the text of one of the page's blocks."""
    return re.search(rf'data-block="{name}">(.*?)</script>', page, re.DOTALL)[1]


def test_kernels_are_what_the_generator_writes():
    """The committed bytes are the assembled text; `python -m lulc_lib.live.kernel` renews them."""
    pytest.importorskip("wasmtime")
    assert kernel.committed() == kernel.assembled()


def test_the_engine_stays_small():
    """The engine has fewer than 400 lines."""
    assert len((STATIC / "vit.js").read_text().splitlines()) < 400


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"class_token": True},
        CLASS_TOKEN,
        {"embed_dim": 30, "num_heads": 3, "mlp_ratio": 2.5},
        {"patch_size": 4, "depth": 1},
        {"qkv_bias": False, "fc_norm": False},
        {"class_token": True, "reg_tokens": 2},
    ],
)
def test_plain_vits_are_packed(arguments: dict):
    """Any depth, width, patch and pooling is taken; the weights are all there, as float16."""
    model = create_model("vit", **{**TINY, **arguments}).eval()
    packed = pack_vit(model)
    assert len(packed.weights) == 2 * sum(length for _, length in packed.spec["tensors"])
    weight = dict(packed.model.network.named_parameters())["head.weight"].detach().numpy()
    assert (weight == weight.astype(np.float16)).all()


def test_larger_insides_are_packed():
    """A network that enlarges tiles is taken."""
    packed = pack_vit(create_model("vit_tiny_patch16_224", image_size=96, **TINY).eval())
    assert (packed.spec["size"], packed.spec["side"], packed.spec["pool"]) == (96, 64, "token")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: create_model("resnet10t", image_size=64), "it is a ResNet"),
        (
            lambda: create_model("vit", init_values=0.1, **TINY),
            "ls1 is LayerScale instead of Identity",
        ),
        (lambda: create_model("vit", qk_norm=True, **TINY), "q_norm is LayerNorm"),
        (
            lambda: create_model("vit", conv_stem=(8, 16), **TINY),
            "patch_embed.proj is Identity instead of Conv2d",
        ),
        (lambda: create_model("vit", global_pool="max", **TINY), "global_pool='max'"),
        (lambda: create_model("vit", act_layer="relu", **TINY), "mlp.act is ReLU instead of GELU"),
        (lambda: create_model("vit", image_size=32, **TINY), "shrinks tiles to 32 px"),
        (lambda: create_model("vit", pre_norm=True, **TINY), "norm_pre is LayerNorm"),
    ],
)
def test_other_networks_are_refused_by_name(made, words: str, few: TileSet, tmp_path: Path):
    """The message says what differs, and no file is written."""
    model = made().eval()
    with pytest.raises(ValueError, match=f"cannot run {model.name}: .*({words})"):
        live_html(model, few, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_network_with_other_answers_is_refused(vit: TileClassifier, monkeypatch):
    """Plain layers that compute something else are noticed by their logits."""
    monkeypatch.setattr(type(vit), "forward", lambda self, x: 2 * self.network(self.prepare(x)))
    with pytest.raises(ValueError, match="logits differ from the model's by"):
        pack_vit(vit)


def test_weights_beyond_half_precision_are_refused():
    """A weight that float16 cannot hold is an error and not infinity."""
    model = create_model("vit", **TINY).eval()
    model.network.head.bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"weights network.head.bias of vit do not fit"):
        pack_vit(model)


def test_wrong_types_and_counts(vit: TileClassifier, few: TileSet, tmp_path: Path):
    """A page needs a model of ours and some tiles."""
    with pytest.raises(TypeError, match="takes a model of create_model, got Linear"):
        pack_vit(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="takes a TileSet, got ndarray"):
        live_html(vit, np.zeros((1, 3, 64, 64), np.float32), tmp_path / "page.html")
    with pytest.raises(ValueError, match="holds 1 to 400 tiles, got 0"):
        live_html(vit, few[:0], tmp_path / "page.html")


def test_methods_follow_the_head(vit: TileClassifier):
    """Contributions need an averaging head; a class token's Grad-CAM is at a norm."""
    averaged = {row["method"]: row for row in live_methods(vit)}
    assert set(averaged) == {"gradcam", "libragrad", "hirescam", "contributions"}
    assert averaged["gradcam"]["layer"] == "network.blocks.1"
    token = {row["method"]: row for row in live_methods(create_model("vit", **TINY, **CLASS_TOKEN))}
    assert "contributions" not in token
    assert (token["gradcam"]["block"], token["gradcam"]["norm1"]) == (1, True)


def test_data_agree_with_the_library(vit: TileClassifier, few: TileSet):
    """Logits are those of the rounded weights; the other model's maps are there for its answers."""
    other = create_model("resnet10t", image_size=64).eval()
    data = live_data(vit, few, ("other", other)).data
    packed = pack_vit(vit)
    assert np.allclose(data["logits"], predict(packed.model, few).logits, atol=1e-5)
    beside = data["beside"]
    assert beside["predicted"] == predict(other, few).predicted.tolist()
    assert {(i, k) for i, k in enumerate(beside["predicted"])} <= set(map(tuple, beside["pairs"]))
    assert len(beside["peaks"]) == len(beside["pairs"])
    for row in data["methods"]:
        assert len(base64.b64decode(row["values"])) == len(few) * data["cells"] ** 2
    assert "not evaluated" in data["facts"]
    maps = dict(data["about"])["The maps"]
    assert all(f"{row['where']}: {row['verdict']}" in maps for row in data["methods"])
    assert "network." not in maps + "".join(row["where"] for row in data["methods"])
    assert beside["method"] == "gradcam at stage 4, 2x2 cells"
    assert beside["verdict"] == "There is no report card of these weights."


def test_attention_is_read_from_few_tiles_at_once(
    vit: TileClassifier, monkeypatch: pytest.MonkeyPatch
):
    """A pass that keeps all attention has at most 32 tiles; the maps are those of one pass."""
    many = synthetic(n_per_class=4, seed=0)
    passed = []

    def recorded(batch: Batch) -> Seen:
        passed.append(len(batch))
        return look(batch)

    monkeypatch.setattr(live_page, "look", recorded)
    data = live_data(vit, many).data
    assert passed == [32, 8]
    with evaluating(vit):
        seen = look(Batch(pack_vit(vit).model, as_images(many), None, None)).attention[-1]
    rows = seen.detach().mean(dim=1)[:, data["token"]].numpy()
    made = data["methods"][-1]
    values = np.frombuffer(base64.b64decode(made["values"]), np.int8).reshape(rows.shape)
    assert np.abs(values / 127 * np.c_[made["peaks"]] - rows).max() < rows.max() / 127


def test_page_stands_alone_and_escapes(vit: TileClassifier, few: TileSet, tmp_path: Path):
    """Nothing is loaded from anywhere, the policy names its own blocks, and names stay data."""
    names = ("River/</script><b>.jpg", *few.names[1:])
    odd = replace(few, names=names)
    page = live_html(vit, odd, tmp_path / "page.html", title="<b>bold</b> & more").read_text()
    assert "<title>&lt;b&gt;bold&lt;/b&gt; &amp; more</title>" in page
    data = json.loads(block(page, "data"))
    assert data["tiles"]["names"][0] == names[0]
    assert data["title"] == "<b>bold</b> & more"
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert f"script-src 'sha256-{digest}' 'wasm-unsafe-eval'" in policy
    assert "unsafe-inline" not in policy
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(|innerHTML|url\(", script)
    assert base64.b64decode(block(page, "weights")) == pack_vit(vit).weights


def test_script_is_one_scope():
    """The engine is one function, which a worker takes as text."""
    script = live_script()
    assert script.count("function engineCode()") == 1
    assert "export " not in script


def test_widget_carries_the_same_data(vit: TileClassifier, few: TileSet):
    """`lulc.Live` is the page's code with the page's data, its weights in binary."""
    pytest.importorskip("anywidget")
    import lulc_lib as lulc

    widget = lulc.Live(vit, few)
    made = live_data(vit, few)
    assert widget.data == made.data
    assert widget.weights == made.weights
    assert live_script() in widget._esm
    widget.close()
