"""Classifiers that take tiles as they are."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers import HybridEmbed, LayerNorm2d
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from lulc_lib.anatomies import Anatomy, anatomy
from lulc_lib.arrays import whole_number
from lulc_lib.files import home_expanded, one_line
from lulc_lib.hub import first_contact, hub_address, is_cached
from lulc_lib.running import copied, device_of, evaluating
from lulc_lib.tiles import CLASSES, TILE_SIZE
from lulc_lib.weights import read_state_dict
from lulc_lib.wording import did_you_mean

# Mean and deviation of EuroSAT's RGB tiles in [0, 1], over all 27,000.
EUROSAT_MEAN = (0.34438, 0.38029, 0.40777)
EUROSAT_STD = (0.20266, 0.13690, 0.11555)
# Short names: (timm name, size inside or None for timm's own, arguments for timm).
ALIASES: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "resnet50": ("resnet50.tv_in1k", None, {}),
    # The last stage keeps its resolution and is dilated instead ("DC5", Carion et al. 2020, arXiv
    # 2005.12872): 8x8 cells at 128 px, where the plain network has 4x4.
    "resnet50_dc5": ("resnet50", 128, {"output_stride": 16}),
    "vit_base": ("vit_base_patch16_224.orig_in21k", None, {}),
    # Compact, trained here from scratch: 8x8 tokens of 8x8 px, averaged at the end, since plain
    # ViTs learn faster so (Beyer, Zhai and Kolesnikov 2022, arXiv 2205.01580).
    "vit": (
        "vit_tiny_patch16_224",
        64,
        {
            "patch_size": 8,
            "embed_dim": 192,
            "depth": 6,
            "num_heads": 3,
            "class_token": False,
            "global_pool": "avg",
        },
    ),
    # The same with finer patches: 16x16 tokens of 4x4 px, so that a cell is 40 m wide; between four
    # and five times the multiplications.
    "vit_fine": (
        "vit_tiny_patch16_224",
        64,
        {
            "patch_size": 4,
            "embed_dim": 192,
            "depth": 6,
            "num_heads": 3,
            "class_token": False,
            "global_pool": "avg",
        },
    ),
}
# timm arguments that change how many classes or channels a network has, or what it returns.
_OURS = {
    "num_classes": "the classes are the ten of EuroSAT",
    "in_chans": "tiles have three channels",
    "img_size": "take image_size instead",
    "pretrained_cfg": "take pretrained, mean and std instead",
    "pretrained_cfg_overlay": "take pretrained, mean and std instead",
    "checkpoint_path": "take pretrained instead",
    "features_only": "a classifier returns logits",
    "out_indices": "a classifier returns logits",
    "feature_cls": "a classifier returns logits",
}
MOST_PIXELS = 1024  # of the size inside
_WEIGHTS = "model.safetensors"  # what timm calls them on the hub


class Prepare(nn.Module):
    """Resize to the size inside and normalise: the model's first layers."""

    def __init__(self, image_size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1] as (N, 3, image_size, image_size), normalised."""
        size = (self.image_size, self.image_size)
        if tuple(images.shape[-2:]) != size:
            smaller = self.image_size < images.shape[-1]
            images = F.interpolate(images, size, mode="bilinear", antialias=smaller)
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Return the settings: the mean and the deviation are in no state dict."""
        mean, std = (_rounded(values) for values in (self.mean, self.std))
        return f"image_size={self.image_size}, mean={mean}, std={std}"


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(v, 6) for v in values.flatten().tolist())


