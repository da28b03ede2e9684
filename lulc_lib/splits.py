"""Named splits of a TileSet: reproducible, hashed, without overlap or loss."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lulc_lib.eurosat import MANIFEST_DIGEST
from lulc_lib.public_lists import read_public_list
from lulc_lib.tiles import CLASSES, TileSet

PARTS = ("train", "val", "test")
Positions = dict[str, np.ndarray]  # part name -> int64 positions in the whole, in the part's order


class SplitError(ValueError):
    """A split cannot be made of these tiles, or is not the one it claims to be."""


@dataclass(frozen=True, eq=False)
class Split:
    """Parts of a TileSet that share no tile and together hold all of them.

    Attributes:
        train: tiles to fit on.
        val: tiles to choose by, or None if the split has no such part.
        test: tiles to report on.
        name: name of the split, a key of `SPLITS`.
        digest: sha256 over part names and tile names in their order.
    """

    train: TileSet
    val: TileSet | None
    test: TileSet
    name: str
    digest: str

    def __repr__(self) -> str:
        sizes = {"train": self.train, "val": self.val, "test": self.test}
        told = ", ".join(f"{k} {len(v):,}" for k, v in sizes.items() if v is not None)
        return f"Split({self.name}: {told})"


@dataclass(frozen=True)
class Recipe:
    """How a split is made, and the digest it has on the original EuroSAT."""

    positions: Callable[[TileSet], Positions]
    digest: str
    about: str


def split(data: TileSet, name: str) -> Split:
    """Split tiles into parts by a named recipe.

    Args:
        data: a whole data set; "spatial" and "aitlas" need EuroSAT's 27,000 tiles.
        name: a key of `SPLITS`: "seed42", "paper80" (has no val), "spatial" or "aitlas".

    Returns:
        Parts that copy their images out of `data`; their `part` reads like "seed42/train".

    Raises:
        SplitError: if there is no such split, the tiles are too few or not the ones it needs, or
            the parts overlap, lose tiles or (on the original EuroSAT) have another digest.
        DataUnavailableError: if a public list is neither beside the data nor to be downloaded.
    """
    if name not in SPLITS:
        raise SplitError(f"unknown split {name!r}; the splits are {', '.join(SPLITS)}")
    recipe = SPLITS[name]
    positions = recipe.positions(data)
    _check_partition(positions, data.names, name)
    digest = _digest(positions, data.names)
    whole_original = data.digest == MANIFEST_DIGEST and data.part == "all"
    if whole_original and digest != recipe.digest:
        raise SplitError(
            f"split {name!r} of the original EuroSAT must have digest {recipe.digest}, got "
            f"{digest}: the tiles are not in ImageFolder order, or a list was changed"
        )
    prefix = name if data.part == "all" else f"{data.part}: {name}"
    parts = {part: data.select(index, part=f"{prefix}/{part}") for part, index in positions.items()}
    return Split(parts["train"], parts.get("val"), parts["test"], name, digest)


def _seed42(data: TileSet) -> Positions:
    """Shuffle all positions with NumPy's seed 42 and cut at 60 % and 80 %."""
    order = list(range(len(data)))
    # The same order as np.random.seed(42); np.random.shuffle(order), without the global generator.
    np.random.RandomState(42).shuffle(order)
    cuts = [len(order) * 60 // 100, len(order) * 80 // 100]
    return dict(zip(PARTS, np.split(np.asarray(order, dtype=np.int64), cuts), strict=True))


def _paper80(data: TileSet) -> Positions:
    """Take 80 % of each class for training and the rest for test, as Helber et al. 2019 report.

    The paper does not publish its lists; these are drawn with seed 42 and mixed over the classes.
    """
    random = np.random.RandomState(42)
    labels = data.labels.numpy()
    train, test = [], []
    for label, class_name in enumerate(CLASSES):
        own = random.permutation(np.flatnonzero(labels == label))
        if len(own) == 1:
            raise SplitError(
                f"split 'paper80' needs at least 2 tiles of each class, {class_name} has 1"
            )
        held = max(1, round(len(own) / 5)) if len(own) else 0
        test.append(own[:held])
        train.append(own[held:])
    mixed = [random.permutation(np.concatenate(part)) for part in (train, test)]
    return dict(zip(("train", "test"), mixed, strict=True))


def _spatial(data: TileSet) -> Positions:
    """Read torchgeo's split by longitude: lines "River_12.jpg"."""
    return _listed(
        data, "spatial", "eurosat-spatial-{}.txt", lambda s: f"{s.rpartition('_')[0]}/{s}"
    )


def _aitlas(data: TileSet) -> Positions:
    """Read the AiTLAS arena's random split: lines "River/River_12.jpg,River"."""
    return _listed(data, "aitlas", "aitlas-{}.csv", lambda s: s.partition(",")[0])


def _listed(data: TileSet, name: str, file_name: str, tile_name: Callable[[str], str]) -> Positions:
    if not data.from_eurosat:
        raise SplitError(
            f"split {name!r} is a list of EuroSAT tiles and needs load_eurosat(); these are "
            f"{data.source}: use 'seed42' or 'paper80'"
        )
    where = {tile: i for i, tile in enumerate(data.names)}
    positions = {}
    for part in PARTS:
        lines = read_public_list(file_name.format(part), data.digest).split()
        listed = [tile_name(line) for line in lines]
        if absent := [tile for tile in listed if tile not in where]:
            raise SplitError(
                f"split {name!r} lists {len(absent):,} {part} tiles that these {len(data):,} tiles "
                f"({data.part}) do not hold, such as {absent[0]}; it needs all of EuroSAT"
            )
        positions[part] = np.array([where[tile] for tile in listed], dtype=np.int64)
    return positions


def _check_partition(positions: Positions, names: tuple[str, ...], name: str) -> None:
    """Raise SplitError unless each tile is in exactly one part and no part is empty."""
    for part, index in positions.items():
        if len(index) == 0:
            raise SplitError(f"split {name!r} leaves {part} empty: {len(names)} tiles are too few")
    uses = np.bincount(np.concatenate(list(positions.values())), minlength=len(names))
    for wrong, word in ((uses > 1, "more than once"), (uses == 0, "in no part")):
        if wrong.any():
            tile = int(np.argmax(wrong))
            inside = [part for part, index in positions.items() if tile in index]
            raise SplitError(
                f"split {name!r} has {int(wrong.sum()):,} tiles {word}, such as {names[tile]}"
                + (f" ({' and '.join(inside)})" if inside else "")
            )


def _digest(positions: Positions, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for part, index in positions.items():
        digest.update("\n".join([part, *(names[i] for i in index), ""]).encode())
    return digest.hexdigest()


SPLITS = {
    "seed42": Recipe(
        _seed42,
        "dee29e89156c1980725e8330b0895aa92eb10bad338a1da6c93f6c867a843747",
        "random 60/20/20 by NumPy's seed 42, the earlier project's split",
    ),
    "paper80": Recipe(
        _paper80,
        "92f73a032708090beddc874b01f24237a084c241528155f11db960a471224505",
        "random 80/20, stratified by class, as in Helber et al. 2019",
    ),
    "spatial": Recipe(
        _spatial,
        "6f819bda2df7e1917e667b0dc7cd9335357541728b0c169d6f59ab0febee6195",
        "60/20/20 by longitude, from torchgeo: test lies elsewhere than train",
    ),
    "aitlas": Recipe(
        _aitlas,
        "4789fbfd88d30f60fe2b754f9ab1916dff05d6b0a5ba1e48117bd7d4836e6fad",
        "random 60/20/20 of the AiTLAS benchmark arena",
    ),
}
