"""What several commands do: get tiles and models, check where output goes, print tables."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lulc_lib.files import home_expanded

if TYPE_CHECKING:
    from lulc_lib.metrics import Report
    from lulc_lib.models import TileClassifier
    from lulc_lib.tiles import TileSet

DRAWN_SEED = 0  # of the drawn tiles, so that a model trained on them meets the same ones again
FIGURES = {
    "macro_f1": "macro-F1",
    "macro_auprc": "AUPRC",
    "accuracy": "accuracy",
    "ece": "ECE",
}


def say(text: str = "") -> None:
    """Print a line at once, also when the output goes to a file."""
    print(text, flush=True)


def get_tiles(options: argparse.Namespace) -> "TileSet":
    """Return all tiles that --data, --drawn and the environment ask for."""
    from lulc_lib.drawn_tiles import synthetic
    from lulc_lib.eurosat import DataUnavailableError, load_eurosat

    if options.drawn:
        return synthetic(options.tiles_per_class, DRAWN_SEED)
    if options.data is not None and not home_expanded(options.data).exists():
        raise FileNotFoundError(
            f"--data names {options.data}, which does not exist; name a folder or zip of "
            "EuroSAT's RGB tiles, or take drawn tiles with --drawn"
        )
    try:
        return load_eurosat(options.data)
    except DataUnavailableError as error:
        raise DataUnavailableError(f"{error}; or take drawn tiles with --drawn") from error


def get_part(
    tiles: "TileSet", part: str, name: str | None, models: Sequence["TileClassifier"] = ()
) -> "TileSet":
    """Return a part of the tiles, by the split's name or else the split of the first model.

    Raises:
        ValueError: if there is no such split or part, or a split is named for all tiles.
    """
    from lulc_lib.splits import SPLITS, split

    if part == "all" and name is not None:
        raise ValueError("--part all takes every tile: leave out --split")
    if part == "all":
        return tiles
    trained_on = models[0].trained_on if models else None
    own = trained_on.split_name if trained_on else ""
    chosen = name or (own if own in SPLITS else "seed42")
    taken = getattr(split(tiles, chosen), part)
    if taken is None:
        raise ValueError(f"split {chosen!r} has no part {part!r}; take train, test or all")
    return taken


def get_models(names: Sequence[str]) -> dict[str, "TileClassifier"]:
    """Load checkpoints; the keys are their short names, or what was typed where these clash."""
    from lulc_lib.checkpoints import load_checkpoint

    short = [Path(n).name.removesuffix(".safetensors").removesuffix(".json") for n in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is named twice; name each model once")
    keys = short if len(set(short)) == len(short) else names
    return {key: load_checkpoint(name)[0] for key, name in zip(keys, names, strict=True)}


def foreign(model: "TileClassifier", tiles: "TileSet") -> str:
    """Return a remark when a model meets another kind of tiles than it learned from, else ''."""
    learned = model.trained_on
    if learned is None or learned.drawn == tiles.drawn:
        return ""
    return (
        f"note: {model.name} learned from {learned.source} and now meets {tiles.source}: "
        "expect little"
    )


def output_file(path: str | Path, endings: tuple[str, ...], spare: Sequence[Path] = ()) -> Path:
    """Return an absolute path that a file can be written to, or say why not, before the work.

    Args:
        path: as typed; missing folders are made later, with the file.
        endings: endings that say what is written, such as (".png",).
        spare: files that must not be replaced.
    """
    file = home_expanded(path).absolute()
    if file.is_dir() or str(path).endswith(("/", os.sep)):
        raise IsADirectoryError(f"{path} is a folder; name a file in it, such as out{endings[0]}")
    if file.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in {' or '.join(endings)}: that is what is written")
    if file.exists() and not file.is_file():
        raise ValueError(f"{path} is not an ordinary file and would be replaced; name another")
    if any(file.exists() and other.exists() and file.samefile(other) for other in spare):
        raise ValueError(f"{path} is what is read; name another file to write")
    output_folder(file.parent)
    return file


def output_folder(path: str | Path) -> Path:
    """Return an absolute path that is a folder or can become one."""
    folder = home_expanded(path).absolute()
    standing = next(p for p in (folder, *folder.parents) if p.exists())
    if not standing.is_dir():
        raise NotADirectoryError(f"{standing} is a file, so {folder} cannot be a folder")
    if not os.access(standing, os.W_OK):
        raise PermissionError(f"the folder {standing} may not be written to; name another")
    return folder


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report_text(report: "Report") -> str:
    """Return a report as two tables: figures with their intervals, and figures by class."""
    figures = [[title, str(getattr(report, key))] for key, title in FIGURES.items()]
    columns = {
        "producers_accuracy": "producer's",
        "users_accuracy": "user's",
        "f1": "F1",
        "ap": "AP",
    }
    rows = []
    for name, values in report.per_class.iterrows():
        shown = ["-" if values[key] != values[key] else f"{values[key]:.3f}" for key in columns]
        rows.append([str(name), *shown, f"{int(values['support']):,}"])
    by_class = table(["class", *columns.values(), "tiles"], rows)
    note = "producer's accuracy = recall, user's accuracy = precision"
    return f"{table(['figure', 'value [95 % interval]'], figures)}\n\n{by_class}\n{note}"