class TileClassifier(nn.Module):
    """A network that takes float32 tiles (N, 3, 64, 64) in [0, 1] and returns logits (N, 10).

    Attributes:
        name: what it was made as, such as "resnet50".
        network: the timm or other module inside.
        spec: JSON-able data to build it again, or None for a wrapped module.
        card: the card of the checkpoint it was loaded from, or None.
        predictions_file: where that checkpoint keeps its predictions, if it does, or None.
        report_file: where that checkpoint keeps its report card, if it does, or None.
        structure: digest of its modules when it was loaded from a checkpoint, or None.
        trained_on: the tiles it was trained on (`TrainedOn`), or None.
        tiles_across: tiles along each side of the images it takes: 1 but for `enlarged` copies.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        spec: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.prepare = Prepare(image_size, _channels("mean", mean), _channels("std", std))
        self.network = network
        self.name = name
        self._spec = spec
        self.card: Any = None
        self.predictions_file: Path | None = None
        self.report_file: Path | None = None
        self.structure: str | None = None
        self.trained_on: Any = None
        self.tiles_across = 1
        self._anatomies: dict[int, tuple[Any, Anatomy | str]] = {}  # with a signature

    @property
    def image_size(self) -> int:
        """Size inside, in pixels; tiles are resized to it. Convolutional networks may change it."""
        return self.prepare.image_size

    @image_size.setter
    def image_size(self, size: int) -> None:
        if size == self.image_size:
            return
        if self._spec is None or self._spec["fixed_size"]:
            raise ValueError(
                f"{self.name} works at {self.image_size} px alone; "
                f"make it anew with create_model(..., image_size={size})"
            )
        self.prepare.image_size = _checked_size(size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that is taken off each channel."""
        return _rounded(self.prepare.mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation each channel is divided by."""
        return _rounded(self.prepare.std)

    @property
    def spec(self) -> dict[str, Any] | None:
        """JSON-able data that `from_spec` builds this model from, None for a wrapped module."""
        return None if self._spec is None else {**self._spec, "image_size": self.image_size}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10) of images (N, 3, H, W) in [0, 1]."""
        return self.network(self.prepare(images))

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 10) and what the classifier saw, (N, D).

        Of a convolutional classifier, that is the average over the cells.
        """
        seen: list[Tensor] = []
        name = anatomy(self).head
        if not name:
            raise ValueError(
                f"{self.name} computes its logits outside any linear or convolutional layer, so "
                "that nothing shows its features; leave features=True out"
            )
        head = self.get_submodule(name)
        handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self(images)
        finally:
            handle.remove()
        features = seen[-1]
        if isinstance(head, nn.Conv2d):
            return logits, features.mean(dim=(2, 3))
        return logits, features.flatten(1)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.parameters()) / 1e6
        return f"TileClassifier({self.name}, {self.image_size} px inside, {count:.1f} M parameters)"


def enlarged(model: TileClassifier, across: int) -> TileClassifier:
    """Return a copy that takes images of several tiles at the scale of the tiles.

    Args:
        model: a model whose size inside may change, such as most convolutional networks.
        across: tiles along each side of an image.

    Returns:
        A copy for images (N, 3, 64 * across, 64 * across), whose size inside is as many times
        larger; its heat maps have 64x64 pixels all the same.

    Raises:
        ValueError: if the model works at one size alone, or across is below 1.
    """
    across = whole_number("across", across)
    if across * model.image_size > MOST_PIXELS:
        raise ValueError(
            f"{model.name} works at {model.image_size} px, and {across} times as much is beyond "
            f"{MOST_PIXELS}; take a smaller across"
        )
    made = copied(model)
    made.image_size = across * model.image_size
    made.tiles_across = across * model.tiles_across
    return made


def create_model(
    model: str | nn.Module,
    pretrained: bool | str | Path = False,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **timm_arguments: Any,
) -> TileClassifier:
    """Make a classifier of the ten classes that takes tiles as they are.

    Args:
        model: an alias ("resnet50", "resnet50_dc5", which is the shipped ResNet50 with a finer last
            stage, "vit", "vit_fine", "vit_base"), any timm name, or a module to wrap that maps
            normalised images (N, 3, image_size, image_size) to logits (N, 10).
        pretrained: True downloads timm's weights; a path loads them from a local file of the
            same architecture (safetensors, or a state dict saved by torch); the last layer is new
            where its number of classes differs.
        image_size: size inside in pixels; default: timm's own (64 for "vit" and "vit_fine", 128 for
            "resnet50_dc5").
        mean: mean of each channel in [0, 1]; default: the pretrained weights' own, else EuroSAT's.
        std: deviation of each channel; default likewise.
        **timm_arguments: passed on to timm, such as `drop_path_rate=0.1` or `act_layer="silu"`; a
            checkpoint's card keeps them as JSON. One is ours: a ViT with `conv_stem=(48, 96)` makes
            its patches by 3x3 convolutions of stride 2 with so many channels and a last one to
            `embed_dim`, here three, for patches of 8 px.

    Raises:
        TypeError: if the model is neither a name nor a module.
        ValueError: if the name is unknown, settings are missing or out of range, or the module is
            a classifier that this function has made.
        FileNotFoundError: if a weights file is missing, or cannot be downloaded.
    """
    if isinstance(model, nn.Module):
        return _wrap(model, pretrained, image_size, mean, std, timm_arguments)
    if not isinstance(model, str):
        raise TypeError(f"model must be a name or an nn.Module, got {type(model).__name__}")
    for argument in timm_arguments.keys() & _OURS.keys():
        raise ValueError(f"leave out {argument}={timm_arguments[argument]!r}: {_OURS[argument]}")
    _check_jsonable(timm_arguments)
    architecture, alias_size, alias_arguments = ALIASES.get(model, (model, None, {}))
    _check_known(model, architecture)
    cfg = timm.models.get_pretrained_cfg(architecture)
    usual = (cfg.mean, cfg.std) if pretrained else (EUROSAT_MEAN, EUROSAT_STD)
    own_size = alias_size or cfg.input_size[-1]
    size = _checked_size(own_size if image_size is None else image_size)
    spec = {
        "name": model,
        "architecture": architecture,
        "arguments": {**alias_arguments, **timm_arguments},
        "fixed_size": bool(cfg.fixed_input_size),
        "mean": _channels("mean", usual[0] if mean is None else mean),
        "std": _channels("std", usual[1] if std is None else std),
    }
    if pretrained:  # for the card: where the first weights came from
        spec["pretrained"] = architecture if pretrained is True else Path(pretrained).name
    built = _build(spec, size, pretrained)
    if size != own_size:
        _check_ending(built, timm_arguments)
    return built


def from_spec(spec: dict[str, Any]) -> TileClassifier:
    """Build a model, with new weights, from the `spec` of another.

    Raises:
        ValueError: if a key is missing or the architecture is unknown.
    """
    missing = {"name", "architecture", "arguments", "fixed_size", "mean", "std", "image_size"}
    missing -= set(spec)
    if missing:
        raise ValueError(f"the model's description lacks {', '.join(sorted(missing))}")
    _check_known(spec["name"], spec["architecture"])
    own = {key: value for key, value in spec.items() if key != "image_size"}
    return _build(own, _checked_size(spec["image_size"]), pretrained=False)


def _build(spec: dict[str, Any], size: int, pretrained: bool | str | Path) -> TileClassifier:
    arguments = {**spec["arguments"], "num_classes": len(CLASSES)}
    if spec["fixed_size"]:
        arguments["img_size"] = size
    if pretrained:
        network = _load_pretrained(spec["architecture"], pretrained, arguments)
    else:
        try:
            network = timm.create_model(spec["architecture"], **_with_stem(arguments))
        except (TypeError, AssertionError, RuntimeError) as error:
            raise ValueError(
                f"timm cannot make {spec['architecture']} with {arguments}: {error}"
            ) from error
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    patch = patch if isinstance(patch, int) else max(patch)
    if spec["fixed_size"] and size % patch:
        raise ValueError(f"image_size must be a multiple of the patch size {patch}, got {size}")
    built = TileClassifier(network, spec["name"], size, spec["mean"], spec["std"], spec)
    if set(spec["arguments"]) - set(ALIASES.get(spec["name"], (0, 0, {}))[2]):
        _check_ending(built, spec["arguments"])
    return built


def _with_stem(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return timm's arguments for a ViT whose patches come from convolutions, if that is asked.

    Small ViTs learn faster so (Xiao et al. 2021, arXiv 2106.14881). Layer norms instead of the
    paper's batch norms keep each tile's logits free of its neighbours in the batch.
    """
    if "conv_stem" not in arguments:
        return arguments
    kept = {k: v for k, v in arguments.items() if k not in ("conv_stem", "patch_size")}
    hidden = arguments["conv_stem"]
    channels = (*hidden, arguments.get("embed_dim")) if isinstance(hidden, list | tuple) else ()
    if not channels or not all(isinstance(c, int) and c > 0 for c in channels):
        raise TypeError(
            f"conv_stem takes channels, and embed_dim with it, as whole numbers; got "
            f"conv_stem={arguments['conv_stem']!r}, embed_dim={arguments.get('embed_dim')!r}"
        )
    stem = ConvStem(
        depth=len(channels), channels=channels, stride=(2,) * len(channels),
        norm_layer=LayerNorm2d, act_layer=nn.GELU,
    )  # fmt: skip
    embed = functools.partial(HybridEmbed, backbone=stem, proj=False)
    return {**kept, "embed_layer": embed, "patch_size": 1}


