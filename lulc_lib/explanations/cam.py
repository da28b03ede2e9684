"""Class activation maps: a layer's activations, weighted (owns pytorch_grad_cam's definitions)."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lulc_lib.anatomies import Anatomy, channel_axis
from lulc_lib.explanations.batch import Batch, cut, graft, hooked, pick
from lulc_lib.tiles import CLASSES

# Activations and gradients (N, C, h, w) -> maps (N, h, w).
Form = Callable[[Tensor, Tensor], Tensor]


def cam(definition: str, form: Form) -> Callable[[Batch], np.ndarray]:
    """Return a method: pytorch-grad-cam's own definition on a CPU, its PyTorch form on a GPU.

    Args:
        definition: class in pytorch_grad_cam whose formulas count; its capture, clipping and
            scaling do not.
        form: the same in PyTorch, so that a GPU keeps its tensors.
    """

    def maps(batch: Batch) -> np.ndarray:
        return weighted(definition, form, batch.activations, batch.gradients)

    return maps


def weighted(definition: str, form: Form, activations: Tensor, gradients: Tensor) -> np.ndarray:
    """Return float32 maps (N, h, w) of activations and gradients (N, C, h, w)."""
    if activations.device.type != "cpu":
        return form(activations, gradients).cpu().numpy()
    arrays = activations.contiguous().numpy(), gradients.contiguous().numpy()
    with np.errstate(all="ignore"):  # what comes out not finite is named by NaNMap
        return _library(definition)(*arrays)


def is_loaded() -> bool:
    """Say whether pytorch-grad-cam is loaded, which takes seconds: the first CAM waits for it."""
    return "pytorch_grad_cam" in sys.modules


@functools.cache
def _library(definition: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    import pytorch_grad_cam  # brings in cv2 and more: seconds that only maps should cost

    cls = getattr(pytorch_grad_cam, definition)
    bare = types.SimpleNamespace(get_cam_weights=functools.partial(cls.get_cam_weights, None))
    return lambda a, g: cls.get_cam_image(bare, None, None, None, a, g, False)


# --- the definitions in PyTorch ------------------------------------------------------------------


def _spread(weights: Tensor, activations: Tensor) -> Tensor:
    return torch.einsum("nc,nchw->nhw", weights, activations)


def gradcam_form(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weigh each channel by its mean gradient."""
    return _spread(gradients.mean(dim=(2, 3)), activations)


