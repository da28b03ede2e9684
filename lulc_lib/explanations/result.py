"""What an explanation is: maps, and the warnings that a reader must know."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lulc_lib.arrays import resized, softmax
from lulc_lib.evidence import CONTRASTED, UNTESTED, ReportCard, Verdict, candidates
from lulc_lib.explanations.table import Method
from lulc_lib.tiles import CLASSES, TILE_SIZE, cell_metres

CONFIDENT = 0.5  # below this probability of the target, LowConfidence
WARNINGS = {
    "ZeroMap": "the map is zero everywhere: {method} found nothing that counts for {target}",
    "FlatMap": "the map has one value everywhere and points nowhere",
    "NaNMap": "the map holds values that are not numbers and cannot be drawn",
    "ClassBlind": "{method} does not look at the class: its map is the same for every target",
    "LowConfidence": "the model itself gives {target} a probability below one half",
    "Unproven": "{method} is not proven for this model: {evidence}",
}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of what a method counts for a class, one per tile, signed and unscaled.

    Attributes:
        heatmap: float32 (N, 64, 64), `grid` resized bilinearly (align_corners=False). The unit is
            the method's own: compare maps of one method, not of two.
        grid: float32 (N, h, w), as the layer gave it; for methods of pixels, of the image's size.
        target: int64 (N,), the class each map explains.
        logits: float32 (N, 10).
        method: name of the method, as in `methods()`.
        layer: dotted name of the layer in `model.named_modules()`, None where there is none.
        warnings: name of a warning -> numbers of the maps it is about. The names are "ZeroMap",
            "FlatMap", "NaNMap", "ClassBlind", "LowConfidence" and "Unproven"; `warned` says what
            they mean.
        ground: why this method was taken, in words.
        verdict: what the model's report card says of this method at this layer; None for a null.
    """

    heatmap: np.ndarray
    grid: np.ndarray
    target: np.ndarray
    logits: np.ndarray
    method: str
    layer: str | None
    warnings: Mapping[str, tuple[int, ...]]
    ground: str = ""
    verdict: Verdict | None = None

    def __len__(self) -> int:
        return len(self.grid)

    def __repr__(self) -> str:
        h, w = self.grid.shape[1:]
        warned = "".join(f", {name} in {len(maps)}" for name, maps in self.warnings.items())
        where = f" at {self.layer}" if self.layer else ""
        return f"Explanation({len(self)} maps by {self.method}{where}, grid {h}x{w}{warned})"

    @property
    def predicted(self) -> np.ndarray:
        """Class with the largest logit, int64 (N,)."""
        return self.logits.argmax(axis=1)

    def warned(self, i: int) -> dict[str, str]:
        """Return the warnings of one map: name -> a sentence."""
        words = {"method": self.method, "target": CLASSES[int(self.target[i])]}
        words["evidence"] = self.verdict.words if self.verdict else ""
        number = range(len(self))[i]
        names = [name for name, maps in self.warnings.items() if number in maps]
        return {name: WARNINGS[name].format(**words) for name in names}

    @property
    def cell_metres(self) -> float:
        """Ground size of one cell of the grid on a tile, in metres.

        The images of an `enlarged` copy, and so the cells, are `tiles_across` times as wide.
        """
        return cell_metres(self.grid.shape[1])


def finished(
    method: Method,
    layer: str | None,
    card: ReportCard | None,
    ground: str,
    found: Mapping[str, np.ndarray],
    contrasted: bool = False,
) -> Explanation:
    """Bring the grids to the tile, and say what is wrong with them and what tests found.

    Args:
        method: the method that made them.
        layer: dotted name of its layer, if it has one.
        card: of the model's weights, if there is one.
        ground: why the method was chosen.
        found: grid, target and logits.
        contrasted: whether the class to tell the target from was asked for: report cards test
            `finercam` against the three nearest classes, so that its verdict is of another map.
    """
    grid = np.asarray(found["grid"], dtype=np.float32)
    target, logits = found["target"], found["logits"]
    heatmap = resized(grid, TILE_SIZE)
    warnings = _warnings(grid, target, logits, method.class_blind)
    verdict = None
    if method.family != "null":
        verdict = card.verdict(method.name, layer) if card else UNTESTED
        if card and contrasted and (method.name, layer) in set(candidates(card)):
            verdict = CONTRASTED
        if not verdict.proven:
            warnings["Unproven"] = tuple(range(len(grid)))
    return Explanation(heatmap, grid, target, logits, method.name, layer, warnings, ground, verdict)


def _warnings(
    grid: np.ndarray, target: np.ndarray, logits: np.ndarray, class_blind: bool
) -> dict[str, tuple[int, ...]]:
    cells = grid.reshape(len(grid), -1)
    broken = ~np.isfinite(cells).all(axis=1)
    cells = np.where(broken[:, None], 0, cells)
    size = np.abs(cells).max(axis=1)
    flat = np.ptp(cells, axis=1) <= 1e-6 * size
    believed = softmax(logits)[np.arange(len(grid)), target]
    marks = {
        "ZeroMap": (size == 0) & ~broken,
        "FlatMap": flat & (size > 0),
        "NaNMap": broken,
        "ClassBlind": np.full(len(grid), class_blind),
        "LowConfidence": believed < CONFIDENT,
    }
    return {name: tuple(np.flatnonzero(m).tolist()) for name, m in marks.items() if m.any()}