def _load_pretrained(
    architecture: str, pretrained: bool | str | Path, arguments: dict[str, Any]
) -> nn.Module:
    if pretrained is not True:
        return _load_file(architecture, home_expanded(pretrained).absolute(), arguments)
    cfg = timm.models.get_pretrained_cfg(architecture)
    if not cfg.hf_hub_id:
        raise ValueError(f"timm has no weights for {architecture}; take pretrained=False")
    try:
        if not is_cached(cfg.hf_hub_id, _WEIGHTS):
            first_contact(hub_address(cfg.hf_hub_id, _WEIGHTS))  # timm itself retries for a minute
        return timm.create_model(architecture, pretrained=True, **arguments)
    except (TypeError, AssertionError, RuntimeError) as error:  # not of a download
        raise ValueError(
            f"timm cannot make {architecture} with {arguments} and its pretrained weights: "
            f"{one_line(error)}"
        ) from error
    except Exception as error:
        raise FileNotFoundError(
            f"the pretrained weights of {architecture} could not be downloaded "
            f"({type(error).__name__}). Bring the file {_WEIGHTS} of {cfg.hf_hub_id} on the "
            "Hugging Face hub to this machine, put it anywhere, and pass its path: "
            f"create_model(..., pretrained='path/to/{_WEIGHTS}') or "
            f"lulc train --pretrained path/to/{_WEIGHTS}"
        ) from error


