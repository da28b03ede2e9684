"""Show the whole way in one command: `lulc demo`."""

import argparse
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lulc_lib.cli import common, parsing
from lulc_lib.cli.gallery import choose

if TYPE_CHECKING:
    from lulc_lib.models import TileClassifier
    from lulc_lib.predictions import Predictions
    from lulc_lib.splits import Split
    from lulc_lib.tiles import TileSet

DETAILS = """\
Gets tiles ($LULC_EUROSAT, else data/, else a download, else drawn tiles) and two models, a ResNet
and a Vision Transformer (the shipped checkpoints if they belong to these tiles, else small ones
trained on the spot in at most three minutes), scores both on test tiles, draws what they look at,
and writes a page in which the Vision Transformer answers the brush. What a shipped model says of
the test tiles lies beside it: the model predicts a random sample of them, and the table is from the
file where the two agree."""
EXAMPLES = """\
examples:
  lulc demo
  lulc demo --drawn                                    without data and network
  lulc demo --drawn --tiles-per-class 10 --epochs 1    the shortest: does it run?
"""
MODELS = ("resnet50", "vit")
TILES_A_CLASS = 2  # in the gallery


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parsing.add_tile_options(parser, drawn=150)
    parser.add_argument(
        "--epochs",
        type=parsing.whole(1),
        metavar="N",
        help="epochs of models trained on the spot (default: enough to show something)",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        default="outputs/demo",
        help="where gallery.png, gallery.html and live.html go (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Get tiles, get models, score them, draw the gallery, write the live page."""
    folder = common.output_folder(options.out)
    names = ("gallery.png", "gallery.html", "live.html")
    files = [common.output_file(folder / name, (Path(name).suffix,)) for name in names]
    common.say("1 of 4  tiles")
    tiles = _tiles(options)

    from lulc_lib.metrics import evaluate
    from lulc_lib.splits import split

    parts = split(tiles, "seed42")
    common.say("\n2 of 4  models")
    models = dict(_model(name, parts, options.epochs) for name in MODELS)
    common.say(f"\n3 of 4  scores on {len(parts.test):,} test tiles, never trained on")
    predictions, rows = {}, []
    for name, model in models.items():
        predictions[name], rate = _predicted(name, model, parts.test)
        report = evaluate(predictions[name])
        figures = (report.macro_f1, report.macro_auprc, report.accuracy)
        rows.append([name, *map(str, figures), f"{rate:.1f}"])
    common.say()
    common.say(common.table(["model", "macro-F1", "AUPRC", "accuracy", "tiles/s"], rows))
    common.say(
        "in brackets: 95 % intervals; tiles/s: how fast the model predicted, on this machine"
    )
    common.say("\n4 of 4  maps: what the models look at")
    _draw(models, predictions, parts.test, files)
    if not tiles.original:
        common.say(f"\nThese were {tiles.source}: the figures above say nothing about EuroSAT.")
    common.say("\nnext: make lab    opens the notebooks at 00_start_here.ipynb")


def _tiles(options: argparse.Namespace) -> "TileSet":
    """Return EuroSAT, or drawn tiles when there is none, and say which."""
    from lulc_lib.drawn_tiles import synthetic
    from lulc_lib.eurosat import DataUnavailableError, load_eurosat

    reason = "as asked by --drawn"
    if not options.drawn:
        try:
            tiles = common.get_tiles(options) if options.data else load_eurosat()
            common.say(f"{len(tiles):,} tiles of {tiles.source}")
            return tiles
        except DataUnavailableError as error:
            reason = str(error)
    rule = "*" * 78
    text = (
        "NO EUROSAT HERE: these are DRAWN TILES, pictures made by a program, not satellite images. "
        f"They show the way, not the results. Why: {reason}"
    )
    common.say(f"{rule}\n{textwrap.fill(text, 78, break_long_words=False)}\n{rule}")
    tiles = synthetic(options.tiles_per_class, common.DRAWN_SEED)
    common.say(f"{len(tiles):,} drawn tiles")
    return tiles


def _model(name: str, parts: "Split", epochs: int | None) -> tuple[str, "TileClassifier"]:
    """Return a name to show and the model: shipped, or a small one trained on the spot."""
    from lulc_lib.quickstart import SMALL, fitting_checkpoint, ready_model

    model = fitting_checkpoint(name, parts)
    if model is not None:
        common.say(f"shipped {model.card.summary()}")
        return name, model
    small = f"small {SMALL[name][0]}"
    common.say(f"no shipped {name} belongs to these tiles: a {small} is trained instead")
    began = time.perf_counter()
    model = ready_model(name, parts, epochs=epochs, progress=True)
    count = len(model.trained_on.names)
    common.say(f"{small}: learned from {count:,} tiles, {time.perf_counter() - began:.0f} s")
    return small, model


def _predicted(name: str, model: "TileClassifier", test: "TileSet") -> tuple["Predictions", float]:
    """Return predictions of all test tiles, and how many tiles/s the model itself predicted.

    What was read from the file beside a checkpoint is compared with a random sample predicted
    now, and is not believed if the two differ.
    """
    from lulc_lib.predictions import SAME_LOGITS, predict, predict_sample

    known = predict(model, test, progress=True, cache=True)
    if not known.read_from:
        return known, len(known) / known.seconds
    live, apart = predict_sample(model, known, test)
    what = f"{name}: {len(live):,} of {len(test):,} test tiles predicted now"
    if apart <= SAME_LOGITS:
        common.say(
            f"{what}: their logits agree with {known.read_from} to {SAME_LOGITS:g}; the table is "
            "from that file"
        )
        return known, len(live) / live.seconds
    common.say(
        f"{what}: THEIR LOGITS DIFFER from {known.read_from} by up to {apart:.2g}. The file is not "
        "believed, and all test tiles are predicted now"
    )
    known = predict(model, test, progress=True)
    return known, len(known) / known.seconds


def _draw(
    models: dict[str, "TileClassifier"],
    predictions: dict[str, "Predictions"],
    test: "TileSet",
    files: list[Path],
) -> None:
    """Explain some tiles of each class, right and wrong ones; write both galleries and the page."""
    from lulc_lib.explanations import explain
    from lulc_lib.export import gallery_html
    from lulc_lib.live import live_html
    from lulc_lib.plots import describe_grid, plot_gallery, save_figure
    from lulc_lib.tiles import CLASSES

    chosen = choose(list(predictions.values()), TILES_A_CLASS * len(CLASSES))
    shown = test.select(chosen, part=test.part)
    maps = {name: explain(model, shown) for name, model in models.items()}
    for name, explanation in maps.items():
        where = f" at {explanation.layer}" if explanation.layer else ""
        common.say(f"{name}: {explanation.method}{where}, {describe_grid(explanation.grid)}")
    counts = [count for count in shown.class_counts().values() if count]
    words = f"of {len(counts)} classes, as many of each as there are"
    if counts == [TILES_A_CLASS] * len(CLASSES):
        words = f"{TILES_A_CLASS} of each class, one of them a mistake where there is one"
    common.say(f"{len(shown)} tiles, {words}")
    picture = save_figure(plot_gallery(shown, maps, predictions), files[0])
    page = gallery_html(shown, maps, files[1], predictions)
    (other, beside), (_, vit) = models.items()  # in the order of MODELS
    live = live_html(vit, shown, files[2], (other, beside))
    common.say(f"\npicture  {picture}\npage     {page}\nlive     {live}")
