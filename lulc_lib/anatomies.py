"""The anatomy of a model: its layers with a grid, and which one explanations take."""

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lulc_lib.running import device_of, evaluating
from lulc_lib.tiles import TILE_SIZE, cell_metres

# Settings of modules that change what they do, under the names that timm and others give them.
_FLAGS = ("grad_checkpointing", "gradient_checkpointing", "global_pool", "_compiled_call_impl")
_MOST_PREFIX = 16  # tokens before the patches: class, distillation and registers


@dataclass(frozen=True)
class Anatomy:
    """Where a network keeps its picture of the tile, found by running it once.

    Attributes:
        family: "cnn" (maps of channels) or "vit" (tokens).
        layer: dotted name of the default target layer for CAM, as in `model.named_modules()`: the
            last one through which patches still reach the logits.
        grid: (h, w) of that layer.
        prefix_tokens: class, distillation and register tokens before that layer's patch tokens.
        stages: dotted names of the layers that can be chosen, in order of depth: the last layer at
            each resolution of a "cnn", the first norm of each block of a "vit". Each runs once in a
            pass, and the logits' gradient reaches its cells.
        grids: (h, w) of each stage.
        blocks: dotted names of the blocks of a "vit"; else ().
        outputs: those of them whose output has a grid, and can be chosen as well.
        output_grids: (h, w) of each of those.
        head: dotted name of the classifier: the last linear or convolutional layer, if it returns
            a number for each class; else "".
        values: how many numbers the modules return for one tile: what a pass needs of memory.
        channels: how many numbers that layer returns for one cell.
        tokens: (T, (h, w)) for each number of tokens T that has a grid; the last h * w of the
            tokens are the patches.
    """

    family: str
    layer: str
    grid: tuple[int, int]
    prefix_tokens: int
    stages: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]
    blocks: tuple[str, ...]
    outputs: tuple[str, ...]
    output_grids: tuple[tuple[int, int], ...]
    head: str
    values: int
    channels: int
    tokens: tuple[tuple[int, tuple[int, int]], ...] = ()

    @property
    def cell_metres(self) -> float:
        """Ground size of one cell of the default grid, in metres."""
        return cell_metres(self.grid[0])


@dataclass(eq=False)
class _Step:
    """A module that returned in the probe's pass, and what it returned."""

    name: str
    output: Tensor | None  # of a tuple, its first tensor
    single: bool  # it returned one tensor
    entered: Tensor | None  # what went into a layer with weights
    slope: Tensor | None = None  # gradient of a random sum of the logits
    grid: tuple[int, int] | None = None  # of maps or patch tokens, at least 2x2
    reached: bool = False  # the gradient is not zero at its cells

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what it returned; () for no tensor."""
        return () if self.output is None else tuple(self.output.shape)

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return self.shape[1] - math.prod(self.grid) if self.grid and len(self.shape) == 3 else 0


def anatomy(model: nn.Module) -> Anatomy:
    """Find the layers of a model that explanations look at.

    The model runs once on a tile of noise; nothing is asked of the user. A network whose last
    feature maps come as (N, C, h, w) is a "cnn", one that ends in tokens (N, T, D) a "vit". Layers
    that run more than once in this pass, or whose cells the gradient of the logits does not reach,
    cannot be chosen. What was found is kept until a module is replaced or set otherwise.

    The default layer should be a cut, which every path from a patch to the logits passes. Where the
    head reads the patch tokens, as with averaged tokens, that is the output of the last block; its
    first norm is none, since the residual connection goes round it. Where the head reads a class
    token alone, no layer of patch tokens is a cut, since the class token carries along what it read
    before; at the last block's output the gradient of the patch tokens is exactly zero. The default
    is then the last layer at which they count: the first norm of the last block, through which the
    class token reads them for the last time. Where the class token joins only after some blocks,
    the last block without it is a cut again.

    Raises:
        ValueError: if no layer has a grid of at least 2x2, or no gradient reaches it.
    """
    signature = _signature(model)
    kept, known = model._anatomies.get(model.image_size, (None, None))
    if kept != signature:
        try:
            known = _read_anatomy(model)
        except ValueError as error:
            known = str(error)
        model._anatomies[model.image_size] = signature, known
    if isinstance(known, str):
        raise ValueError(known)
    return known


def _signature(model: nn.Module) -> tuple[Any, ...]:
    """Return what tells a model from itself with other modules, settings or types of numbers.

    The modules themselves are kept, since a number such as `id` is given again to later ones.
    """
    modules = tuple(
        (name, module, module.extra_repr(), *(getattr(module, flag, None) for flag in _FLAGS))
        for name, module in model.named_modules()
    )
    return modules, frozenset((p.dtype, p.is_inference()) for p in model.parameters())


def to_grid(activation: Tensor, found: Anatomy) -> Tensor:
    """Return a layer's output as maps (N, C, h, w): tokens lose their prefix and are laid out."""
    if activation.ndim == 4:
        return activation.movedim(channel_axis(activation.shape), 1)
    if activation.ndim != 3 or activation.shape[1] not in dict(found.tokens):
        raise ValueError(
            f"a layer with output {tuple(activation.shape)} has no grid; "
            f"choose one of {', '.join(found.stages + found.outputs)}"
        )
    h, w = dict(found.tokens)[activation.shape[1]]
    patches = activation[:, activation.shape[1] - h * w :]
    return patches.transpose(1, 2).reshape(len(activation), -1, h, w)


