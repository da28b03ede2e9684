"""Score a model on tiles: `lulc evaluate NAME`."""

import argparse

from lulc_lib.cli import common, parsing

DETAILS = """\
Prints macro-F1, AUPRC (macro average precision), accuracy and calibration error, each with a
bootstrap 95 % interval over tiles, and figures by class. Predictions are kept in the cache, so
that a second time is quick; those of a shipped model's test tiles lie beside its weights. The
output says when they were read from there; --fresh runs the model, whatever is kept."""
EXAMPLES = """\
examples:
  lulc evaluate resnet50
  lulc evaluate resnet50 --fresh
  lulc evaluate runs/vit/vit --part val
  lulc evaluate resnet50 --part all --allow-training-tiles
  lulc evaluate runs/small/small --drawn --tiles-per-class 20
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="a checkpoint: its name or its path")
    parsing.add_tile_options(parser, drawn=50)
    parsing.add_part_options(parser)
    parsing.add_training_tiles_option(parser)
    parser.add_argument(
        "--tta",
        action="store_true",
        help="average over the tile's eight flips and turns: another figure, at eight times the "
        "cost",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="run the model also where its predictions are kept"
    )
    parsing.add_precision_option(parser)


def run(options: argparse.Namespace) -> None:
    """Predict, score, print."""
    from lulc_lib.metrics import evaluate
    from lulc_lib.predictions import predict

    ((name, model),) = common.get_models([options.name]).items()
    tiles = common.get_tiles(options)
    part = common.get_part(tiles, options.part, options.split, [model])
    common.say(model.card.summary())
    if remark := common.foreign(model, part):
        common.say(remark)
    predictions = predict(
        model, part, precision=options.precision, progress=True, cache=not options.fresh,
        tta=options.tta,
    )  # fmt: skip
    how = f"{predictions.seconds:.1f} s"
    if predictions.read_from:
        how = f"predictions read from {predictions.read_from} (--fresh predicts now)"
    report = evaluate(predictions, allow_training_tiles=options.allow_training_tiles)
    common.say(
        f"\n{name} on {len(part):,} tiles: {part.source}, {part.part}; "
        f"{options.precision}{', averaged over eight views' if options.tta else ''}, "
        f"{how}"
    )
    if report.training_tiles:
        common.say(f"WARNING: it was trained on {report.training_tiles:,} of them")
    common.say(f"\n{common.report_text(report)}")
