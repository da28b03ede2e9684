"""The anatomy of a model: its layers with a grid, and which one explanations take."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lulc_lib.running import device_of, evaluating
from lulc_lib.tiles import TILE_SIZE, cell_metres


@dataclass(frozen=True)
class Anatomy:
    """Where a network keeps its picture of the tile, found by running it once.

    Attributes:
        family: "cnn" (maps of channels) or "vit" (tokens).
        layer: dotted name of the default target layer for CAM, as in `model.named_modules()`: the
            last one through which patches still reach the logits.
        grid: (h, w) of that layer.
        prefix_tokens: class, distillation and register tokens before the patch tokens.
        stages: dotted names of the layers that can be chosen, in order of depth: the last layer at
            each resolution of a "cnn", the first norm of each block of a "vit".
        grids: (h, w) of each stage.
        blocks: dotted names of the blocks of a "vit"; else ().
        outputs: those of them whose output has the grid, and can be chosen as well.
        head: dotted name of the last linear layer.
        values: how many numbers the modules return for one tile: what a pass needs of memory.
    """

    family: str
    layer: str
    grid: tuple[int, int]
    prefix_tokens: int
    stages: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]
    blocks: tuple[str, ...]
    outputs: tuple[str, ...]
    head: str
    values: int

    @property
    def cell_metres(self) -> float:
        """Ground size of one cell of the default grid, in metres."""
        return cell_metres(self.grid[0])


def anatomy(model: nn.Module) -> Anatomy:
    """Find the layers of a model that explanations look at.

    The model runs once on a black tile; nothing is asked of the user. A network whose last
    feature maps come as (N, C, h, w) is a "cnn", one that ends in tokens (N, T, D) a "vit".

    The default layer should be a cut, which every path from a patch to the logits passes. Where the
    head reads the patch tokens, as with averaged tokens, that is the output of the last block; its
    first norm is none, since the residual connection goes round it. Where the head reads a class
    token alone, no layer of patch tokens is a cut, since the class token carries along what it read
    before; at the last block's output the gradient of the patch tokens is exactly zero. The default
    is then the last layer at which they count: the first norm of the last block, through which the
    class token reads them for the last time.

    Raises:
        ValueError: if no layer has a grid of at least 2x2.
    """
    known = model._anatomies.get(model.image_size)
    if known is None:
        known = _read_anatomy(model)
        model._anatomies[model.image_size] = known
    return known


def to_grid(activation: Tensor, found: Anatomy) -> Tensor:
    """Return a layer's output as maps (N, C, h, w): tokens lose their prefix and are laid out."""
    if activation.ndim == 4:
        return activation.movedim(channel_axis(activation.shape), 1)
    if activation.ndim != 3:
        raise ValueError(
            f"a layer with output {tuple(activation.shape)} has no grid; "
            f"choose one of {', '.join(found.stages + found.outputs)}"
        )
    h, w = found.grid
    patches = activation[:, found.prefix_tokens :]
    return patches.transpose(1, 2).reshape(len(activation), -1, h, w)


def channel_axis(shape: Sequence[int]) -> int:
    """Return which axis of a layer's output counts channels: 1 of (N, C, h, w), else the last.

    Swin transformers, and some others, keep their maps as (N, h, w, C). Cells form a square on
    square tiles; where they do not, the channels are taken for the longer side.
    """
    if len(shape) != 4:
        return len(shape) - 1
    _, a, b, c = shape
    return 1 if b == c or (a != b and a >= c) else 3


def _cells(shape: Sequence[int]) -> tuple[int, int]:
    """Return the (h, w) of a layer's four-dimensional output."""
    sides = [size for i, size in enumerate(shape) if i not in (0, channel_axis(shape))]
    return sides[0], sides[1]


