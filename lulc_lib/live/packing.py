"""Pack a plain Vision Transformer for the browser: sizes as data, weights in half precision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lulc_lib.anatomies import anatomy
from lulc_lib.explanations import check_methods, recommended
from lulc_lib.models import TileClassifier
from lulc_lib.running import copied, evaluating
from lulc_lib.tiles import TILE_SIZE

# What a plain ViT has in these places; anything else computes what the page does not know.
_PLAIN = {
    "norm_pre": nn.Identity, "attn.q_norm": nn.Identity, "attn.k_norm": nn.Identity,
    "attn.norm": nn.Identity, "ls1": nn.Identity, "ls2": nn.Identity, "mlp.norm": nn.Identity,
    "mlp.act": nn.GELU, "norm1": nn.LayerNorm, "norm2": nn.LayerNorm, "patch_embed.proj": nn.Conv2d,
    "patch_embed.norm": nn.Identity, "head": nn.Linear,
}  # fmt: skip
_ROUNDING = 1e-3  # by how much our own pass may miss the model's logits


@dataclass(frozen=True, eq=False)
class PackedVit:
    """A Vision Transformer as the page runs it.

    Attributes:
        spec: sizes, normalisation and the list of tensors, as `static/vit.js` reads them.
        weights: all tensors one after the other, float16, little-endian.
        model: the same network with its weights rounded so: what the page is compared with.
    """

    spec: dict[str, Any]
    weights: bytes
    model: TileClassifier


def pack_vit(model: TileClassifier) -> PackedVit:
    """Pack a model, or say why the page cannot run it.

    Args:
        model: a plain ViT as `create_model("vit...")` makes it: a class token or averaged tokens,
            any depth, width, patch and number of classes.

    Raises:
        TypeError: if it is no model of ours.
        ValueError: if it is another network; the message names what differs.
    """
    if not isinstance(model, TileClassifier):
        raise TypeError(f"a live page takes a model of create_model, got {type(model).__name__}")
    reason = next(_differences(model), None)
    if reason:
        raise ValueError(
            f"the live page cannot run {model.name}: {reason}. It runs plain Vision Transformers, "
            'as create_model("vit") makes them; lulc gallery writes a page with any model\'s maps'
        )
    rounded = _rounded(model)
    with evaluating(rounded), torch.no_grad():
        tensors = dict(_tensors(rounded.network))
        spec = _spec(rounded, tensors)
        _check_answers(rounded, spec, tensors)
    flat = np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors.values()])
    return PackedVit(spec, flat.astype("<f2").tobytes(), rounded)


def live_methods(model: TileClassifier) -> list[dict[str, Any]]:
    """List the maps that the page makes while one paints, the recommended one first.

    Returns:
        For each what `explain` calls it (`method`, `layer`) and what `map` in `static/vit.js` takes
        (`block`, `norm1`, `held`, `mean`).
    """
    found = anatomy(model)
    last, early = found.blocks[-1], found.blocks[_early(len(found.blocks))]
    asked = {
        ("gradcam", found.layer): {"held": False, "mean": True},
        ("libragrad", early): {"held": True, "mean": False},
        ("hirescam", found.layer): {"held": False, "mean": False},
    }
    if _explains(model, "contributions", last):
        asked["contributions", last] = {"held": True, "mean": False}
    best = recommended(model)
    known = {"gradcam": asked["gradcam", found.layer], "libragrad": asked["libragrad", early]}
    if best.method in known and best.layer in (*found.blocks, *found.stages):
        asked = {(best.method, best.layer): known[best.method], **asked}
    return [
        {
            "method": method,
            "layer": layer,
            "block": int(layer.split(".")[2]),
            "norm1": layer.endswith(".norm1"),
            **how,
        }
        for (method, layer), how in asked.items()
    ]


def _early(depth: int) -> int:
    """Return the block halfway up; near it held gradients do best, by the report cards."""
    return max(0, round(depth / 2) - 1)


def _explains(model: TileClassifier, method: str, layer: str) -> bool:
    try:
        check_methods(model, [method], layer)
    except ValueError:
        return False
    return True


def _differences(model: TileClassifier) -> Iterator[str]:
    """Yield what is not as in a plain ViT, in words."""
    network = model.network
    if type(network).__name__ != "VisionTransformer":
        yield f"it is a {type(network).__name__}"
        return
    if network.global_pool not in ("avg", "token"):
        yield f"its head reads the tokens by global_pool={network.global_pool!r}"
    if network.attn_pool is not None:
        yield "its head pools by attention"
    if model.image_size < TILE_SIZE:
        yield f"it shrinks tiles to {model.image_size} px"
    for i, block in enumerate(network.blocks):
        if type(block).__name__ != "Block" or type(block.attn).__name__ != "Attention":
            yield f"its block {i} is a {type(block).__name__} with {type(block.attn).__name__}"
            return
        if block.attn.qkv.out_features != 3 * network.embed_dim:
            yield f"the attention of its block {i} has another width than its tokens"
    for place, kind in _PLAIN.items():
        for where, module in _at(network, place):
            if not isinstance(module, kind):
                yield f"{where} is {type(module).__name__} instead of {kind.__name__}"
    gelu = {block.mlp.act.approximate for block in network.blocks if hasattr(block.mlp, "act")}
    if gelu - {"none"}:
        yield f"its GELU is approximated by {', '.join(sorted(gelu))}"


def _at(network: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield (dotted name, module) of a place: one of the network, or one in each block."""
    for owner, prefix in (
        (network, ""),
        *((b, f"blocks.{i}.") for i, b in enumerate(network.blocks)),
    ):
        with_parents = dict(owner.named_modules())
        if place in with_parents and not (
            owner is network and place.startswith(("norm1", "norm2"))
        ):
            yield f"{prefix}{place}", with_parents[place]