def gradcam_pp_form(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weigh each channel by its positive gradients, by equation 19 of the paper."""
    total = activations.sum(dim=(2, 3), keepdim=True)
    alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
    alpha = torch.where(gradients != 0, alpha, 0)
    return _spread((gradients.clamp(min=0) * alpha).sum(dim=(2, 3)), activations)


def xgradcam_form(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weigh each channel by its gradients' mean, weighted by the activations themselves."""
    total = activations.sum(dim=(2, 3), keepdim=True) + 1e-7
    return _spread((gradients * activations / total).sum(dim=(2, 3)), activations)


def hirescam_form(activations: Tensor, gradients: Tensor) -> Tensor:
    """Multiply activation and gradient cell by cell."""
    return (gradients * activations).sum(dim=1)


def elementwise_form(activations: Tensor, gradients: Tensor) -> Tensor:
    """Multiply cell by cell and keep what is positive."""
    return (gradients * activations).clamp(min=0).sum(dim=1)


def layercam_form(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weigh each cell by its own positive gradient."""
    return (gradients.clamp(min=0) * activations).sum(dim=1)


# --- eigen methods -------------------------------------------------------------------------------


def eigencam(batch: Batch) -> np.ndarray:
    """Project the activations on their first principal component."""
    return _principal(batch.activations).cpu().numpy()


def eigengradcam(batch: Batch) -> np.ndarray:
    """Project activation x gradient on its first principal component."""
    return _principal(batch.activations * batch.gradients).cpu().numpy()


def principal_map(activations: np.ndarray) -> np.ndarray:
    """Project each cell's activations on their first principal component.

    Equal to pytorch-grad-cam's `get_2d_projection` up to sign, by a faster road: the first
    singular vector of the centred (cells, channels) matrix X comes from the smaller of X Xᵀ and
    Xᵀ X, squared until one direction is left; where two directions are nearly as strong, from its
    full decomposition. The sign, which a decomposition leaves open, is fixed: the largest absolute
    value is positive. Maps of activations that are not finite are NaN, where the library puts
    zeros.

    Args:
        activations: float (N, C, h, w).

    Returns:
        float32 (N, h, w).
    """
    return _principal(torch.from_numpy(np.asarray(activations, dtype=np.float32))).numpy()


def _principal(activations: Tensor) -> Tensor:
    n, _, h, w = activations.shape
    matrix = activations.flatten(2).transpose(1, 2).double()
    usable = matrix.isfinite().flatten(1).all(dim=1)
    matrix = torch.where(usable[:, None, None], matrix, 0.0)
    matrix = matrix - matrix.mean(dim=1, keepdim=True)
    if matrix.shape[1] <= matrix.shape[2]:
        gram = matrix @ matrix.mT
        vector = _first_direction(gram)
        length = torch.einsum("ni,nij,nj->n", vector, gram, vector).clamp(min=0).sqrt()
        maps = vector * length[:, None]
    else:
        maps = torch.einsum("nij,nj->ni", matrix, _first_direction(matrix.mT @ matrix))
    peaks = maps.gather(1, maps.abs().argmax(dim=1, keepdim=True))
    maps = torch.where(usable[:, None], maps * torch.where(peaks < 0, -1.0, 1.0), torch.nan)
    return maps.view(n, h, w).float()


def _first_direction(gram: Tensor) -> Tensor:
    """Return the eigenvector of the largest eigenvalue of each matrix (n, d, d): (n, d)."""
    tiny = torch.finfo(gram.dtype).tiny
    power = gram / _trace(gram).clamp(min=tiny)
    for _ in range(12):  # the 4096th power
        power = power @ power
        power = power / _trace(power).clamp(min=tiny)
    column = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    vector = F.normalize(power[torch.arange(len(gram), device=gram.device), :, column], dim=1)
    image = torch.einsum("nij,nj->ni", gram, vector)
    value = (image * vector).sum(dim=1, keepdim=True)
    unsure = (image - value * vector).norm(dim=1) > 1e-7 * value[:, 0]
    if unsure.any():
        vector[unsure] = torch.linalg.eigh(gram[unsure]).eigenvectors[..., -1]
    return vector


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]


# --- why A, not B --------------------------------------------------------------------------------


def finercam(batch: Batch) -> np.ndarray:
    """Explain by Grad-CAM the target's lead over one class, or over the three nearest ones.

    The objective is pytorch-grad-cam's `FinerWeightedTarget` with alpha 1: the lead of the target's
    logit, averaged over the classes compared with, weighted by their probabilities. (The library
    adds 1e-9 to the sum of these, which blanks the map where the model is very sure.)
    """
    others = _compared(batch)

    def lead(logits: Tensor) -> Tensor:
        against = logits.gather(1, others)
        weights = against.softmax(dim=1)
        return (weights * (pick(logits, batch.target)[:, None] - against)).sum()

    return weighted("GradCAM", gradcam_form, batch.activations, batch.slope(lead))


def _compared(batch: Batch) -> Tensor:
    """Return the classes that each tile's target is compared with, (N, 1) or (N, 3)."""
    if batch.contrast is not None:
        same = (batch.target == batch.contrast).nonzero().flatten().tolist()
        if same:
            raise ValueError(
                f"contrast and target are both {CLASSES[batch.contrast]} for tile "
                f"{batch.first + same[0]}; choose another class, or give the target"
            )
        return torch.full_like(batch.target, batch.contrast)[:, None]
    distance = (batch.logits - pick(batch.logits, batch.target)[:, None]).abs()
    distance.scatter_(1, batch.target[:, None], -1.0)  # the target itself comes first
    return distance.argsort(dim=1)[:, 1:4]


# --- several layers ------------------------------------------------------------------------------


def refinecam(batch: Batch) -> np.ndarray:
    """Multiply Grad-CAMs of several layers, each without its negative part and scaled to its peak.

    RefineCAM, Domeniconi et al. 2026, arXiv:2605.14641: a late layer says where, an earlier one how
    finely. Of a ViT the last half of its blocks (their outputs, or their first norms where a class
    token is read), of a convolutional network the last three resolutions; all on the finest grid of
    them. Values lie in [0, 1].
    """
    names = refined_layers(batch.anatomy)
    kept: list[Tensor] = []
    leaves: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # the next layer may work in place

    later = dict.fromkeys(names[1:], keep)
    with (
        torch.no_grad(),
        hooked(batch.model, later),
        cut(batch.model, names[0], True, leaves := []),
    ):
        logits = batch.run(batch.images)
    with torch.enable_grad():
        every = [*leaves, *kept]
        slopes = torch.autograd.grad(pick(logits, batch.target).sum(), every)
    maps = [
        gradcam_form(batch.as_maps(one).float(), batch.as_maps(slope).float()).clamp(min=0)
        for one, slope in zip(every, slopes, strict=True)
    ]
    finest = max(one.shape[1:] for one in maps)
    product = torch.ones(len(batch), *finest, device=batch.device)
    for one in maps:
        peak = one.flatten(1).amax(dim=1)[:, None, None]
        scaled = torch.where(peak > 0, one / peak, 0.0)
        product = product * F.interpolate(scaled[:, None], finest, mode="bilinear")[:, 0]
    return product.detach().cpu().numpy()


def refined_layers(found: Anatomy) -> tuple[str, ...]:
    """Return the layers whose maps refinecam multiplies, from shallow to deep.

    Raises:
        ValueError: if there are fewer than two.
    """
    row = found.outputs if found.layer in found.outputs else found.stages
    names = row[len(row) // 2 :] if found.family == "vit" else row[-3:]
    if len(names) < 2:
        raise ValueError(
            f"refinecam multiplies the maps of several layers, and there is {', '.join(names)} "
            "alone; use gradcam"
        )
    return names


# --- methods that try: masks and ablations -------------------------------------------------------


def scorecam(batch: Batch) -> np.ndarray:
    """Weigh each channel by the softmax of what the tile scores when seen through it alone."""
    weights = []
    for image, maps, target in zip(batch.images, batch.activations, batch.target, strict=True):
        logits = []
        for some in maps.split(batch.chunk):
            masks = F.interpolate(some[None], image.shape[-2:], mode="bilinear", align_corners=True)
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masks = ((masks - low) / (high - low + 1e-8))[0]
            with torch.no_grad():
                logits.append(batch.run(image * masks[:, None])[:, target])
        weights.append(torch.cat(logits).softmax(dim=0))
    return _spread(torch.stack(weights), batch.activations).cpu().numpy()


def ablationcam(batch: Batch) -> np.ndarray:
    """Weigh each channel by the part of the logit that is lost without it.

    A channel is set to zero, as in the paper. (pytorch-grad-cam does so where activations cannot
    be negative; elsewhere it sets ever lower values, -1e7 and less.) What is lost is divided by the
    logit's size: the paper divides by the logit itself, which turns the map round where that is
    negative. Only the head is run again.
    """
    weights = []
    for i, target in enumerate(batch.target):
        own, one = batch.leaf[i : i + 1], batch.images[i : i + 1]
        axis = channel_axis(own.shape)
        channels = torch.arange(own.shape[axis], device=batch.device)
        logits = []
        for some in channels.split(8 * batch.chunk):
            without = own.repeat_interleave(len(some), dim=0).movedim(axis, 1)
            without[torch.arange(len(some), device=batch.device), some] = 0
            with torch.no_grad():
                head = graft(batch, batch.layer, one, without.movedim(1, axis))
            logits.append(head[:, target])
        whole = batch.logits[i, target]
        weights.append((whole - torch.cat(logits)) / whole.abs())
    return _spread(torch.stack(weights), batch.activations).cpu().numpy()
