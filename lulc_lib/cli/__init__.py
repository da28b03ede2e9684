"""Run the suite from a terminal: `lulc demo`, `doctor`, `train`, `evaluate`, `explain` and more.

One file per command, with its options (`add_options`) and what it does (`run`); a command imports
the modules it needs when it runs, so that `lulc --help` answers at once.
"""

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

from lulc_lib import __version__
from lulc_lib.cli import (
    cards,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    gallery,
    live,
    report,
    train,
)
from lulc_lib.cli.parsing import Formatter, Parser
from lulc_lib.files import FolderLockedError

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "demo": (demo, "classify tiles with two models and draw what they look at"),
    "doctor": (doctor, "say what is here, what is missing, and what that prevents"),
    "train": (train, "train a model and score it on the test tiles"),
    "evaluate": (evaluate, "score a model, with 95 % intervals"),
    "compare": (compare, "compare two models on the same tiles, with paired intervals"),
    "explain": (explain, "draw what a model looks at in any picture"),
    "gallery": (gallery, "write one web page with many tiles and their maps"),
    "live": (live, "write one web page in which a Vision Transformer answers the brush"),
    "report": (report, "test a model's explanations beside maps that look at nothing"),
    "cards": (cards, "write the README of a folder of checkpoints from its cards"),
}
_HELP = """\
Learn by doing what a land-cover classifier looks at on EuroSAT.

first steps:
  lulc demo                         both models, one table, one gallery
  lulc doctor                       what is here and what is missing
  lulc explain resnet50 photo.jpg   what a model looks at in your picture
"""
_ENVIRONMENT = """\
environment:
  LULC_EUROSAT      folder or zip of EuroSAT's RGB tiles
  LULC_CHECKPOINTS  folder of checkpoints, looked up before the shipped ones
  LULC_CACHE        folder for decoded tiles and predictions
  LULC_DEBUG=1      show where an error comes from

`lulc COMMAND --help` tells more, with examples.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Args:
        arguments: the words after `lulc`; default: those of the process.

    Returns:
        0 when all went well; 1 when `doctor` found something broken, or after an error that is
        not the user's; 2 after an error in what was asked or met; 130 after Ctrl-C; 141 when the
        reader of our output went away.
    """
    debug = os.environ.get("LULC_DEBUG", "") not in ("", "0")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "2")  # a log needs no bar ten times a second
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            try:
                return _run(sys.argv[1:] if arguments is None else arguments)
            finally:
                sys.stdout.flush()  # here, where a reader that went away is still caught
    except KeyboardInterrupt:
        print("\nlulc: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush
        return 141
    except Exception as error:
        if debug:
            raise
        print(f"lulc: error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, (*_EXPECTED, ImportError)) else 1


_EXPECTED = (ValueError, TypeError, OSError, FolderLockedError)  # each tells what to do


def make_parser() -> Parser:
    """Make the parser of all commands."""
    parser = Parser("lulc", description=_HELP, epilog=_ENVIRONMENT)
    parser.add_argument(
        "--version",
        action="version",
        version=f"lulc_lib {__version__}, Python {platform.python_version()}",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, (module, summary) in COMMANDS.items():
        text = f"{summary[0].upper()}{summary[1:]}.\n\n{module.DETAILS}"
        command = commands.add_parser(
            name,
            help=summary.replace("%", "%%"),
            description=text,
            epilog=module.EXAMPLES,
            formatter_class=Formatter,
        )
        module.add_options(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _run(arguments: Sequence[str]) -> int:
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        getattr(options, "parser", parser).refuse(unknown)
    if options.command is None:
        parser.print_help()
        return 0
    return options.run(options) or 0


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return f"{text}: a package is missing or does not fit; `lulc doctor` says which"
    if isinstance(error, _EXPECTED):
        return text
    return f"{type(error).__name__}: {text} (unexpected; LULC_DEBUG=1 shows where it comes from)"


def _warn(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    print(f"lulc: warning: {' '.join(str(message).split())}", file=sys.stderr)