def _read_anatomy(model: nn.Module) -> Anatomy:
    trace = _trace(model)
    kinds = {name: type(module) for name, module in model.named_modules()}
    head = next((n for n, _ in reversed(trace) if issubclass(kinds[n], nn.Linear)), None)
    wide = [i for i, (_, shape) in enumerate(trace) if len(shape) == 4 and min(_cells(shape)) > 1]
    convolved = [i for i in wide if issubclass(kinds[trace[i][0]], nn.Conv2d)]
    if head is None or not convolved:
        raise ValueError(f"{model.name} has no layer with a grid of at least 2x2 before its head")
    values = sum(math.prod(shape) for _, shape in trace)
    norms = _block_norms(kinds, trace[convolved[-1] + 1 :])
    if norms:
        grid = trace[convolved[-1]][1][-2:]
        prefix = dict(trace)[norms[-1]][1] - grid[0] * grid[1]
        if prefix < 0:
            raise ValueError(
                f"{model.name} merges its tokens on the way ({grid[0]}x{grid[1]} at first, "
                f"{prefix + grid[0] * grid[1]} tokens at last); it cannot be explained yet"
            )
        blocks = tuple(name.rpartition(".")[0] for name in norms)
        length, shapes = prefix + grid[0] * grid[1], dict(trace)
        outputs = tuple(b for b in blocks if len(s := shapes.get(b, ())) == 3 and s[1] == length)
        read = blocks[-1] in outputs and _reads_patches(model, blocks[-1], head, prefix)
        layer, grids = blocks[-1] if read else norms[-1], (grid,) * len(norms)
        return Anatomy("vit", layer, grid, prefix, norms, grids, blocks, outputs, head, values)
    found = [trace[i] for i in wide if trace[i][0].startswith("network.")]
    outer = [(name, shape) for name, shape in found if name.count(".") <= 2] or found
    stages = {_cells(shape): name for name, shape in outer}  # the last one at each resolution
    names, grids = tuple(stages.values()), tuple(stages)
    return Anatomy("cnn", names[-1], grids[-1], 0, names, grids, (), (), head, values)


def _trace(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Run the model on one black tile; list modules in order of completion with output shapes."""
    trace: list[tuple[str, tuple[int, ...]]] = []

    def record(name: str):
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                trace.append((name, tuple(output.shape)))

        return hook

    handles = [m.register_forward_hook(record(n)) for n, m in model.named_modules() if n]
    try:
        with evaluating(model):
            model(torch.zeros(1, 3, TILE_SIZE, TILE_SIZE, device=device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _reads_patches(model: nn.Module, block: str, head: str, prefix: int) -> bool:
    """Tell whether the head's input depends on the patch tokens that leave the last block.

    Two black tiles run through the model; the second one's patch tokens are moved, and the head's
    inputs compared. No gradient is needed, which a caller may have forbidden; and a head of zeros,
    as some trainings start with, does not hide what it reads.
    """
    read: list[Tensor] = []
    thread = threading.get_ident()

    def note(module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() == thread:
            read.append(inputs[0])

    def move(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if threading.get_ident() != thread:  # somebody else's pass
            return output
        moved = output.clone()
        # Not one value for all channels, which a layer norm would take away again.
        direction = torch.linspace(-1, 1, output.shape[-1], device=output.device)
        moved[1, prefix:] += (direction * output.abs().max().clamp(min=1)).to(output.dtype)
        return moved

    handles = [
        model.get_submodule(block).register_forward_hook(move),
        model.get_submodule(head).register_forward_pre_hook(note),
    ]
    try:
        with evaluating(model):
            model(torch.zeros(2, 3, TILE_SIZE, TILE_SIZE, device=device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    still, moved = read[-1][0].float(), read[-1][1].float()
    return bool((moved - still).abs().max() > 1e-3 * still.abs().max())


def _block_norms(
    kinds: dict[str, type], trace: list[tuple[str, tuple[int, ...]]]
) -> tuple[str, ...]:
    """Return the first LayerNorm of each transformer block, if these read tokens (N, T, D)."""
    first: dict[str, tuple[str, int]] = {}
    for name, shape in trace:
        block, _, _ = name.rpartition(".")
        container = kinds.get(block.rpartition(".")[0], nn.Module)
        in_row = issubclass(container, nn.Sequential | nn.ModuleList)
        if in_row and issubclass(kinds[name], nn.LayerNorm):
            first.setdefault(block, (name, len(shape)))
    tokens = [name for name, dimensions in first.values() if dimensions == 3]
    return tuple(tokens) if len(tokens) == len(first) else ()
