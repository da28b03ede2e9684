"""A batch of tiles before a model: what several methods need is computed once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lulc_lib.anatomies import Anatomy, anatomy, to_grid
from lulc_lib.models import TileClassifier
from lulc_lib.running import device_of


class Batch:
    """Some tiles, the classes to explain, and lazily what the model made of them.

    Every pass runs without recording but where a method asks for gradients, and the model is left
    without hooks after each.

    Attributes:
        model: in eval mode while the batch lives.
        images: float32 (N, 3, 64, 64) on the model's device.
        layer: dotted name of the layer that CAM methods look at, None when none is asked.
        reduced: autocast to bfloat16.
        records: some method will ask for the layer's gradients.
        chunk: how many variants of a tile go through the model at once.
        contrast: class to tell the target from, None for the three nearest.
        first: number of its first tile in the whole call.
        between: called with the number of images before each pass; what it raises ends the work.
    """

    def __init__(
        self,
        model: TileClassifier,
        images: Tensor,
        wanted: np.ndarray | None,
        layer: str | None,
        *,
        reduced: bool = False,
        records: bool = True,
        chunk: int = 64,
        contrast: int | None = None,
        first: int = 0,
        between: Callable[[int], None] | None = None,
    ):
        self.model, self.layer, self.reduced, self.records = model, layer, reduced, records
        self.chunk, self.contrast, self.first = chunk, contrast, first
        self.between = between
        self.device = device_of(model)
        self.images = images.to(self.device)
        self._wanted = wanted
        self._made: dict[str, Any] = {}
        # Asked now: a first look at the anatomy runs the model, which no hook of a pass may meet.
        self._likes_channels_last = model.spec is not None and _is_cnn(model)

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """Where the model keeps its picture of the tile."""
        return anatomy(self.model)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` makes, made at the first call with this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def run(self, images: Tensor) -> Tensor:
        """Announce a pass and return its logits, as `logits_of` does."""
        self.announce(len(images))
        return self.logits_of(images)

    def announce(self, count: int) -> None:
        """Tell the caller that a pass with so many images follows."""
        if self.between is not None:
            self.between(count)

    def logits_of(self, images: Tensor) -> Tensor:
        """Return float32 logits of images in the asked precision; gradients as the caller set."""
        if self._likes_channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            logits = self.model(images)
        return logits.float()

    def autocast(self) -> torch.autocast:
        """Return the context of the asked precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced)

    @functools.cached_property
    def _captured(self) -> tuple[Tensor, Tensor | None]:
        """Logits (N, 10), with the graph above the layer if it records, and the layer's leaf."""
        if self.layer is None and "attention" in self._made:
            return self._made["attention"].logits.detach(), None
        if self.layer is None:
            with torch.no_grad():
                return self.run(self.images), None
        leaves: list[Tensor] = []
        with torch.no_grad(), cut(self.model, self.layer, self.records, leaves):
            logits = self.run(self.images)
        return logits, leaves[0]

    @functools.cached_property
    def logits(self) -> Tensor:
        """float32 (N, 10), without a graph."""
        return self._captured[0].detach()

    @functools.cached_property
    def target(self) -> Tensor:
        """int64 (N,): the class asked for, else the predicted one."""
        if self._wanted is None:
            return self.logits.argmax(dim=1)
        return torch.from_numpy(self._wanted).to(self.device)

    @functools.cached_property
    def leaf(self) -> Tensor:
        """What the layer returned, in its own shape."""
        return self._captured[1].detach()

    @functools.cached_property
    def activations(self) -> Tensor:
        """What the layer returned as float32 maps (N, C, h, w)."""
        return self.as_maps(self.leaf).float()

    @functools.cached_property
    def gradients(self) -> Tensor:
        """Gradient of the target logits at the layer, float32 (N, C, h, w)."""
        return self.slope(lambda logits: pick(logits, self.target).sum())

    def slope(self, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient at the layer, (N, C, h, w), of a sum over the tiles' logits."""
        logits, leaf = self._captured
        gradient = None
        if logits.requires_grad:
            with torch.enable_grad():
                value = objective(logits)
                (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(f"the logits do not depend on layer {self.layer!r}; choose another")
        return self.as_maps(gradient).float()

    def as_maps(self, activation: Tensor) -> Tensor:
        """Return a layer's output as maps (N, C, h, w); refuse what has no grid."""
        shape = tuple(activation.shape)
        h, w = self.anatomy.grid
        if len(shape) == 4 and self.anatomy.family == "cnn":
            fits = sum(side > 1 for side in shape[1:]) >= 2
        elif len(shape) == 4:
            fits = shape[2:] == (h, w)
        else:
            fits = len(shape) == 3 and shape[1] in dict(self.anatomy.tokens)
        if not fits:
            raise ValueError(
                f"layer {self.layer!r} returns {shape}, which has no grid; "
                f"choose one of {', '.join(self.anatomy.stages + self.anatomy.outputs)}"
            )
        return to_grid(activation, self.anatomy)


def _is_cnn(model: TileClassifier) -> bool:
    """Tell whether a model ends in maps of channels; not, where no layer has a grid."""
    with contextlib.suppress(ValueError):
        return anatomy(model).family == "cnn"
    return False


def pick(logits: Tensor, target: Tensor) -> Tensor:
    """Return each row's logit of its target, (N,)."""
    return logits.gather(1, target[:, None])[:, 0]


@contextlib.contextmanager
def cut(model: nn.Module, layer: str, record: bool, leaves: list[Tensor]) -> Iterator[None]:
    """Cut the network at a layer, so that only what lies above it is differentiated.

    A map needs the gradient at the layer alone. The forward pass starts without recording; a hook
    puts a new leaf in place of the layer's output and, from there on, turns recording on (until
    the `no_grad` around the block ends). The leaf is cloned on its way, since the next layer may
    work in place (as ReLU often does).

    Raises:
        ValueError: if the layer did not run once, or does not return one tensor.
    """

    def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer {layer!r} returns a {type(output).__name__}, not one tensor")
        leaves.append(output.detach().requires_grad_(record))
        torch.set_grad_enabled(record)
        return leaves[-1].clone()

    with hooked(model, {layer: hook}):
        yield
    if len(leaves) != 1:
        raise ValueError(
            f"layer {layer!r} runs {len(leaves)} times in one forward pass; choose one that runs "
            "once"
        )


@contextlib.contextmanager
def hooked(model: nn.Module, hooks: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Put forward hooks on layers by name, and take them off again whatever happens."""
    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def graft(batch: Batch, layer: str, one: Tensor, outputs: Tensor) -> Tensor:
    """Run the head alone: what the model makes of other outputs of a layer.

    The layers below run on one tile only; at the layer its output is replaced by many, and what
    lies above sees those. Where a shortcut passes the layer by, it brings the tile's own values to
    each of them.

    Args:
        batch: the model and its precision.
        layer: dotted name.
        one: (1, 3, 64, 64), the tile whose shortcuts are kept.
        outputs: (K, ...) in the layer's own shape.

    Returns:
        float32 logits (K, 10).
    """
    batch.announce(len(one))
    with hooked(batch.model, {layer: lambda *_: outputs}):
        try:
            return batch.logits_of(one)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"the head above layer {layer!r} cannot be run alone: {error}; choose another layer"
            ) from error
