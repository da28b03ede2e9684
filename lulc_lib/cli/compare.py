"""Compare two models on the same tiles: `lulc compare A B`."""

import argparse

from lulc_lib.cli import common, parsing

DETAILS = """\
Prints by how much the second model is ahead of the first in macro-F1, AUPRC and accuracy, each
with the 95 % interval of a paired bootstrap over tiles, the tiles that one model alone gets right
with McNemar's exact test, and F1 by class. Both predict the same part of the first model's split;
a model that was trained on one of these tiles is refused."""
EXAMPLES = """\
examples:
  lulc compare resnet50 vit
  lulc compare vit runs/vit/vit --part val
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("first", metavar="A", help="a checkpoint: its name or its path")
    parser.add_argument("second", metavar="B", help="another")
    parsing.add_tile_options(parser, drawn=50)
    parsing.add_part_options(parser)
    parsing.add_training_tiles_option(parser)
    parsing.add_precision_option(parser)


def run(options: argparse.Namespace) -> None:
    """Predict with both, compare, print."""
    from lulc_lib.metrics import compare
    from lulc_lib.predictions import predict

    models = common.get_models([options.first, options.second])
    part = common.get_part(
        common.get_tiles(options), options.part, options.split, list(models.values())
    )
    for model in models.values():
        if remark := common.foreign(model, part):
            common.say(remark)
    predictions = [
        predict(model, part, precision=options.precision, progress=True, cache=True)
        for model in models.values()
    ]
    found = compare(*predictions, allow_training_tiles=options.allow_training_tiles)
    first, second = models
    common.say(
        f"\n{second} less {first} on {len(part):,} tiles: {part.source}, {part.part}; "
        f"{options.precision}\n"
    )
    rows = []
    for key, title in common.FIGURES.items():
        if key == "ece":
            continue
        figure = getattr(found, key)
        rows.append([title, f"{figure.value:+.4f}", f"[{figure.low:+.4f}, {figure.high:+.4f}]"])
    common.say(common.table(["figure", "difference", "95 % interval"], rows))
    common.say(
        f"\nboth right {found.both_right:,}, {first} alone {found.first_alone:,}, {second} alone "
        f"{found.second_alone:,}, neither {found.neither:,}; McNemar's exact p = "
        f"{found.p_value:.2g}\n"
    )
    rows = [
        [
            name,
            *["-" if v != v else f"{v:.3f}" for v in (values["first"], values["second"])],
            f"{values.difference:+.3f}",
            f"[{values.low:+.3f}, {values.high:+.3f}]",
            f"{values.support:.0f}",
        ]
        for name, values in found.per_class.iterrows()
    ]
    head = ["F1 by class", first, second, "difference", "95 % interval", "tiles"]
    common.say(common.table(head, rows))
    common.say(
        "\nThe intervals cover the choice of tiles, not another training. With ten classes, about "
        "four such tables in ten have an interval that leaves out 0 by chance alone."
    )
