"""Train a model and score it on the test tiles: `lulc train`."""

import argparse
import dataclasses
import importlib.util
import json
import os
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lulc_lib.cli import common, parsing
from lulc_lib.config import TRACKERS, RunConfig
from lulc_lib.files import home_expanded, read_json
from lulc_lib.wording import did_you_mean

if TYPE_CHECKING:
    from lulc_lib.models import TileClassifier
    from lulc_lib.splits import Split

_FIELDS = ", ".join(
    f"{spec.name}={'(such as 0:64,8:96)' if spec.name == 'sizes' else spec.default}"
    for spec in dataclasses.fields(RunConfig)
)
DETAILS = """\
Learns from the train part of a split, keeps the epoch that does best on the val part, scores it on
the test part, and saves a checkpoint with its card into the run's folder. Killed at any moment, it
goes on with --resume."""
EXAMPLES = f"""\
examples:
  lulc train --model vit --epochs 20 --lr 1e-3
  lulc train --preset seed --model resnet50 --pretrained     the earlier project's recipe
  lulc train --preset seed --model vit_base --pretrained
  lulc train --resume --name vit                             go on where it stopped
  lulc train --start vit --name vit-longer --epochs 10       another run from a model's weights
  lulc train --model resnet18 --image-size 64 --drawn --epochs 2
  lulc train --model vit --set mixup=0.2 --set schedule=onecycle

all settings, for --set field=value, with their defaults:
{textwrap.fill(_FIELDS, 96, initial_indent="  ", subsequent_indent="  ")}
"""
_RECORD = "run.json"  # what a run was asked, for --resume
_TAKEN_ENDINGS = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".json", ".safetensors")
_SHORTHANDS = {
    "model": "model",
    "lr": "learning_rate",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "seed": "seed",
    "tracker": "tracker",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is not given is None, so that --resume can tell."""
    add = parser.add_argument
    known = "resnet50, resnet50_dc5, vit, vit_fine, vit_base"
    add("--model", metavar="NAME", help=f"{known} or any timm name")
    add("--lr", type=float, metavar="RATE", help="learning rate, short for --set learning_rate=")
    add("--epochs", type=int, metavar="N", help="passes over the training tiles")
    add("--batch-size", type=int, metavar="N", help="tiles a step")
    add("--seed", type=int, metavar="N", help="of weights, order and augmentation (default: 42)")
    add(
        "--preset",
        choices=("seed", "quick"),
        help="a named recipe; other options change it. seed: the earlier project's; quick: a "
        "first look",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other setting, see below; may be given again",
    )
    add(
        "--pretrained",
        nargs="?",
        const=True,
        metavar="FILE",
        help="start from ImageNet weights: downloaded, or from a local file",
    )
    add(
        "--start",
        metavar="CHECKPOINT",
        help="start from the weights of a checkpoint: a shipped name, or a path",
    )
    add("--image-size", type=int, metavar="PX", help="size inside the model (default: its own)")
    add("--split", metavar="NAME", help="seed42, paper80, spatial or aitlas (default: seed42)")
    add("--tracker", choices=TRACKERS, help="curves outside the terminal (wandb: set WANDB_MODE)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--name", help="the run goes to runs/NAME (default: the model's name)")
    where.add_argument("--out", metavar="FOLDER", help="the run goes to this folder")
    add("--resume", action="store_true", help="go on with a run; its own settings are taken")
    parsing.add_tile_options(parser, drawn=50)
    parser.set_defaults(tiles_per_class=None)


def run(options: argparse.Namespace) -> int:
    """Train, score, save; return 130 when Ctrl-C ended the training."""
    asked = read_request(options)
    config = RunConfig.from_dict(asked["config"])
    folder = _run_folder(options, config)
    leads = int(os.environ.get("RANK", 0)) == 0  # of several processes, one speaks and writes
    say = common.say if leads else (lambda text: None)
    if options.resume:
        typed = _given(options) | ({"config": asked["config"]} if options.preset else {})
        asked = _resumed(folder, asked, typed)
        config = RunConfig.from_dict(asked["config"])
    elif leads:
        _refuse_taken(folder)  # before models and tiles are loaded
    _check_tracker(config, folder)

    import torch

    from lulc_lib.checkpoints import load_checkpoint, save_checkpoint
    from lulc_lib.config import History
    from lulc_lib.files import atomic_write, lock_folder
    from lulc_lib.metrics import evaluate
    from lulc_lib.models import create_model
    from lulc_lib.predictions import predict
    from lulc_lib.training import fit

    torch.manual_seed(config.seed)
    first = None
    if asked["start"]:
        model, first = load_checkpoint(asked["start"])
    else:
        model = create_model(config.model, asked["pretrained"], asked["image_size"])
    parts = _parts(asked)
    _refuse_known(model, parts)
    if leads:
        with lock_folder(folder), atomic_write(folder / _RECORD) as temporary:
            if not options.resume:
                _refuse_taken(folder)
            temporary.write_text(json.dumps(asked, indent=2), encoding="utf-8")
    say(f"{model!r} on {len(parts.train):,} tiles: {parts.train.source}, {parts.train.part}")
    say(f"run folder {folder}")
    history = fit(model, parts.train, parts.val, config, run_dir=folder, resume=options.resume)
    if history.interrupted:
        say("stopped; go on with the same command and --resume, or")
        say(f"  lulc train --resume --out {shlex.quote(str(folder))}")
        return 130
    if not leads:
        return 0
    _tell(history.best, len(history.epochs))
    predictions = predict(model, parts.test, progress=True)
    report = evaluate(predictions)
    common.say(f"\n{len(parts.test):,} test tiles: {parts.test.source}, {parts.test.part}\n")
    common.say(common.report_text(report))
    if first is not None and first.history:
        history = history.after(History.from_dict(first.history))
    weights = save_checkpoint(
        model, config, folder / folder.name, report, history, precision="float32",
        earlier=first.stages() if first else (),
    )  # fmt: skip
    common.say(f"\nwrote {weights}\n  and {weights.with_suffix('.json')}")
    common.say(f"next: lulc explain {shlex.quote(_shown(weights.with_suffix('')))} PICTURE.jpg")
    return 0


def read_request(options: argparse.Namespace) -> dict[str, Any]:
    """Return everything that a run depends on, as JSON-able data, checked."""
    given = _given(options)
    changes = given.pop("config", {})
    if "start" in given:
        changes = _continued(given, changes)
    if options.preset is not None:
        config = RunConfig.preset(options.preset, **changes)
    else:
        config = RunConfig.from_dict(changes)
    asked = {
        "config": dataclasses.asdict(config),
        "split": "seed42",
        "data": None,
        "drawn": False,
        "tiles_per_class": 50,
        "pretrained": False,
        "start": None,
        "image_size": None,
    }
    return json.loads(json.dumps(asked | given))


def read_settings(pairs: list[str]) -> dict[str, Any]:
    """Turn FIELD=VALUE texts into fields of RunConfig.

    Raises:
        ValueError: if a pair is malformed, a field unknown, or a value not of the field's type.
    """
    kinds = {spec.name: spec.type for spec in dataclasses.fields(RunConfig)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, got {pair!r}")
        name = name.strip().replace("-", "_")
        if name not in kinds:
            hint = did_you_mean(name, list(kinds))
            raise ValueError(f"--set knows no field {name!r}{hint} (`lulc train --help` lists all)")
        if name in values:
            raise ValueError(f"--set names {name} twice")
        values[name] = _converted(name, kinds[name], text.strip())
    return values


def _converted(name: str, kind: Any, text: str) -> Any:
    if kind is str:
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        pairs = [pair.split(":") for pair in text.split(",") if pair]
        return [[int(first), int(size)] for first, size in pairs]
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}
        shape = wanted.get(kind, "pairs EPOCH:PIXELS, such as 0:64,8:96")
        raise ValueError(f"--set {name} takes {shape}, got {text!r}") from None


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was typed, and nothing else."""
    config = read_settings(options.set)
    for option, name in _SHORTHANDS.items():
        value = getattr(options, option)
        if value is None:
            continue
        if name in config:
            raise ValueError(f"--{option.replace('_', '-')} and --set {name}= say the same twice")
        config[name] = value
    given: dict[str, Any] = {"config": config} if config else {}
    for name in ("split", "tiles_per_class", "pretrained", "image_size"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if options.data is not None:
        given["data"] = str(home_expanded(options.data).absolute())
    if options.drawn:
        given["drawn"] = True
    if options.start is not None:
        from lulc_lib.checkpoints import find_checkpoint

        given["start"] = str(find_checkpoint(options.start).with_suffix(""))
    if isinstance(options.pretrained, str):
        given["pretrained"] = str(home_expanded(options.pretrained).absolute())
    return given


def _continued(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that starts from a checkpoint, whose model it takes."""
    from lulc_lib.checkpoints import read_card

    for option in ("pretrained", "image_size"):
        if option in given:
            raise ValueError(
                f"--start and --{option.replace('_', '-')} exclude each other: a checkpoint brings "
                "its own weights and size (--set sizes=0:96 changes the size while training)"
            )
    card = read_card(given["start"])
    model = card.model.get("name", "")
    if changes.get("model", model) != model:
        raise ValueError(
            f"{given['start']} holds a {model}, not a {changes['model']}: leave out --model"
        )
    return {**changes, "model": model}


def _run_folder(options: argparse.Namespace, config: RunConfig) -> Path:
    name = options.name or config.model
    if options.out is None and (Path(name).name != name or name in (".", "..")):
        raise ValueError(
            f"{name!r} cannot name a run: it is a path; take --name, or --out for a path"
        )
    folder = common.output_folder(options.out or Path("runs", name))
    if folder.suffix.lower() in _TAKEN_ENDINGS:
        raise ValueError(
            f"a run cannot be called {folder.name!r}, since its checkpoint gets that name: leave "
            f"out {folder.suffix}"
        )
    if f"{folder.name}.json".lower() == _RECORD:
        raise ValueError(
            f"a run cannot be called {folder.name!r}, since its checkpoint's card would replace "
            f"{_RECORD}, which says what the run was asked; choose another name"
        )
    return folder


def _refuse_taken(folder: Path) -> None:
    # The record alone is no run: nothing has been trained, so that another start may replace it.
    own = ("state.pt", f"{folder.name}.safetensors", f"{folder.name}.json")
    taken = next((folder / name for name in own if (folder / name).exists()), None)
    if taken:
        raise FileExistsError(
            f"{taken} is there already: a run would be lost. Go on with it by --resume, or choose "
            "another --name"
        )


def _resumed(folder: Path, asked: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what the run in a folder was asked; what is typed now must not differ from it."""
    record = folder / _RECORD
    if not record.is_file():
        raise FileNotFoundError(f"there is no run in {folder}: start one without --resume")
    try:
        known = {"start": None, **read_json(record, "the run")}
        # An earlier version's record lacks later fields.
        config = dataclasses.asdict(RunConfig.from_dict(known["config"]))
        before = {**known, **json.loads(json.dumps(config))}
        missing = set(asked) - set(known)
    except (ValueError, TypeError, KeyError):
        missing = {"config"}
    if missing:
        raise ValueError(f"{record} does not describe a run; choose another --name, and start anew")
    for name, value in ({**given, **given.get("config", {})}).items():
        if name != "config" and json.loads(json.dumps(value)) != before[name]:
            raise ValueError(
                f"the run in {folder} has {name}={before[name]!r}, not {value!r}: leave that out "
                "to go on with it, or choose another --name"
            )
    return known


def _refuse_known(model: "TileClassifier", parts: "Split") -> None:
    """Refuse, before the work, a start whose test tiles the model has learnt from."""
    learnt = model.trained_on
    known = 0 if learnt is None else int(learnt.contains(parts.test).sum())
    if known:
        raise ValueError(
            f"{known:,} of the {len(parts.test):,} test tiles ({parts.test.part}) are among those "
            f"that the model to start with was trained on ({learnt.part}): it could not be scored "
            "afterwards; take the same --split, or a model trained on this one"
        )


def _check_tracker(config: RunConfig, folder: Path) -> None:
    if config.tracker == "none":
        return
    if importlib.util.find_spec(config.tracker) is None:
        raise ValueError(
            f"--tracker {config.tracker} needs the package {config.tracker}: "
            f"pip install {config.tracker}"
        )
    os.environ.setdefault("WANDB_DIR", str(folder))


def _parts(asked: dict[str, Any]) -> "Split":
    from lulc_lib.splits import split

    tiles = common.get_tiles(argparse.Namespace(**asked))
    return split(tiles, asked["split"])


def _tell(best: dict[str, float], epochs: int) -> None:
    if not best:
        return
    words = [f"kept epoch {int(best['epoch']) + 1} of {epochs}"]
    if best["val_loss"] == best["val_loss"]:
        words.append(f"val loss {best['val_loss']:.3f}")
        words.append(f"val macro-F1 {best['val_macro_f1']:.3f}")
    common.say(", ".join(words))


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
