"""Write the README of a folder of checkpoints: `lulc cards`."""

import argparse
from pathlib import Path

from lulc_lib.cli import common

DETAILS = """\
Reads the JSON card beside each NAME.safetensors and writes README.md into the same folder.
A card that was changed by hand, such as its notes, is refused until --seal has written its digest
anew."""
EXAMPLES = """\
examples:
  lulc cards
  lulc cards runs/vit
  lulc cards --seal runs/vit     after a change of the notes, or for cards of earlier versions
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="folder of checkpoints (default: checkpoints/ of the checkout)",
    )

    parser.add_argument(
        "--seal", action="store_true", help="write the digest of cards that you changed on purpose"
    )


def run(options: argparse.Namespace) -> None:
    """Write the page and say where."""
    from lulc_lib.cards import describe_cards, names_in, seal_card
    from lulc_lib.files import atomic_write, home_expanded

    own = Path(__file__).absolute().parents[2] / "checkpoints"
    folder = home_expanded(options.folder).absolute() if options.folder else own
    for name in names_in(folder) if options.seal else ():
        if seal_card(folder / f"{name}.json"):
            common.say(f"sealed {folder / name}.json")
    page = describe_cards(folder)
    file = common.output_file(folder / "README.md", (".md",))
    if file.exists() and not file.read_text(encoding="utf-8").startswith(page.splitlines()[0]):
        raise ValueError(f"{file} is not a page of model cards and would be lost; move it away")
    with atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    common.say(f"wrote {file}")
