"""Write one web page with many tiles and their maps: `lulc gallery NAME [NAME ...]`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lulc_lib.cli import common, parsing

if TYPE_CHECKING:
    import numpy as np

    from lulc_lib.predictions import Predictions

DETAILS = """\
The page stands alone: no network, no other files. Tiles are drawn at random, as many of each
class; up to half of each class are tiles that a model gets wrong, so mistakes are over-represented
on purpose."""
EXAMPLES = """\
examples:
  lulc gallery resnet50 vit --out outputs/gallery.html
  lulc gallery vit --method gradcam --method gradcam++ --n 20
  lulc gallery resnet50 vit --wrong --n 60 --out mistakes.html
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="checkpoints: names or paths")
    parser.add_argument(
        "--method",
        action="append",
        help="of `lulc.methods()`: gradcam, gradcam++, layercam, ...; give it again for more "
        "(default: what each model's report card recommends, else gradcam)",
    )
    parser.add_argument(
        "--n", type=parsing.whole(1), default=40, metavar="N", help="tiles (default: %(default)s)"
    )
    parser.add_argument(
        "--wrong", action="store_true", help="only tiles that at least one model gets wrong"
    )
    parser.add_argument(
        "--seed", type=parsing.whole(0), default=0, help="of the choice of tiles (default: 0)"
    )
    parsing.add_tile_options(parser, drawn=50)
    parsing.add_part_options(parser)
    parsing.add_precision_option(parser)
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        default="outputs/gallery.html",
        help="where to write (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Predict the part, choose tiles, explain them, write the page."""
    from lulc_lib.explanations import RECOMMENDED, check_methods
    from lulc_lib.export import explain_for_page, gallery_html
    from lulc_lib.predictions import predict

    out = common.output_file(options.out, (".html", ".htm"))
    methods = list(dict.fromkeys(options.method or [RECOMMENDED]))
    models = common.get_models(options.names)
    for model in models.values():
        check_methods(model, methods)
    tiles = common.get_tiles(options)
    part = common.get_part(tiles, options.part, options.split, list(models.values()))
    predictions = {}
    for name, model in models.items():
        if remark := common.foreign(model, part):
            common.say(remark)
        common.say(f"{name}: predicting {len(part):,} tiles ({part.source}, {part.part})")
        predictions[name] = predict(
            model, part, precision=options.precision, progress=True, cache=True
        )
        if file := predictions[name].read_from:
            common.say(f"{name}: its predictions were read from {file}")
    chosen = choose(list(predictions.values()), options.n, options.seed, options.wrong)
    shown = part.select(chosen, part=part.part)
    common.say(f"{', '.join(models)}: {', '.join(methods)} on {len(shown)} tiles")
    explanations = explain_for_page(
        models, shown, methods, predictions, precision=options.precision, cache=True
    )
    page = gallery_html(shown, explanations, out, predictions)
    common.say(f"wrote {page}")
    common.say("open it in any browser")


def choose(
    predictions: Sequence["Predictions"], count: int, seed: int = 0, only_wrong: bool = False
) -> "np.ndarray":
    """Choose tiles for a gallery: as many of each class, up to half of them mistakes.

    Args:
        predictions: of several models on the same labelled tiles.
        count: how many tiles; fewer come back where there are fewer.
        seed: of the draw.
        only_wrong: take only tiles that at least one model gets wrong.

    Returns:
        int64 positions, class after class.

    Raises:
        ValueError: if only mistakes are wanted and there are none.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    labels = predictions[0].labels
    wrong = np.any([~p.correct for p in predictions], axis=0)
    if only_wrong and not wrong.any():
        raise ValueError(
            f"there is nothing to show: all models are right on all {len(labels):,} tiles; "
            "leave out --wrong"
        )
    order = random.permutation(len(labels))
    queues = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        bad, good = own[wrong[own]].tolist(), own[~wrong[own]].tolist()
        queues.append(bad if only_wrong else _alternate(good, bad))
    taken: list[int] = []
    while len(taken) < count and any(queues):
        for queue in queues:
            if queue and len(taken) < count:
                taken.append(queue.pop(0))
    return np.array(sorted(taken, key=lambda i: (labels[i], wrong[i])), dtype=np.int64)


def _alternate(first: list[int], second: list[int]) -> list[int]:
    """Take turns: one of the first, one of the second, and then what is left."""
    pairs = [i for pair in zip(first, second, strict=False) for i in pair]
    return pairs + first[len(second) :] + second[len(first) :]
