"""Tiles and models to begin with: the shipped checkpoints, or small models trained on the spot."""

import os
from dataclasses import asdict

import torch

from lulc_lib.cards import CheckpointError
from lulc_lib.checkpoints import available_checkpoints, load_checkpoint, save_checkpoint
from lulc_lib.config import History, RunConfig
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.eurosat import load_eurosat
from lulc_lib.models import TileClassifier, create_model
from lulc_lib.splits import Split
from lulc_lib.storage import (
    cache_costs_nothing,
    cache_dir,
    cache_key,
    key_digest,
    warn_damaged,
)
from lulc_lib.tiles import TileSet
from lulc_lib.training import fit

SMOKE_TILES = 24  # drawn tiles of each class when LULC_SMOKE=1
SUBSET = 1500  # training tiles of a large data set that a small model learns from

# What stands in for a shipped model that does not fit the tiles: (timm name, arguments, epochs).
SMALL = {
    "resnet50": ("resnet18", {}, 6),
    "vit": ("vit", {"depth": 4, "embed_dim": 96, "num_heads": 3}, 12),
}


def is_smoke() -> bool:
    """Tell whether LULC_SMOKE=1 asks for drawn tiles and small models."""
    return os.environ.get("LULC_SMOKE", "") not in ("", "0")


def load_tiles(download: bool = True) -> TileSet:
    """Return EuroSAT, or a few drawn tiles when LULC_SMOKE=1.

    Raises:
        OSError: if EuroSAT is not here and cannot be downloaded.
        ValueError: if what is here is damaged.
    """
    return synthetic(SMOKE_TILES, seed=0) if is_smoke() else load_eurosat(download=download)


def fitting_checkpoint(name: str, parts: Split) -> TileClassifier | None:
    """Return the shipped model for these tiles and this split, None where there is none.

    It is the checkpoint NAME_SPLIT, such as "vit_spatial", or NAME, whichever comes first with a
    card that names these tiles' data set, and none of whose training tiles choose or test here.
    """
    for candidate in (f"{name}_{parts.name}", name):
        if candidate in available_checkpoints():
            model, card = load_checkpoint(candidate)
            known = (card.data.get("source"), card.data.get("digest"))
            held_out = [part for part in (parts.val, parts.test) if part is not None]
            if known == (parts.train.source, parts.train.digest) and not any(
                model.trained_on.contains(part).any() for part in held_out
            ):
                return model
    return None


def ready_model(
    name: str, parts: Split, *, epochs: int | None = None, progress: bool = False
) -> TileClassifier:
    """Return a trained model for these tiles.

    It is the shipped checkpoint, where one fits (`fitting_checkpoint`). Else a small model of
    the same family is trained on the spot, on at most 1,500 training tiles, which takes seconds on
    drawn tiles and about a minute on EuroSAT; it is kept in the cache folder for the next time.

    Args:
        name: "resnet50" or "vit".
        parts: the split; `parts.train` is learnt from, `parts.val` chooses the epoch.
        epochs: passes of the small model's training; default: enough to show something.
        progress: show a progress bar while a small model is trained.

    Raises:
        ValueError: if there is no such model.

    Warns:
        CacheWarning: if a small model that was kept is damaged, or cannot be kept.
    """
    if name not in SMALL:
        raise ValueError(f"there is a ready model for {' and '.join(SMALL)}, not for {name!r}")
    model = fitting_checkpoint(name, parts)
    if model is not None:
        return model
    architecture, arguments, usual = SMALL[name]
    config = RunConfig(
        model=architecture, epochs=epochs or usual, batch_size=32, ema=0.0, warmup_epochs=1.0
    )
    key = cache_key(
        architecture=architecture, arguments=arguments, config=asdict(config),
        data=parts.train.digest, split=parts.digest,
    )  # fmt: skip
    file = f"{name}-{key_digest(key)[:32]}"
    model = _kept(file)
    if model is None:
        model, history = _train_small(architecture, arguments, parts, config, progress)
        notes = "A small stand-in, not a result of the suite."
        with cache_costs_nothing(f"the small model {name}"):
            path = cache_dir() / "quickstart" / file
            save_checkpoint(model, config, path, history=history, notes=notes)
            model, _ = load_checkpoint(path)  # with its card, and rounded as it will be next time
    model.name = f"{name} (small)"
    return model


def _kept(file: str) -> TileClassifier | None:
    """Return the small model of an earlier call with the same key; None if it is damaged, too."""
    try:
        return load_checkpoint(cache_dir() / "quickstart" / file)[0]
    except OSError:
        return None
    except CheckpointError as error:
        warn_damaged(error)
        return None


def _train_small(
    architecture: str, arguments: dict, parts: Split, config: RunConfig, progress: bool
) -> tuple[TileClassifier, History]:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = create_model(architecture, image_size=64, **arguments)
    val = None if parts.val is None else parts.val.balanced(SUBSET // 3)
    return model, fit(model, parts.train.balanced(SUBSET), val, config, progress=progress)