def channel_axis(shape: Sequence[int]) -> int:
    """Return which axis of a layer's output counts channels: 1 of (N, C, h, w), else the last.

    Swin transformers, and some others, keep their maps as (N, h, w, C). Cells form a square on
    square tiles; where they do not, the channels are taken for the longer side. Where all three
    are equal, the shape cannot tell, and channels are taken to come first.
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
    _refuse_hidden(model)
    modules = dict(model.named_modules())
    steps = _trace(model)
    values = sum(math.prod(step.shape) for step in steps if step.single)
    end = _classifier(steps)
    before = steps[:end]
    _find_grids(before, modules)
    if not any(step.grid for step in before):
        raise ValueError(f"{model.name} has no layer with a grid of at least 2x2 before its head")
    runs = Counter(step.name for step in steps)
    usable = [s for s in before if s.grid and s.reached and s.single and runs[s.name] == 1]
    found = {"head": steps[end].name if end < len(steps) else "", "values": values}
    rows = _block_norms(modules, before) or _rows(modules, before)
    if rows and not _maps_follow(list(rows)[-1], before, modules):
        return _of_tokens(model, rows, before, usable, found)
    maps = [step for step in usable if len(step.shape) == 4 and step.name.startswith("network.")]
    outer = [step for step in maps if step.name.count(".") <= 2] or maps
    stages = {step.grid: step for step in outer}  # the last one at each resolution
    if not stages:
        raise _unreached(model)
    _refuse_early(model, before, list(stages.values())[-1])
    names, grids = tuple(step.name for step in stages.values()), tuple(stages)
    last = stages[grids[-1]].shape
    found["channels"] = last[channel_axis(last)]
    return Anatomy("cnn", names[-1], grids[-1], 0, names, grids, (), (), (), **found)


def _classifier(steps: list[_Step]) -> int:
    """Return where the classifier stands among the steps, their number if it is no module."""
    weighty = [i for i, step in enumerate(steps) if step.entered is not None]
    classes = steps[-1].shape[-1:] if steps else ()
    if weighty and classes and classes[0] in steps[weighty[-1]].shape[1:]:
        return weighty[-1]
    return len(steps)


def _of_tokens(
    model: nn.Module,
    rows: dict[str, _Step],
    before: list[_Step],
    usable: list[_Step],
    found: dict[str, Any],
) -> Anatomy:
    """Return the anatomy of a "vit", given its blocks with the first norm of each."""
    block, norm = list(rows.items())[-1]
    if norm.grid is None:
        raise _merged(model, next(s for s in before if s.grid), norm)
    norms = [step for step in rows.values() if step in usable]
    tokens = [step for step in usable if len(step.shape) == 3 and step not in norms]
    outputs = [step for step in tokens if step.name in rows]
    inside = [s for s in before if f"{s.name}.".startswith(f"{block}.")]
    cuts = [step for step in outputs if step.name == block]
    if not any(step.single for step in inside if step.name == block):
        cuts = [s for s in tokens if before.index(s) > before.index(inside[-1])][:1]
        outputs += cuts
        if not cuts and any(step.name == block and step.reached for step in inside):
            warnings.warn(_no_cut(model, block, norm.name), stacklevel=4)
    if not cuts and norm.prefix > 0:  # the class token may join after the last of some blocks
        cuts = [step for step in outputs if step.prefix == 0][-1:]
    # The norm of one branch of parallel ones leads to a part of the block alone.
    whole = norm.name == block or norm.name.rpartition(".")[0] == block
    reads = [step for step in norms if step is norm] if whole else outputs[-1:]
    deepest = sorted([*norms, *outputs], key=before.index)[-1:]
    chosen = cuts or reads or deepest
    if not chosen:
        raise _unreached(model)
    _refuse_early(model, before, chosen[0])
    sizes = {step.shape[1]: step.grid for step in [*norms, *outputs, *chosen]}
    return Anatomy(
        family="vit",
        layer=chosen[0].name,
        grid=chosen[0].grid,
        prefix_tokens=chosen[0].prefix,
        stages=tuple(step.name for step in norms),
        grids=tuple(step.grid for step in norms),
        blocks=tuple(rows),
        outputs=tuple(step.name for step in outputs),
        output_grids=tuple(step.grid for step in outputs),
        channels=chosen[0].shape[channel_axis(chosen[0].shape)],
        tokens=tuple(sizes.items()),
        **found,
    )


def _no_cut(model: nn.Module, block: str, norm: str) -> str:
    return (
        f"{block} of {model.name} returns several values, and no layer after it returns its tokens "
        f"alone: explanations take {norm}, which the residual connection goes round"
    )


def _merged(model: nn.Module, last: _Step, merged: _Step) -> ValueError:
    h, w = last.grid
    return ValueError(
        f"{model.name} merges its tokens on the way ({h}x{w} at first, "
        f"{merged.shape[1]} tokens at last); it cannot be explained yet"
    )


def _unreached(model: nn.Module) -> ValueError:
    return ValueError(
        f"{model.name} has no layer with a grid of at least 2x2 that runs once in a pass and that "
        "the gradient of its logits reaches; explain it by a method on pixels, such as occlusion"
    )


def _refuse_early(model: nn.Module, before: list[_Step], chosen: _Step) -> None:
    """Refuse maps that only begin a network of tokens whose grid is not known."""
    place = before.index(chosen)
    rest = [s for s in before[place:] if len(s.shape) == 3 and s.shape[1] > 1 and not s.grid]
    if len(rest) > place:
        raise _merged(model, chosen, rest[-1])


def _refuse_hidden(model: nn.Module) -> None:
    """Refuse networks whose layers no hook can see, by what hides them."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{name or model.name} of {model.name} was made by torch.jit, which hides its "
                "layers; explain the network that it was made from"
            )
        compiled = isinstance(module, torch._dynamo.OptimizedModule)
        if compiled or module._compiled_call_impl is not None:
            raise ValueError(
                f"{name or model.name} of {model.name} is compiled by torch.compile, which hides "
                "its layers; explain the model as it was before (create_model unwraps what "
                "torch.compile(module) returned)"
            )
        if ".quantized." in type(module).__module__:
            raise ValueError(
                f"{model.name} passes no gradient on from {name} ({type(module).__module__}), as "
                "quantised layers do; explain the network that it was made from"
            )
        if isinstance(module, nn.DataParallel) and module.device_ids:  # on a CPU it makes no copies
            raise ValueError(
                f"{name} of {model.name} is a {type(module).__name__}, whose copies hide its "
                "layers; put the module inside in its place: network = network.module"
            )


