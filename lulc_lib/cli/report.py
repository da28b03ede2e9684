"""Test a model's explanations and write its report card: `lulc report NAME`."""

import argparse
from typing import TYPE_CHECKING

from lulc_lib.cli import common, parsing

if TYPE_CHECKING:
    from pathlib import Path

    from lulc_lib.evidence import ReportCard
    from lulc_lib.models import TileClassifier
    from lulc_lib.tiles import TileSet

DETAILS = """\
Asks of each explanation whether it can be told apart from maps that look at nothing: on mosaics of
tiles, where it is known which part should count, and by removing pixels. The explanation that is
recommended was told apart from all of them, and has the best mean rank over mosaics, single
deletion and removal. For the test tiles of a split it is chosen on the validation tiles, else, and
with --quick, on the same tiles that the figures are of.
The card is written beside the checkpoint as NAME.report.json, where `lulc explain` and the explorer
find it; one of some methods, tests or tiles only where --out says. It can be stopped with Ctrl-C,
and the same command goes on where it was."""
EXAMPLES = """\
examples:
  lulc report vit --quick
  lulc report vit
  lulc report resnet50 --method gradcam --method competition --test mosaic --out card.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="a checkpoint: its name or its path")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short trial: four methods, six tiles of each class; not kept",
    )
    parser.add_argument(
        "--method",
        action="append",
        metavar="METHOD[@LAYER]",
        help="of `lulc.methods()`; give it again for more (default: all that fit the model, but "
        "for scorecam where it takes more than 256 passes; four with --quick)",
    )
    parser.add_argument(
        "--test", action="append", help="of the tests; give it again for more (default: all)"
    )
    parser.add_argument(
        "--n-tiles",
        type=parsing.whole(8),
        metavar="N",
        help="tiles for single deletion and removal, as many of each class (default: 500, 60 with "
        "--quick); tests that explain a tile several times, and slow methods, take fewer",
    )
    parser.add_argument(
        "--n-mosaics",
        type=parsing.whole(8),
        metavar="N",
        help="mosaics of four tiles (default: 250, 64 with --quick); slow methods take fewer",
    )
    parser.add_argument(
        "--n-choosing",
        type=parsing.whole(8),
        metavar="N",
        help="validation tiles to choose the recommendation on, with half as many mosaics "
        "(default: 1,000; where --n-tiles or --n-mosaics asks for less than a whole card, half as "
        "many tiles and as many mosaics)",
    )
    parsing.add_tile_options(parser, drawn=50)
    parsing.add_part_options(parser)
    parsing.add_precision_option(parser)
    parser.add_argument(
        "--out",
        metavar="FILE.json",
        help="where to write the card (default: a whole one beside the checkpoint)",
    )


def run(options: argparse.Namespace) -> None:
    """Test, print the ranks, write the card."""
    from dataclasses import replace

    from lulc_lib.evidence import MOSAIC, REPORT_ENDING, why_none
    from lulc_lib.predictions import identity
    from lulc_lib.report_cards import FULL, QUICK, clever_hans, report_card
    from lulc_lib.splits import split

    ((name, model),) = common.get_models([options.name]).items()
    tiles = common.get_tiles(options)
    part = common.get_part(tiles, options.part, options.split, [model])
    own = model.report_file
    out = options.out or (own if _is_whole(options, model, part) else None)
    spare = [] if own is None else [own.with_name(own.name.removesuffix(REPORT_ENDING) + ".json")]
    out = common.output_file(out, (".json",), spare=spare) if out else None
    if out is not None and out.exists():
        _check_replaceable(out)
    if remark := common.foreign(model, part):
        common.say(remark)
    asked = {"tiles": options.n_tiles, "mosaics": options.n_mosaics}
    sizes = replace(QUICK if options.quick else FULL, **{k: v for k, v in asked.items() if v})
    chooser = training = None
    if not options.quick and part.role == "test" and part.split_name:
        parts = split(tiles, part.split_name)
        chooser, training = parts.val, parts.train
    choosing = None
    if options.n_choosing and chooser is None:
        raise ValueError(
            "--n-choosing counts validation tiles, which are taken where the part is a split's "
            "test tiles and --quick is not given"
        )
    if options.n_choosing:
        choosing = replace(
            sizes,
            tiles=options.n_choosing,
            mosaics=options.n_choosing // 2,
            fillings=sizes.fillings[:1],
        )
    methods = options.method and [
        tuple(text.split("@", 1)) if "@" in text else text for text in options.method
    ]
    common.say(f"{name}: testing explanations on {part.source}, {part.part}")
    if options.n_tiles and (taken := len(part.balanced(sizes.tiles))) != sizes.tiles:
        common.say(
            f"single deletion and removal take {taken:,} tiles where {sizes.tiles:,} were asked "
            f"for: equally many of each class, of {len(part):,} tiles"
        )
    try:
        card = report_card(
            model, part, methods, options.test,
            choose_on=chooser, training=training, quick=options.quick, sizes=sizes,
            choosing=choosing, precision=options.precision, progress=True,
        )  # fmt: skip
    except KeyboardInterrupt:
        if identity(model) is not None:
            common.say("\nwhat was measured is kept: the same command goes on where it was")
        raise
    common.say(f"\n{report_text(card)}")
    mosaics = max((row.n for row in card.rows if row.test == MOSAIC), default=0)
    if options.n_mosaics and 0 < mosaics < options.n_mosaics:
        common.say(
            f"{mosaics:,} mosaics where {options.n_mosaics:,} were asked for: the tiles that the "
            "model recognises in a mosaic suffice for no more"
        )
    if card.recommended:
        where = card.recommended.layer
        common.say(f"recommended: {card.recommended.method}" + (f" at {where}" if where else ""))
        common.say(card.recommended.reason)
    else:
        common.say(f"recommended: {why_none(card)}")
    for words in card.left_out:
        common.say(f"left out: {words}")
    for row in clever_hans(card):
        common.say(
            f"{row.method} finds a cue that was planted into the tiles (area under ROC "
            f"{row.interval}, chance 0.5): the model answers by it, a Clever Hans"
        )
    if out:
        common.say(f"wrote {card.save(out)}")
    else:
        common.say(
            "not kept: it is no whole card of the model's own test tiles; name a file by --out"
        )


def _check_replaceable(file: "Path") -> None:
    """Refuse to replace a file that is no report card, such as another model's description."""
    from lulc_lib.evidence import REPORT_ENDING, ReportCard

    if file.name.endswith(REPORT_ENDING) or not file.stat().st_size:
        return
    try:
        ReportCard.from_json(file)
    except ValueError as error:
        raise ValueError(
            f"{file} is there and is no report card; name another file to write, or remove it"
        ) from error


def _is_whole(options: argparse.Namespace, model: "TileClassifier", part: "TileSet") -> bool:
    """Return whether a card may stand beside the checkpoint: any other would replace it."""
    chosen = (options.method, options.test, options.n_tiles, options.n_mosaics, options.n_choosing)
    learnt = model.trained_on
    same = learnt is None or learnt.source == part.source
    return not (options.quick or any(chosen)) and part.role == "test" and same


def report_text(card: "ReportCard") -> str:
    """Return the figures of the tests that recommend, as a table."""
    from lulc_lib.evidence import CORE, COUNTS, core_figures

    rows = core_figures(card, most=100)
    return common.table(["explanation", *CORE, *COUNTS, "s a map"], rows)
