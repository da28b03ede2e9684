"""Tiles in memory: images, labels and names that travel together."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lulc_lib.images import pillow_pixels, printable

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)

# One colour per class, the same in every figure. Paul Tol's "muted" scheme (colour-blind safe,
# https://personal.sron.nl/~pault/), given out so that land looks like land and water like water.
CLASS_COLORS = {
    "AnnualCrop": "#DDCC77",
    "Forest": "#117733",
    "HerbaceousVegetation": "#999933",
    "Highway": "#777777",
    "Industrial": "#AA4499",
    "Pasture": "#44AA99",
    "PermanentCrop": "#882255",
    "Residential": "#CC6677",
    "River": "#88CCEE",
    "SeaLake": "#332288",
}

TILE_SIZE = 64  # pixels along each side
METRES_PER_PIXEL = 10  # Sentinel-2's visible bands
GROUND_METRES = TILE_SIZE * METRES_PER_PIXEL  # along the side of a tile
DRAWN = "drawn tiles"  # the source of tiles that a program drew
EUROSAT, EUROSAT_MODIFIED = "eurosat", "eurosat (modified)"  # of EuroSAT, and of a changed copy


def cell_metres(cells: int) -> float:
    """Return the size on the ground of a cell of a grid with so many cells along the tile."""
    return GROUND_METRES / cells


def split_of(part: str) -> str:
    """Return the split that a part is of, "seed42" for "seed42/train" and "" for "all"."""
    return part.partition("/")[0] if "/" in part else ""


class _Provenance:
    """What the words `source` and `part` of tiles say, as values."""

    source: str
    part: str

    @property
    def drawn(self) -> bool:
        """Whether a program drew the tiles: names of another seed's tiles are the same then."""
        return self.source == DRAWN

    @property
    def original(self) -> bool:
        """Whether the tiles are of EuroSAT as it was published."""
        return self.source == EUROSAT

    @property
    def from_eurosat(self) -> bool:
        """Whether the tiles are EuroSAT's, in the original or a changed copy of it."""
        return self.source in (EUROSAT, EUROSAT_MODIFIED)

    @property
    def whole_part(self) -> str:
        """The part that these tiles are of, "seed42/train" also of some of its tiles."""
        return self.part.removesuffix(_SUBSET)

    @property
    def split_name(self) -> str:
        """The split that these tiles are a part of, "" where they are of none."""
        return split_of(self.part)

    @property
    def role(self) -> str:
        """What the part is for: "train", "val" or "test", "" where it is of no split."""
        return self.whole_part.rpartition("/")[2] if "/" in self.part else ""


_SUBSET = " (subset)"


@dataclass(frozen=True)
class TrainedOn(_Provenance):
    """Names of the tiles a model was trained on, so that they are recognised later.

    Attributes:
        source: kind of tiles, as in `TileSet.source`.
        digest: digest of the whole data set the tiles came from.
        part: which part of it, such as "seed42/train".
        names: names of the training tiles.
    """

    source: str
    digest: str
    part: str
    names: tuple[str, ...]

    def contains(self, tiles: "TileSet") -> np.ndarray:
        """Mark the tiles that were trained on, as bool (N,).

        A tile is known by its name; drawn tiles of another seed carry the same names, so for them
        the seed must agree as well.
        """
        if not share_names(self, tiles):
            return np.zeros(len(tiles), dtype=bool)
        known = set(self.names)
        return np.fromiter((name in known for name in tiles.names), dtype=bool, count=len(tiles))

    def after(self, earlier: "TrainedOn | None") -> "TrainedOn":
        """Return what a model was trained on that had learnt `earlier` before these tiles.

        EuroSAT's tiles are never forgotten. Of drawn tiles only those of the later seed are kept,
        and none beside EuroSAT's: others may share their names.
        """
        if earlier is None:
            return self
        if not share_names(earlier, self):
            return self if earlier.drawn else earlier
        own, before = set(self.names), set(earlier.names)
        if before <= own:
            return self
        part = earlier.part if own <= before else f"{earlier.part} and {self.part}"
        return replace(self, part=part, names=tuple(sorted(own | before)))