def _trace(model: nn.Module) -> list[_Step]:
    """Run the model on a tile of noise; list modules in order of completion, with gradients.

    A caller may have forbidden gradients, and parameters may be frozen: the tile itself asks for
    gradients, and each layer's output is looked at. Where the logits have none anywhere, as with a
    head of zeros, what the head reads is asked instead; where that has none, all layers count.
    """
    steps: list[_Step] = []
    thread = threading.get_ident()

    def record(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if threading.get_ident() != thread:  # another thread's pass
                return None
            single = isinstance(output, Tensor)
            first = output[0] if isinstance(output, tuple | list) and output else output
            weighty = name != "network" and _has_weights(module) and single and inputs
            entered = inputs[0] if weighty and isinstance(inputs[0], Tensor) else None
            steps.append(_Step(name, first if isinstance(first, Tensor) else None, single, entered))
            # A copy, since the next layer may work in place.
            return output.clone() if single and output.requires_grad else None

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_hook(record(name)))
        with torch.inference_mode(False), evaluating(model), torch.enable_grad():
            seeded = torch.Generator().manual_seed(0)
            noise = torch.rand(1, 3, TILE_SIZE, TILE_SIZE, generator=seeded)
            logits = _run(model, noise.to(device_of(model)).requires_grad_())
            _refuse_without_gradient(model, logits, steps)
    finally:
        for handle in handles:
            handle.remove()
    ends = [logits, *[s.entered for s in reversed(steps) if s.entered is not None][:1]]
    with torch.inference_mode(False), torch.enable_grad():
        for end in ends:
            if end.requires_grad and _differentiate(steps, end):
                return steps
    for step in steps:
        step.slope = None if step.output is None else torch.ones_like(step.output)
    return steps


def _run(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model with gradients, also one made in inference mode, whose weights allow none."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if not any(value.is_inference() for value in state.values()):
        return model(images)
    copies = {name: value.detach().clone() for name, value in state.items()}
    return torch.func.functional_call(model, copies, (images,))


def _refuse_without_gradient(model: nn.Module, logits: Any, steps: list[_Step]) -> None:
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{model.name} returns a {type(logits).__name__}, not one tensor of logits"
        )
    if logits.requires_grad:
        return
    ends = [s.name for s in steps if s.output is not None and not s.output.requires_grad]
    kind = type(model.get_submodule(ends[0])) if ends else type(model)
    raise ValueError(
        f"{model.name} passes no gradient on from {ends[0] if ends else 'its input'} "
        f"({kind.__module__}.{kind.__name__}), as quantised layers do; explain the network that it "
        "was made from"
    )


