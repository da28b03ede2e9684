"""Try ideas for training, one at a time, and keep every result, failures included.

    python benchmarks/experiments.py                    # what there is, and what was measured
    python benchmarks/experiments.py mixup cutmix       # train these; killed, they go on
    python benchmarks/experiments.py --table            # write the tables of docs/experiments.md

Each idea changes one thing of a short base training and is scored on the validation tiles of its
split, `seed42` unless it names another; test tiles are never read. Results lie in
results/experiments.json.
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import few_labels
import learning_rates
import numpy as np
import regions
import report_cards
import torch
from self_supervised import pretrain

from lulc_lib.cards import Card, names_in, parse_card
from lulc_lib.checkpoints import read_card
from lulc_lib.config import History, RunConfig
from lulc_lib.eurosat import load_eurosat
from lulc_lib.metrics import compare, evaluate
from lulc_lib.models import EUROSAT_MEAN, EUROSAT_STD, TileClassifier, create_model
from lulc_lib.predictions import Predictions, predict
from lulc_lib.splits import split
from lulc_lib.storage import atomic_write
from lulc_lib.tiles import TileSet
from lulc_lib.training import fit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "experiments.json"
PAGE = HERE.parent / "docs" / "experiments.md"
CHECKPOINTS = HERE.parent / "checkpoints"
CARDS = report_cards.CARDS
LOGITS = HERE / "results" / "logits"
RUNS = HERE.parent / "outputs" / "experiments"
COSTS = HERE / "results" / "training.json"
MARKS = {
    kind: (
        f"<!-- {kind}: written by benchmarks/experiments.py --table -->",
        f"<!-- end of {kind} -->",
    )
    for kind in ("table", "runs", "seeds", "costs", "rates", "regions", "few labels", "probe")
}
CHANCE = 0.01  # macro-F1; one training of an idea cannot tell less: see base-again, notebook 11
TILES = learning_rates.TILES  # an experiment takes minutes on two cores


@dataclass(frozen=True)
class Experiment:
    """An idea: what it changes of the base settings, and of the network, and what it is held to."""

    idea: str
    changes: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    pretrain: int = 0  # epochs of training without labels before
    way: str = "masked"  # how, of self_supervised.WAYS
    unlabelled: int = TILES  # on so many of the training tiles, without their labels
    beside: str = "base"  # the row that its figure is held to
    split: str = "seed42"
    levelled: bool = False  # the tiles of both parts, see `levelled`


BASE = {
    "model": "vit", "epochs": 15, "learning_rate": 1e-3, "schedule": "cosine", "warmup_epochs": 1,
    "augment": "d4", "shift": 4, "label_smoothing": 0.05, "precision": "bfloat16", "clip_norm": 1.0,
    "best_by": "macro_f1",
}  # fmt: skip
IDEAS = {
    "base": Experiment("compact ViT, D4, shift, label smoothing 0.05, cosine"),
    "base-again": Experiment("the same with another seed: what chance alone does", {"seed": 43}),
    "flip": Experiment("left-right flips instead of D4", {"augment": "flip"}),
    "no-shift": Experiment("no shifts", {"shift": 0}),
    "no-smoothing": Experiment("no label smoothing", {"label_smoothing": 0.0}),
    "mixup": Experiment("mixup 0.2", {"mixup": 0.2}),
    "mixup-strong": Experiment("mixup 0.8", {"mixup": 0.8}),
    "cutmix": Experiment("cutmix 1.0", {"cutmix": 1.0}),
    "erase": Experiment("random erasing, chance 0.25", {"erase": 0.25}),
    "ema": Experiment("averaged weights, decay 0.99", {"ema": 0.99}),
    "muon": Experiment("Muon instead of AdamW", {"optimizer": "muon"}),
    "muon-conv-stem": Experiment(
        "Muon, and patches from three convolutions", {"optimizer": "muon"},
        {"conv_stem": [48, 96]}, beside="muon",
    ),
    "onecycle": Experiment("one cycle instead of cosine", {"schedule": "onecycle"}),
    "long": Experiment("twice as many epochs", {"epochs": 30}),
    "drop-path": Experiment("stochastic depth 0.1", {}, {"drop_path_rate": 0.1}),
    "small-patches": Experiment("patches of 4 px: 16x16 tokens", {}, {"patch_size": 4}),
    "deep": Experiment("12 blocks instead of 6", {}, {"depth": 12}),
    "class-token": Experiment(
        "a class token instead of the tokens' mean",
        {},
        {"class_token": True, "global_pool": "token"},
    ),
    "conv-stem": Experiment(
        "patches from three convolutions", {}, {"conv_stem": [48, 96]}
    ),
    "masked": Experiment("masked autoencoding before, 60 epochs, the same tiles", pretrain=60),
    "masked-all": Experiment(
        "masked autoencoding before, 20 epochs, all 16,200 training tiles",
        pretrain=20, unlabelled=16_200,
    ),
    "contrast": Experiment(
        "contrast of two views (SimCLR) before, 10 epochs, the same tiles",
        pretrain=10, way="contrast",
    ),
    "distillation": Experiment(
        "self-distillation of two views (DINO) before, 10 epochs, the same tiles",
        pretrain=10, way="distillation",
    ),
    "cnn": Experiment(
        "ResNet18 at 128 px inside", {"model": "resnet18", "channels_last": True},
        {"image_size": 128}, beside="cnn",
    ),
    "cnn-progressive": Experiment(
        "ResNet18, 10 epochs at 64 px, 5 at 128 px",
        {"model": "resnet18", "channels_last": True, "sizes": ((0, 64), (10, 128))},
        {"image_size": 128}, beside="cnn",
    ),
    "cnn-small": Experiment(
        "ResNet18 at 64 px inside throughout", {"model": "resnet18", "channels_last": True},
        {"image_size": 64}, beside="cnn",
    ),
    "cnn-muon": Experiment(
        "ResNet18 at 64 px, Muon",
        {"model": "resnet18", "channels_last": True, "optimizer": "muon"},
        {"image_size": 64}, beside="cnn-small",
    ),
    "spatial": Experiment(
        "Muon, on the tiles of `spatial`", {"optimizer": "muon"}, beside="spatial", split="spatial",
    ),
    "spatial-again": Experiment(
        "the same with another seed", {"optimizer": "muon", "seed": 43}, beside="spatial",
        split="spatial",
    ),
    "spatial-colour": Experiment(
        "brightness, contrast and saturation moved by up to 0.3",
        {"optimizer": "muon", "colour": 0.3}, beside="spatial", split="spatial",
    ),
    "spatial-crop": Experiment(
        "random crops of at least half of the tile", {"optimizer": "muon", "crop_scale": 0.5},
        beside="spatial", split="spatial",
    ),
    "spatial-levelled": Experiment(
        "each tile's channels brought to the mean and deviation of all tiles",
        {"optimizer": "muon"}, beside="spatial", split="spatial", levelled=True,
    ),
    "teacher": Experiment(
        "the shipped ResNet50's probabilities as half of the target",
        {"teacher": "resnet50", "distill": 0.5},
    ),
}  # fmt: skip


def config_of(name: str) -> RunConfig:
    """Return the settings of an experiment."""
    return RunConfig(**{**BASE, **IDEAS[name].changes})


def train(name: str) -> dict[str, Any]:
    """Train one experiment on a third of the training tiles; return its row."""
    config = config_of(name)
    parts = split(load_eurosat(download=False), IDEAS[name].split)
    torch.manual_seed(config.seed)
    model = create_model(config.model, **IDEAS[name].network)
    minutes = pretrained(name, model, parts.train) if IDEAS[name].pretrain else 0.0
    tiles, val = learning_rates.third(parts.train), parts.val
    if IDEAS[name].levelled:
        tiles, val = levelled(tiles), levelled(val)
    history = fit(model, tiles, None, config, run_dir=RUNS / name, resume=True)
    if history.interrupted:
        raise KeyboardInterrupt
    found = predict(model, val, precision=config.precision)  # by the last weights: none are chosen
    learning_rates.keep(f"idea-{name}", found)
    return {
        "val_macro_f1": round(float(evaluate(found, resamples=1).macro_f1), 4),
        "val_loss": round(float(found.losses.mean()), 4),
        "minutes": round(minutes + undisturbed(history.epochs) / 60, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {history.hardware}",
    }


def levelled(tiles: TileSet) -> TileSet:
    """Return tiles whose channels all have the mean and the deviation of the whole data set.

    What is left of colour lies in the differences within a tile; values beyond [0, 255] are cut.
    """
    pixels = tiles.images.float()
    deviation, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True)
    asked = [255 * torch.tensor(one).view(1, 3, 1, 1) for one in (EUROSAT_MEAN, EUROSAT_STD)]
    pixels = (pixels - mean) / deviation.clamp(min=1) * asked[1] + asked[0]
    return dataclasses.replace(tiles, images=pixels.round().clamp(0, 255).byte())


def undisturbed(epochs: list[dict[str, Any]]) -> float:
    """Return the seconds of all epochs, each taken to be as fast as the fastest of its size."""
    fastest: dict[int, float] = {}
    for row in epochs:
        fastest[row["size"]] = min(row["seconds"], fastest.get(row["size"], float("inf")))
    return sum(fastest[row["size"]] for row in epochs)


def pretrained(name: str, model: TileClassifier, train: TileSet) -> float:
    """Pretrain a model without labels, or take what an earlier run left; return the minutes."""
    file = RUNS / name / "pretrained.pt"
    if not file.is_file():
        began = time.perf_counter()
        config = dataclasses.replace(config_of("base"), epochs=IDEAS[name].pretrain)
        loss = pretrain(IDEAS[name].way, model, train.images[: IDEAS[name].unlabelled], config)
        print(f"{name}: loss {loss:.3f} after training without labels", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            torch.save((model.state_dict(), (time.perf_counter() - began) / 60), temporary)
    state, minutes = torch.load(file, weights_only=True)
    model.load_state_dict(state)
    return minutes


def measured() -> dict[str, dict[str, Any]]:
    """Return the rows so far, by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def verdict(more: float | None) -> str:
    """Say in a word what a difference in macro-F1 means for a short training."""
    if more is None or abs(more) < CHANCE:
        return "" if more is None else "no difference seen"
    return "helps" if more > 0 else "hurts"