def _rounded(model: TileClassifier) -> TileClassifier:
    """Return a copy whose weights are what half precision keeps of them."""
    made = copied(model).cpu().float()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(parameter.half().float())
            if not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"the weights {name} of {model.name} do not fit into half precision, in which "
                    "the page keeps them: values lie beyond 65,504 or are not finite"
                )
    return made


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name in `static/vit.js`, tensor), missing biases as zeros."""
    grid = network.patch_embed.grid_size
    empty = torch.zeros(1, *grid, network.embed_dim)
    empty = empty if network.dynamic_img_size else empty.flatten(1, 2)
    # timm's own way from no patches to tokens: prefix and positions, a sum of two tensors, (T, D).
    base = network._pos_embed(empty)[0]
    yield "base", base.half().float()
    yield "rest", base - base.half().float()
    yield from _linear("patch.", network.patch_embed.proj)
    for i, block in enumerate(network.blocks):
        name = f"blocks.{i}."
        yield from _linear(f"{name}norm1.", block.norm1)
        yield from _linear(f"{name}qkv.", block.attn.qkv)
        yield from _linear(f"{name}proj.", block.attn.proj)
        yield from _linear(f"{name}norm2.", block.norm2)
        yield from _linear(f"{name}fc1.", block.mlp.fc1)
        yield from _linear(f"{name}fc2.", block.mlp.fc2)
    for name in ("norm", "fc_norm"):
        if isinstance(getattr(network, name), nn.LayerNorm):
            yield from _linear(f"{name}.", getattr(network, name))
    yield from _linear("head.", network.head)


def _linear(name: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    weight = layer.weight.flatten(1) if layer.weight.ndim > 1 else layer.weight
    yield f"{name}weight", weight
    yield f"{name}bias", torch.zeros(len(weight)) if layer.bias is None else layer.bias


def _spec(model: TileClassifier, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    network = model.network
    return {
        "dim": network.embed_dim,
        "depth": len(network.blocks),
        "heads": network.blocks[0].attn.num_heads,
        "hidden": network.blocks[0].mlp.fc1.out_features,
        "patch": network.patch_embed.patch_size[0],
        "size": model.image_size,
        "side": TILE_SIZE,
        "prefix": network.num_prefix_tokens,
        "classes": network.head.out_features,
        "pool": network.global_pool,
        "norm": isinstance(network.norm, nn.LayerNorm),
        "fcNorm": isinstance(network.fc_norm, nn.LayerNorm),
        "eps": network.blocks[0].norm1.eps,
        "mean": model.prepare.mean.flatten().tolist(),
        "std": model.prepare.std.flatten().tolist(),
        "tensors": [[name, tensor.numel()] for name, tensor in tensors.items()],
    }


def _check_answers(model: TileClassifier, spec: dict, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a network that computes something else with the layers of a plain ViT."""
    noise = np.random.default_rng(0).random((2, 3, TILE_SIZE, TILE_SIZE), dtype=np.float32)
    tiles = torch.from_numpy(noise)
    ours, theirs = _logits(spec, tensors, model.prepare(tiles)), model(tiles)
    missed = float((ours - theirs).abs().max())
    if not missed <= _ROUNDING * (1 + float(theirs.abs().max())):
        raise ValueError(
            f"the live page cannot run {model.name}: its layers are those of a plain Vision "
            f"Transformer, but their logits differ from the model's by {missed:.3g}"
        )


def _logits(spec: dict, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Run a plain ViT from its tensors alone: what `static/vit.js` computes, in PyTorch."""
    width, patch, heads = spec["dim"], spec["patch"], spec["heads"]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x, (width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], spec["eps"]
        )

    base = tensors["base"] + tensors["rest"]
    patches = F.unfold(images, patch, stride=patch).mT  # (n, N, 3 p p)
    x = F.pad(linear(patches, "patch"), (0, 0, spec["prefix"], 0)) + base  # (n, T, D)
    for i in range(spec["depth"]):
        name = f"blocks.{i}."
        joint = linear(norm(x, f"{name}norm1"), f"{name}qkv")
        q, k, v = joint.view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # (n, H, T, d)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + linear(mixed, f"{name}proj")
        x = x + linear(F.gelu(linear(norm(x, f"{name}norm2"), f"{name}fc1")), f"{name}fc2")
    x = norm(x, "norm") if spec["norm"] else x
    pooled = x[:, 0] if spec["pool"] == "token" else x[:, spec["prefix"] :].mean(dim=1)
    return linear(norm(pooled, "fc_norm") if spec["fcNorm"] else pooled, "head")