def _load_file(architecture: str, file: Path, arguments: dict[str, Any]) -> nn.Module:
    """Make a network with the weights of a file, which we read and timm fits to the network."""
    if not file.exists():
        raise FileNotFoundError(
            f"there is no weights file {file}; give the path of a .safetensors or .bin file "
            f"with timm's weights of {architecture}"
        )
    try:
        weights = read_state_dict(file)
        prints = {_print(value) for value in weights.values()}
        network = timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay={"state_dict": weights},
            **arguments,
        )  # fmt: skip
        # Where the number of classes differs, timm takes whatever names it knows, and be it none.
        if not any(_print(p) in prints for p in network.parameters() if p.ndim > 1):
            raise ValueError("none of its matrices belongs to that network")
    except Exception as error:
        raise ValueError(
            f"{file} does not hold weights of {architecture}: {one_line(error)}"
        ) from error
    network.pretrained_cfg.pop("state_dict")  # a second copy of the weights
    return network


def _print(tensor: Tensor) -> tuple[int, tuple[float, ...]]:
    """Return the size and first values of a tensor, by which it is known again."""
    return tensor.numel(), tuple(tensor.detach().flatten()[:8].float().tolist())


def _wrap(
    module: nn.Module,
    pretrained: bool | str | Path,
    image_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    timm_arguments: dict[str, Any],
) -> TileClassifier:
    if pretrained or timm_arguments:
        extra = ", ".join(["pretrained"] * bool(pretrained) + list(timm_arguments))
        raise ValueError(f"a wrapped module comes with its own weights: leave out {extra}")
    size = _checked_size(TILE_SIZE if image_size is None else image_size)
    mean, std = EUROSAT_MEAN if mean is None else mean, EUROSAT_STD if std is None else std
    while isinstance(module, torch._dynamo.OptimizedModule | nn.DataParallel):
        module = module.module if isinstance(module, nn.DataParallel) else module._orig_mod
    if isinstance(module, TileClassifier):
        raise ValueError(
            f"{module.name} takes tiles in [0, 1] already, and would be resized and normalised "
            "twice; use it as it is, or wrap its network: create_model(model.network, "
            "image_size=model.image_size, mean=..., std=...)"
        )
    wrapped = TileClassifier(module, type(module).__name__.lower(), size, mean, std)
    _check_logits(wrapped)
    return wrapped