def _differentiate(steps: list[_Step], end: Tensor) -> bool:
    """Give each step the gradient of a random sum of `end`; tell whether any is not zero."""
    asked = [s for s in steps if s.output is not None and s.output.requires_grad]
    weights = torch.randn(end.shape, generator=torch.Generator().manual_seed(1)).to(end)
    outputs = [step.output for step in asked]
    value = (end * weights).sum()
    slopes = torch.autograd.grad(value, outputs, retain_graph=True, allow_unused=True)
    for step, slope in zip(asked, slopes, strict=True):
        step.slope = slope
    return any(s is not None and len(s.shape) > 2 and bool((s != 0).any()) for s in slopes)


def _has_weights(module: nn.Module) -> bool:
    """Tell linear and convolutional layers, of whatever make, from others."""
    own = [p for p in module.parameters(recurse=False) if p.ndim > 1]
    return bool(own) and next(module.children(), None) is None


def _find_grids(steps: list[_Step], modules: dict[str, nn.Module]) -> None:
    """Give each step its grid: that of its maps, or of the convolution that its tokens fit best."""
    convolved: list[tuple[int, int]] = []
    for step in steps:
        if len(step.shape) == 4 and min(_cells(step.shape)) > 1:
            step.grid = _cells(step.shape)
            if isinstance(modules[step.name], nn.Conv2d):
                convolved.append(step.grid)
        elif len(step.shape) == 3 and step.shape[0] == 1:
            extra = {g: step.shape[1] - math.prod(g) for g in convolved[::-1]}  # the last one first
            fits = [g for g, count in extra.items() if 0 <= count <= _MOST_PREFIX]
            step.grid = (
                min(fits, key=extra.get) if fits else None if convolved else _square(step.shape[1])
            )
        if step.grid and step.slope is not None:
            step.reached = bool(
                ((step.slope[:, step.prefix :] if step.prefix else step.slope) != 0).any()
            )


def _square(tokens: int) -> tuple[int, int] | None:
    """Return the square grid of tokens that no convolution made, as few before it as can be."""
    for prefix in range(_MOST_PREFIX + 1):
        side = math.isqrt(max(0, tokens - prefix))
        if side > 1 and side**2 == tokens - prefix:
            return side, side
    return None


def _block_norms(modules: dict[str, nn.Module], steps: list[_Step]) -> dict[str, _Step]:
    """Return the blocks of a transformer that read tokens (N, T, D), each with its first norm."""
    first: dict[str, _Step] = {}
    for step in steps:
        kind = type(modules[step.name]).__name__.lower()
        block = step.name.rpartition(".")[0]
        norm = len(step.shape) in (3, 4) and "norm" in kind and "batchnorm" not in kind
        if norm and _in_row(block, modules):
            first.setdefault(_whole_block(block, modules), step)
    return {block: step for block, step in first.items() if len(step.shape) == 3}


def _rows(modules: dict[str, nn.Module], steps: list[_Step]) -> dict[str, _Step]:
    """Return the blocks of a transformer without norms, each with what it returned."""
    tokens = [s for s in steps if len(s.shape) == 3 and s.grid]
    return {s.name: s for s in tokens if _in_row(s.name, modules) and _alike(s.name, modules)}


def _maps_follow(block: str, steps: list[_Step], modules: dict[str, nn.Module]) -> bool:
    """Tell whether a convolution makes maps again after a block of tokens."""
    behind = max(i for i, s in enumerate(steps) if f"{s.name}.".startswith(f"{block}.")) + 1
    return any(s.grid and isinstance(modules[s.name], nn.Conv2d) for s in steps[behind:])


def _in_row(name: str, modules: dict[str, nn.Module]) -> bool:
    container = modules.get(name.rpartition(".")[0])
    return "." in name and isinstance(container, nn.Sequential | nn.ModuleList)


def _alike(name: str, modules: dict[str, nn.Module]) -> bool:
    return len({type(m) for m in modules[name.rpartition(".")[0]].children()}) == 1


def _whole_block(part: str, modules: dict[str, nn.Module]) -> str:
    """Return the block that a part belongs to, where it is one of several parallel branches.

    A block is one of a row of modules of one type; a branch is a plain container itself, or stands
    beside branches of other types.
    """
    around = [part]
    while "." in around[-1]:
        around.append(around[-1].rpartition(".")[0])
    alike = [name for name in around if _in_row(name, modules) and _alike(name, modules)]
    whole = [n for n in alike if not isinstance(modules[n], nn.Sequential | nn.ModuleList)]
    return (whole or alike or [part])[0]
