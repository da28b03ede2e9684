"""Write a page in which a Vision Transformer answers the brush: `lulc live NAME`."""

import argparse

from lulc_lib.cli import common, parsing
from lulc_lib.cli.gallery import choose
from lulc_lib.config import MOST_LIVE_TILES

BESIDE = "resnet50"
DETAILS = """\
The page stands alone: one file, no network, no Python. It runs a plain Vision Transformer in the
browser, with maps while one paints; its weights are kept in half precision. Another model stands
beside it with answers and maps that are computed now. Tiles are drawn at random, as many of each
class; up to half of each class are tiles that a model gets wrong."""
EXAMPLES = """\
examples:
  lulc live vit --out outputs/live.html
  lulc live vit --n 30 --alone
  lulc live path/to/mine --beside vit --out mine.html
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="checkpoint of a plain ViT: a name or a path")
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--beside",
        metavar="NAME",
        default=BESIDE,
        help="checkpoint whose answers and maps stand beside it (default: %(default)s)",
    )
    either.add_argument("--alone", action="store_true", help="no model beside it")
    parser.add_argument(
        "--n",
        type=parsing.whole(1, MOST_LIVE_TILES),
        default=100,
        metavar="N",
        help=f"tiles, at most {MOST_LIVE_TILES} (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=parsing.whole(0), default=0, help="of the choice of tiles (default: 0)"
    )
    parsing.add_tile_options(parser, drawn=50)
    parsing.add_part_options(parser)
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        default="outputs/live.html",
        help="where to write (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Check the model, predict the part, choose tiles, write the page."""
    from lulc_lib.live import live_html, pack_vit
    from lulc_lib.predictions import predict

    out = common.output_file(options.out, (".html", ".htm"))
    alone = options.alone or options.beside == options.name
    models = common.get_models([options.name, *([] if alone else [options.beside])])
    names = list(models)
    pack_vit(models[names[0]])  # which refuses it in words, before tiles are read
    tiles = common.get_tiles(options)
    part = common.get_part(tiles, options.part, options.split, list(models.values()))
    predictions = []
    for name, model in models.items():
        if remark := common.foreign(model, part):
            common.say(remark)
        common.say(f"{name}: predicting {len(part):,} tiles ({part.source}, {part.part})")
        predictions.append(predict(model, part, progress=True, cache=True))
    shown = part.select(choose(predictions, options.n, options.seed), part=part.part)
    common.say(f"{', '.join(names)}: maps of {len(shown)} tiles")
    beside = None if alone else (names[1], models[names[1]])
    page = live_html(models[names[0]], shown, out, beside, cache=True)
    common.say(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
    common.say("open it in any browser, on any device; it needs nothing else")
