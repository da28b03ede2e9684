"""Accustom a copy of a model to tiles with a patch removed."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from lulc_lib.arrays import whole_number
from lulc_lib.faithfulness.fills import FILLS, remove
from lulc_lib.faithfulness.patches import patch_masks
from lulc_lib.running import copied, device_of, evaluating
from lulc_lib.tiles import TileSet


def adapted(
    model: nn.Module,
    tiles: TileSet,
    *,
    side: int = 4,
    fill: str = "blur",
    steps: int = 300,
    batch_size: int = 32,
    learning_rate: float = 3e-5,
    seed: int = 0,
    progress: bool = False,
) -> nn.Module:
    """Return a copy of a model, fine-tuned on tiles in which one patch is removed.

    A tile without a patch is like none that the model has learnt, so that its answer may fall for
    that alone. To the copy such tiles are familiar: Hesse, Schaub-Meyer and Roth, NeurIPS 2024
    (IDSDS, arXiv:2407.11910) compare `patch_falls` of it with maps of it, by Spearman's rank
    correlation; `single_deletion` takes Pearson's.

    Each tile of a batch loses one patch, drawn from all, or with the same chance none. The copy
    stays in eval mode meanwhile: statistics of batch norms are kept, and nothing is dropped out.

    Args:
        model: a model, which is left as it is.
        tiles: tiles with labels, best the model's own training tiles: the copy has seen them then.
        side: patches in a row, and rows.
        fill: one of `FILLS`.
        steps: how many batches.
        batch_size: tiles at once.
        learning_rate: of AdamW, constant.
        seed: of the draw of tiles and patches; the same seed gives the same copy.
        progress: show a bar.

    Returns:
        The copy in eval mode, with `trained_on` as after a further `fit` on these tiles, and
        without a card or predictions kept in a file, since these speak of the model's own weights.

    Raises:
        TypeError: if the tiles are no TileSet, and so have no labels.
        ValueError: if there are no tiles, a setting is out of range, the model is in half
            precision, or the loss is not finite.
    """
    _check(tiles, fill, steps, batch_size, learning_rate)
    masks = patch_masks(*tiles.images.shape[-2:], side)
    rng = np.random.default_rng(seed)
    device = device_of(model)
    with torch.inference_mode(False):
        tuned = copied(model).eval().requires_grad_(True)
    with torch.inference_mode(False), evaluating(tuned), torch.enable_grad():
        optimizer = torch.optim.AdamW(tuned.parameters(), lr=learning_rate)
        for step in tqdm(range(steps), desc="adapting", unit="step", disable=not progress):
            chosen = torch.from_numpy(rng.integers(len(tiles), size=batch_size))
            gone = masks[rng.integers(len(masks), size=batch_size)]
            images = remove(tiles.images[chosen], gone, fill, seed=seed + step).to(device)
            loss = F.cross_entropy(tuned(images), tiles.labels[chosen].to(device))
            if not bool(torch.isfinite(loss)):
                raise ValueError(
                    f"the loss is {loss.item()} at step {step}: take a smaller learning_rate than "
                    f"{learning_rate:g}, or look whether the model's weights are broken"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    tuned.zero_grad(set_to_none=True)
    tuned.trained_on = tiles.provenance().after(getattr(model, "trained_on", None))
    tuned.card = tuned.predictions_file = tuned.report_file = None
    return tuned


def _check(tiles: TileSet, fill: str, steps: int, batch_size: int, learning_rate: float) -> None:
    if not isinstance(tiles, TileSet):
        raise TypeError(
            f"tiles must be a TileSet, whose labels the copy learns, got {type(tiles).__name__}"
        )
    if len(tiles) == 0:
        raise ValueError("there are no tiles to adapt the model to")
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
    whole_number("steps", steps)
    whole_number("batch_size", batch_size)
    if not isinstance(learning_rate, int | float) or not 0 < learning_rate < 1:
        raise ValueError(f"learning_rate must lie between 0 and 1, got {learning_rate!r}")
