"""Nulls: explanations that ask no model's weights, for every table to be compared with."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.anatomies import anatomy
from lulc_lib.explanations.batch import Batch
from lulc_lib.models import TileClassifier

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601
_CENTRE_SIGMA = 16.0  # pixels
_BLUR_SIGMA = 4.0  # pixels


def random(batch: Batch) -> np.ndarray:
    """Draw each pixel from a normal distribution; the same tile always gets the same map."""
    return _normal(batch, batch.images.shape[2:])


def cells(batch: Batch) -> np.ndarray:
    """Draw each cell of the model's own grid as `random` draws pixels.

    The grid is that of the model's automatic layer; nothing else of the model counts. Noise this
    coarse is as smooth as a CAM of the model, which noise of pixels is not.
    """
    return _normal(batch, batch.anatomy.grid)


def check_grid(model: TileClassifier) -> None:
    """Refuse a model without a grid, whose cells cannot be drawn.

    Raises:
        ValueError: if no layer has one.
    """
    try:
        anatomy(model)
    except ValueError as error:
        raise ValueError(
            f"cells draws noise in cells of the model's own grid: {error}, or use the null random"
        ) from error


def centre(batch: Batch) -> np.ndarray:
    """Put a Gaussian of 16 px in the middle of the tile."""
    h, w = batch.images.shape[2:]
    rows, columns = (
        np.exp(-(((np.arange(n) + 0.5 - n / 2) / _CENTRE_SIGMA) ** 2) / 2) for n in (h, w)
    )
    return np.repeat(np.outer(rows, columns)[None].astype(np.float32), len(batch), axis=0)


def edge(batch: Batch) -> np.ndarray:
    """Show the length of the brightness gradient, by Sobel's filter."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = torch.stack([across, across.T])[:, None].to(batch.device)
    grey = F.pad(_brightness(batch.images), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(grey, kernels).norm(dim=1).cpu().numpy()


def blur(batch: Batch) -> np.ndarray:
    """Show the brightness itself, blurred by 4 px."""
    reach = int(3 * _BLUR_SIGMA)
    row = torch.exp(-((torch.arange(-reach, reach + 1) / _BLUR_SIGMA) ** 2) / 2).to(batch.device)
    row = (row / row.sum()).view(1, 1, 1, -1)
    grey = F.pad(_brightness(batch.images), (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(grey, row), row.mT)[:, 0].cpu().numpy()


def _normal(batch: Batch, shape: Sequence[int]) -> np.ndarray:
    """Draw (N, *shape) from a normal distribution, seeded by each tile's values."""
    maps = []
    for image in batch.images.cpu().numpy():
        seed = zlib.crc32(np.ascontiguousarray(image).tobytes())
        maps.append(np.random.default_rng(seed).standard_normal(shape, np.float32))
    return np.stack(maps)


def _brightness(images: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", images, images.new_tensor(_LUMA))[:, None]