def _check_logits(wrapped: TileClassifier) -> None:
    """Run a wrapped module on two tiles; refuse what does not return logits of the ten classes."""
    kind, size = type(wrapped.network).__name__, wrapped.image_size
    seeded = torch.Generator().manual_seed(0)
    tiles = torch.cat([torch.zeros(1, 3, TILE_SIZE, TILE_SIZE),
                       torch.rand(1, 3, TILE_SIZE, TILE_SIZE, generator=seeded)])  # fmt: skip
    try:
        with evaluating(wrapped):  # which names parameters of an unusual type
            answers = [wrapped(tile[None].to(device_of(wrapped))) for tile in tiles]
    except Exception as error:
        raise ValueError(f"{kind} cannot take images of {size}x{size} px: {error}") from error
    if not all(isinstance(answer, Tensor) for answer in answers):
        raise ValueError(
            f"a wrapped module must return one tensor of logits, {kind} returned a "
            f"{type(answers[0]).__name__}"
        )
    shape = tuple(answers[0].shape)
    if shape != (1, len(CLASSES)):
        raise ValueError(
            f"a wrapped module must return logits (N, {len(CLASSES)}), "
            f"{kind} returned {shape} for one image"
        )
    rows = torch.cat(answers).float()
    if (rows >= 0).all() and ((rows.sum(dim=1) - 1).abs() < 1e-3).all():
        raise ValueError(
            f"{kind} returns probabilities that sum to 1, as behind a softmax; explanations and "
            "calibration need the logits: take the softmax off"
        )


def _check_ending(model: TileClassifier, arguments: dict[str, Any]) -> None:
    """Refuse a network of timm that does not return logits (N, 10) of one tile."""
    said = f"{model.name} with {arguments}" if arguments else model.name
    try:
        with evaluating(model):
            answer = model(torch.zeros(1, 3, TILE_SIZE, TILE_SIZE))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{said} cannot take tiles at {model.image_size} px: {one_line(error)}"
        ) from error
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != (1, len(CLASSES)):
        raise ValueError(
            f"{said} must return logits (1, {len(CLASSES)}) of one tile, it "
            f"returned {shape}; leave out what changes the kind of output"
        )


def _check_known(name: str, architecture: str) -> None:
    if timm.is_model(architecture.split(".")[0]):
        tags = timm.list_pretrained(f"{architecture.split('.')[0]}.*")
        if "." not in architecture or architecture in tags:
            return
        raise ValueError(f"timm has no weights tag {name!r}; it knows {', '.join(tags) or 'none'}")
    hint = did_you_mean(name, [*ALIASES, *timm.list_models()], count=3, otherwise=".")
    raise ValueError(
        f"unknown model {name!r}{hint} Aliases are {', '.join(ALIASES)}; "
        "timm.list_models() names all others"
    )


def _check_jsonable(arguments: dict[str, Any]) -> None:
    """Refuse, before any training, arguments that no checkpoint's card could hold."""
    for argument, value in arguments.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{argument}={value!r} cannot be kept in a checkpoint's card, which is JSON: pass "
                f"a plain number or timm's name, such as act_layer='silu', or wrap the network: "
                "create_model(timm.create_model(..., num_classes=10), image_size=...)"
            ) from error


def _channels(name: str, values: Sequence[float]) -> list[float]:
    low = 0.0 if name == "mean" else 1e-6
    try:
        floats = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):  # no numbers
        floats = np.zeros(0)
    if floats.shape != (3,) or not ((low <= floats) & (floats <= 1)).all():
        raise ValueError(f"{name} must be three numbers in [{low:g}, 1], got {values!r}")
    return floats.tolist()


def _checked_size(size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 16 <= size <= MOST_PIXELS:
        raise ValueError(
            f"image_size must be a whole number in 16..{MOST_PIXELS} pixels, got {size!r}"
        )
    return size
