"""Parse what was typed: one-line errors with the nearest name, and options that commands share."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lulc_lib.wording import did_you_mean


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keep line breaks of descriptions and examples, and give options a wider column."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, **{"max_help_position": 30, **options})


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, `lulc: error: ...`, with the nearest name as a hint."""

    def __init__(self, *positional: Any, **options: Any):
        options = {"formatter_class": Formatter, "allow_abbrev": False, **options}
        super().__init__(*positional, **options)

    def error(self, message: str) -> NoReturn:
        """Print the error and leave with exit code 2."""
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            choices = re.findall(r"[\w+.-]+", found[2])
            message = re.sub(r" \(choose from .*", "", message)
            message += f"{did_you_mean(found[1], choices)}; there is {', '.join(choices)}"
        message = message.replace("argument COMMAND: invalid choice:", "there is no command")
        self.exit(2, f"lulc: error: {message} (see `{self.prog} --help`)\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Print the error about words that have no meaning here, and leave with exit code 2."""
        word = unknown[0].partition("=")[0]
        if word.startswith("-"):
            hint = did_you_mean(word, list(self._option_string_actions))
            self.error(f"there is no option {word}{hint}")
        self.error(f"do not know what to do with {word!r}")


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Return a converter to whole numbers of at least `least`, and of at most `most`."""
    wanted = f"at least {least}" if most == math.inf else f"{least} to {most}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number of {wanted}, got {text!r}")
        return value

    return convert


def add_tile_options(parser: argparse.ArgumentParser, drawn: int) -> None:
    """Add --data, --drawn and --tiles-per-class (`drawn` by default)."""
    group = parser.add_argument_group("which tiles")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--data",
        metavar="PATH",
        help="folder or zip of EuroSAT (default: $LULC_EUROSAT, else data/, else a download of "
        "96 MB, once)",
    )
    either.add_argument(
        "--drawn",
        action="store_true",
        help="drawn tiles instead of EuroSAT: they need no data, and show the way, not the results",
    )
    group.add_argument(
        "--tiles-per-class",
        type=whole(1),
        default=drawn,
        metavar="N",
        help=f"how many drawn tiles of each class, when tiles are drawn (default: {drawn})",
    )


def add_part_options(parser: argparse.ArgumentParser) -> None:
    """Add --split and --part."""
    group = parser.add_argument_group("which part of them")
    group.add_argument(
        "--split",
        metavar="NAME",
        help="seed42, paper80, spatial or aitlas (default: the split the model was trained on, "
        "else seed42)",
    )
    group.add_argument(
        "--part",
        choices=("test", "val", "train", "all"),
        default="test",
        help="part of the split, or all tiles (default: test)",
    )


def add_training_tiles_option(parser: argparse.ArgumentParser) -> None:
    """Declare --allow-training-tiles."""
    parser.add_argument(
        "--allow-training-tiles",
        action="store_true",
        help="score also on tiles that a model was trained on, which flatters it",
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Add --precision."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="float32 gives the same figures everywhere; bfloat16 is faster where `lulc doctor` "
        "says so, with logits within about 1 %% (default: float32)",
    )