def held_to(name: str, rows: dict[str, dict[str, Any]]) -> float | None:
    """Return the macro-F1 that a row is held to, None where there is none yet.

    Of the base it is the mean of its seeds, which learning_rates.py trained, since one training may
    be lucky; of the others it is the row's own.
    """
    beside = IDEAS[name].beside
    if beside != "base":
        return rows.get(beside, {}).get("val_macro_f1")
    seeds = [
        row["val_macro_f1"]["value"]
        for row in learning_rates.measured().values()
        if (row["family"], row["learning_rate"]) == ("vit", BASE["learning_rate"])
    ]
    return float(np.mean(seeds)) if seeds else None


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as Markdown, each beside the base's."""
    if not rows:
        return "No experiment has been run yet."
    lines = [
        "| name | idea | validation macro-F1 | difference | minutes | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for name in (name for name in IDEAS if name in rows):
        row, base = rows[name], held_to(name, rows)
        more = None if base is None else row["val_macro_f1"] - base
        beside = "" if more is None else f"{more:+.4f}"
        one = ", one core" if row["machine"].endswith(" 1 threads") else ""
        lines.append(
            f"| {name} | {IDEAS[name].idea} | {row['val_macro_f1']:.4f} | {beside} | "
            f"{row['minutes']:.1f}{one} | {verdict(more) if IDEAS[name].beside != name else ''} |"
        )
    return "\n".join(lines)


def trainings() -> dict[str, Card]:
    """Return the cards of all whole trainings by name: the shipped checkpoints', then the others'.

    Of a recipe that was trained with several seeds, NAME-SEED is a training that is not shipped.
    """
    shipped = {name: read_card(CHECKPOINTS / name) for name in names_in(CHECKPOINTS)}
    others = [file for file in sorted(CARDS.glob("*.json")) if ".report" not in file.suffixes]
    return shipped | {file.stem: parse_card(file) for file in others}


def runs() -> str:
    """Return the runs of the whole trainings as Markdown, from their cards."""
    lines = [
        "| checkpoint | trained on | run | epochs | sizes | how | best validation macro-F1 | "
        "and the last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, card in trainings().items():
        done = 0
        for number, stage in enumerate(card.stages(), start=1):
            rows = card.history["epochs"][done : done + stage.epochs]
            done += stage.epochs
            figures = [row["val_macro_f1"] for row in rows if row["size"] == rows[-1]["size"]]
            sizes = ", ".join(dict.fromkeys(f"{row['size']:.0f} px" for row in rows))
            how = f"{stage.optimizer}, {stage.schedule} with peak {stage.learning_rate:g}"
            how += "".join(f", {key} {getattr(stage, key):g}" for key in ("mixup", "ema")
                           if getattr(stage, key))  # fmt: skip
            how += f", teacher {stage.teacher}" if stage.teacher else ""
            how += f", as {stage.model}" if stage.model != card.stages()[0].model else ""
            lines.append(
                f"| {name} | {card.data['part']} | {number} | {stage.epochs} | {sizes} | {how} | "
                f"{max(figures):.4f} | {figures[-1]:.4f} |"
            )
    return "\n".join(lines)


def of_one_recipe() -> dict[str, dict[int, Card]]:
    """Return the cards of each recipe that was trained with several seeds, by name and seed."""
    found: dict[str, dict[int, Card]] = {}
    for name, card in trainings().items():
        found.setdefault(name.partition("-")[0], {})[card.stages()[0].seed] = card
    return {name: dict(sorted(cards.items())) for name, cards in found.items() if len(cards) > 1}


def answers(name: str) -> Predictions:
    """Return what a whole training, shipped or not, says of its test tiles."""
    if name in names_in(CHECKPOINTS):
        file, part = CHECKPOINTS / f"{name}.predictions.npz", ""
    else:
        file, part = LOGITS / f"{name}.npz", "test_"
    with np.load(file) as kept:
        facts = json.loads(str(kept["facts"]))
        digest, told = facts["test"] if part else (facts["digest"], facts["part"])
        logits, labels = kept[f"{part}logits"], kept[f"{part}labels"]
    places = tuple(map(str, range(len(labels))))  # the tiles' order is that of the part
    return Predictions(
        logits.astype(np.float32), labels.astype(np.int64), places, digest=digest, part=told
    )


def seeds() -> str:
    """Return the trainings of recipes that have several, each beside `resnet50`, as Markdown."""
    lines = [
        "| recipe | seed | best validation macro-F1 | test macro-F1 | less `resnet50`, in pairs |",
        "|---|---|---|---|---|",
    ]
    for name, cards in of_one_recipe().items():
        for seed, card in cards.items():
            best = History.from_dict(card.history).best["val_macro_f1"]
            test = "{value:.4f} [{low:.3f}, {high:.3f}]".format(**card.metrics["macro_f1"])
            shipped = ", shipped" if card.name == name else ""
            own = name if card.name == name else f"{name}-{seed}"
            first, second = answers("resnet50"), answers(own)
            paired = "other tiles"
            if first.part == second.part:
                lead = compare(first, second).macro_f1
                paired = f"{lead:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
            lines.append(f"| {name} | {seed}{shipped} | {best:.4f} | {test} | {paired} |")
        tests = [card.metrics["macro_f1"]["value"] for card in cards.values()]
        lines.append(
            f"| {name} | mean of {len(tests)} | | {np.mean(tests):.4f}, "
            f"standard deviation {np.std(tests, ddof=1):.4f} | |"
        )
    return "\n".join(lines)


def costs() -> str:
    """Return the minutes that the shipped trainings take, as `training.py` measured them.

    The seconds of an epoch of `vit` were measured with the seed 42.
    """
    shipped = json.loads(COSTS.read_text())["shipped"]
    levels = list(shipped["vit"]["minutes_to"])
    lines = [
        f"| checkpoint | {' | '.join(levels)} | all epochs | seconds of an epoch |",
        "|---|" + "---|" * (len(levels) + 2),
    ]
    for name, row in shipped.items():
        reached = (row["minutes_to"][level] for level in levels)
        cells = ["never" if minutes is None else f"{minutes:.0f}" for minutes in reached]
        epochs = ", ".join(f"{key}: {value:.0f}" for key, value in row["epoch_seconds"].items())
        lines.append(f"| {name} | {' | '.join(cells)} | {row['minutes']:.0f} | {epochs} |")
    return "\n".join(lines)


def put(text: str, marks: tuple[str, str], between: str) -> str:
    """Return a page with other lines between two marks."""
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    return f"{before}{marks[0]}\n\n{between}\n\n{marks[1]}{after}"


def tables() -> dict[str, str]:
    """Return every table of docs/experiments.md by its kind, as in `MARKS`."""
    return {
        "table": table(measured()),
        "runs": runs(),
        "seeds": seeds(),
        "costs": costs(),
        "rates": learning_rates.table(learning_rates.measured()),
        "regions": regions.table(),
        "few labels": few_labels.table(few_labels.measured()),
        "probe": report_cards.probe_table(),
    }


def write_page() -> None:
    """Put the tables into docs/experiments.md."""
    text = PAGE.read_text(encoding="utf-8")
    for kind, between in tables().items():
        text = put(text, MARKS[kind], between)
    with atomic_write(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IDEAS)}")
    parser.add_argument("--table", action="store_true", help="write the tables of the page")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in IDEAS]
    if unknown:
        parser.error(f"no experiment is called {unknown[0]!r}; there are {', '.join(IDEAS)}")
    for name in options.names:
        row = train(name)
        with atomic_write(RESULTS) as temporary:
            temporary.write_text(json.dumps({**measured(), name: row}, indent=2) + "\n")
        print(f"{name}: {row}", flush=True)
    if options.table:
        write_page()
    print(table(measured()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