def share_names(one: _Provenance, other: _Provenance) -> bool:
    """Return whether a name stands for the same tile in both.

    Drawn tiles of one seed begin alike, however many there are, and a planted cue leaves the rest
    of a tile as it is.
    """
    if not (one.drawn or other.drawn):
        return True
    seeds = [_DRAWN_DIGEST.match(each.digest) for each in (one, other)]
    if None in seeds:  # also planted ones of earlier versions, whose digests began with the cue
        first, second = (d[max(0, d.find("planted-")) :] for d in (one.digest, other.digest))
        return first == second
    return seeds[0][1] == seeds[1][1]


_DRAWN_DIGEST = re.compile(r"drawn-\d+-(\d+)-")  # as synthetic writes it: tiles a class, seed


@dataclass(frozen=True, eq=False)
class TileSet(_Provenance):
    """Tiles with their labels and names.

    Attributes:
        images: uint8 (N, 3, 64, 64), RGB.
        labels: int64 (N,), indices into `CLASSES`.
        names: N names such as "River/River_12.jpg", each one line of UTF-8.
        source: kind of tiles, such as "eurosat" or "drawn tiles".
        digest: digest of the whole data set; parts keep the digest of the whole.
        part: "all" or the part this is, such as "seed42/train".
        masks: bool (N, 64, 64), the pixels that are the evidence for the label, or None.

    Raises:
        TypeError: if images, labels or masks are no tensors in the processor's memory, or a name
            is no text.
        ValueError: if shapes, dtypes or lengths do not fit together, or a name holds a line end,
            another control character or bytes that are not UTF-8: cards, lists and pages could not
            hold it.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    source: str
    digest: str
    part: str = "all"
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        for field in ("images", "labels", "masks"):
            _check_tensor(field, getattr(self, field))
        check_names(self.names)
        expected = (len(self.names), 3, TILE_SIZE, TILE_SIZE)
        if self.images.dtype != torch.uint8 or tuple(self.images.shape) != expected:
            raise ValueError(
                f"images must be uint8 {expected} to go with {len(self.names)} names, "
                f"got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != expected[:1]:
            raise ValueError(
                f"labels must be int64 {expected[:1]}, "
                f"got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(
            CLASSES
        ):
            raise ValueError(
                f"labels must lie in 0..{len(CLASSES) - 1}, got "
                f"{int(self.labels.min())}..{int(self.labels.max())}"
            )
        if self.masks is not None and (
            self.masks.dtype != torch.bool
            or tuple(self.masks.shape) != (len(self.names), TILE_SIZE, TILE_SIZE)
        ):
            raise ValueError(
                f"masks must be bool ({len(self.names)}, {TILE_SIZE}, {TILE_SIZE}), "
                f"got {self.masks.dtype} {tuple(self.masks.shape)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"TileSet({len(self):,} tiles, {self.source}, {self.part})"

    def __getitem__(self, which: Any) -> "TileSet":
        """Take some of the tiles: an index, a slice, indices or a bool mask."""
        return self.select(which, part=f"{self.whole_part}{_SUBSET}")

    def select(self, which: Any, part: str) -> "TileSet":
        """Take some of the tiles and say which part of the whole they are."""
        positions = np.atleast_1d(np.arange(len(self))[_as_numpy_index(which)])
        index = torch.from_numpy(positions.copy())  # a reversed slice has a negative stride
        return replace(
            self,
            images=self.images.index_select(0, index),  # twice as fast as [index]
            labels=self.labels[index],
            names=tuple(self.names[i] for i in positions),
            part=part,
            masks=None if self.masks is None else self.masks[index],
        )

    def of_class(self, name: str) -> "TileSet":
        """Take the tiles of one class by its name."""
        return self[self.labels == class_index(name)]

    def balanced(self, count: int) -> "TileSet":
        """Take about `count` tiles, equally many of each class that there is: the first, in order.

        A set that holds no more than `count` tiles is kept whole. At least one tile of each class
        is taken, and `count` is rounded down to a multiple of the number of classes.
        """
        if len(self) <= count:
            return self
        labels = self.labels.numpy()
        each = max(1, count // len(np.unique(labels)))
        first = [np.flatnonzero(labels == k)[:each] for k in range(len(CLASSES))]
        return self[np.sort(np.concatenate(first))]

    def float(self, which: Any = slice(None)) -> Tensor:
        """Return images as float32 (N, 3, 64, 64) in [0, 1]."""
        return self.images[which].to(torch.float32).div_(255)

    def class_counts(self) -> dict[str, int]:
        """Count the tiles of each class, by name."""
        counts = torch.bincount(self.labels, minlength=len(CLASSES))
        return dict(zip(CLASSES, counts.tolist(), strict=True))

    def provenance(self) -> TrainedOn:
        """Describe these tiles for the card of a model trained on them."""
        return TrainedOn(self.source, self.digest, self.part, self.names)


def class_index(name: str | int) -> int:
    """Return the index of a class given by name or index.

    Raises:
        TypeError: if it is neither a name nor a whole number; True is none.
        ValueError: if there is no such class.
    """
    if isinstance(name, str):
        if name not in CLASSES:
            raise ValueError(f"unknown class {name!r}; the classes are {', '.join(CLASSES)}")
        return CLASSES.index(name)
    if isinstance(name, bool | np.bool) or not hasattr(name, "__index__"):
        raise TypeError(f"a class is given by its name or index, got {name!r:.80}")
    if not 0 <= (index := operator.index(name)) < len(CLASSES):
        raise ValueError(f"class index must lie in 0..{len(CLASSES) - 1}, got {index}")
    return index


def class_indices(target: Any, count: int) -> np.ndarray:
    """Return the class of each of `count` tiles, int64 (count,).

    Args:
        target: an index or a name for all tiles, or one per tile: a sequence, array or tensor.
        count: how many tiles there are.

    Raises:
        TypeError: if a class is neither a name nor a whole number.
        ValueError: if there is no such class, or the number of classes does not fit.
    """
    values = target.detach().cpu().numpy() if isinstance(target, Tensor) else target
    values = np.asarray(values, dtype=object)  # names and indices may stand side by side
    if values.ndim and values.shape != (count,):
        raise ValueError(
            f"target must be one class, or one for each of the {count} tiles, "
            f"got shape {values.shape}"
        )
    try:
        indices = [class_index(value) for value in values.reshape(-1).tolist()]
    except TypeError as error:
        raise TypeError(
            "target must be None, a class index, a class name or one of these per tile, "
            f"got {target!r:.80}"
        ) from error
    return np.broadcast_to(np.array(indices, dtype=np.int64), count).copy()


def as_images(images: Any, across: int | None = 1) -> Tensor:
    """Return images as float32 (N, 3, 64, 64) in [0, 1], in the processor's memory.

    Args:
        images: as in `undivided`.
        across: as in `undivided`.

    Raises:
        TypeError: as in `undivided`.
        ValueError: as in `undivided`.
    """
    tensor = undivided(images, across)
    return tensor.to(torch.float32).div_(255) if tensor.dtype == torch.uint8 else tensor


def undivided(images: Any, across: int | None = 1) -> Tensor:
    """Return checked images (N, 3, 64, 64), uint8 ones as they are, for a division per batch.

    What every function that takes images takes. Byte order, strides, write protection, gradients
    and the device are no part of an image's value: images with any of them are taken. Another
    dtype is an error, also float16 and float64.

    Args:
        images: a TileSet; or a tensor or array (N, 3, 64, 64) or (3, 64, 64), uint8 in 0..255 or
            float32 in [0, 1]; or a Pillow image of 64x64 pixels in RGB; or a list of single ones.
        across: tiles along each side of an image: 2 takes images of 128x128 pixels, such as
            mosaics that are not shrunk, and None any number of them.

    Raises:
        TypeError: if it is none of these, or the dtype is neither uint8 nor float32.
        ValueError: if there are none, or if shape or range are others, or a value is not finite.
    """
    if isinstance(images, TileSet):
        tensor = images.images
    elif isinstance(images, list | tuple):
        tensor = _stacked(images)
    else:
        tensor = _as_tensor(images)
    if tensor.ndim == 3:
        tensor = tensor[None]
    _check_shape(tensor, across)
    if tensor.dtype == torch.float32:
        _check_range(tensor)
    return tensor


def _stacked(images: Sequence[Any]) -> Tensor:
    """Return single images as one tensor."""
    if not images:
        raise ValueError("there are no images: the list is empty")
    tensors = [_as_tensor(image) for image in images]
    for i, tensor in enumerate(tensors):
        if tensor.ndim != 3:
            raise ValueError(
                f"a list holds single images (3, {TILE_SIZE}, {TILE_SIZE}), number {i} has shape "
                f"{tuple(tensor.shape)}"
            )
        if (tensor.dtype, tensor.shape) != (tensors[0].dtype, tensors[0].shape):
            raise ValueError(
                f"the images of a list have one dtype and shape, number 0 is {tensors[0].dtype} "
                f"{tuple(tensors[0].shape)} and number {i} {tensor.dtype} {tuple(tensor.shape)}"
            )
    return torch.stack(tensors)


def _as_tensor(images: Any) -> Tensor:
    """Return an array, tensor or Pillow image as a tensor of the right dtype."""
    pixels = pillow_pixels(images)
    if pixels is not None:
        images = pixels
    if isinstance(images, Tensor):
        if images.is_meta or images.is_quantized or images.layout != torch.strided:
            raise TypeError(
                "images must be a dense tensor with values, not sparse, quantised, meta"
            )
        _check_dtype(str(images.dtype).removeprefix("torch."), ".float()")
        return images.detach().cpu()
    if np.ma.is_masked(images):
        raise TypeError("images hold masked values; fill them first with .filled(0)")
    if not hasattr(images, "__array__"):
        raise TypeError(
            "images must be a TileSet, a tensor, an array, a Pillow image or a list of these, got "
            f"{type(images).__name__}; a file is read by lulc_lib.images.open_picture(path).image"
        )
    array = np.asarray(images)
    _check_dtype(array.dtype.name, ".astype(np.float32)")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # neither of which torch can hold
    return torch.from_numpy(array)


def _check_dtype(name: str, cast: str) -> None:
    if name in ("uint8", "float32"):
        return
    remedy = "divide by the number that is white, then "
    if "float" in name:
        remedy = "with values in [0, 1], "
    raise TypeError(
        f"images must be uint8 in 0..255 or float32 in [0, 1], got {name}; {remedy}convert with "
        f"{cast}"
    )


def _check_shape(tensor: Tensor, across: int | None) -> None:
    shape = tuple(tensor.shape)
    size = TILE_SIZE * (across or max(1, shape[-1] // TILE_SIZE))
    if tensor.ndim != 4 or shape[1:] != (3, size, size):
        remedy = ""
        if shape[-3:] == (size, size, 3):
            remedy = "; bring the channels to the front with np.moveaxis(images, -1, -3)"
        raise ValueError(f"images must have shape (N, 3, {size}, {size}), got {shape}{remedy}")
    if len(tensor) == 0:
        raise ValueError("there are no images: the batch is empty")


def _check_range(tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("images hold NaN or infinite values")
    low, high = float(tensor.min()), float(tensor.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"float32 images must lie in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "do not normalise (the model does) and divide 0..255 by 255, or pass uint8"
        )


def _check_tensor(field: str, value: Any) -> None:
    if field == "masks" and value is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{field} must be a tensor, got {type(value).__name__}; convert an array with "
            "torch.from_numpy"
        )
    if value.device.type != "cpu":
        raise TypeError(f"{field} lie on {value.device}; a TileSet is in memory: call .cpu() first")


def check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot stand on one line of UTF-8, before any work.

    Raises:
        TypeError: if a name is no text.
        ValueError: if a name holds a line end, another control character or bytes that are not
            UTF-8; the message shows it.
    """
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"names must be text, number {i} is {name!r:.80}")
    if "".join(names).isprintable():  # 27,000 names in 1 ms
        return
    for i, name in enumerate(names):
        if printable(name) != name:
            raise ValueError(
                f"the name of tile {i}, '{printable(name)[:200]}', cannot stand on one line of "
                "UTF-8; rename it"
            )


def _as_numpy_index(which: Any) -> Any:
    if isinstance(which, Tensor):
        return which.cpu().numpy()
    if isinstance(which, Sequence) and not isinstance(which, str):
        return np.asarray(which, dtype=np.int64 if len(which) == 0 else None)
    return which
