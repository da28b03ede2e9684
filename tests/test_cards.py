"""Model cards."""

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_checkpoints import CONFIG, HISTORY, change_card
from torch import nn

from lulc_lib import cards, checkpoints
from lulc_lib.cards import CheckpointError, describe_cards
from lulc_lib.checkpoints import (
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from lulc_lib.cli import main, make_parser
from lulc_lib.cli.train import read_request
from lulc_lib.config import RunConfig
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.evidence import (
    CENTRE_LEAD,
    CORE,
    MOSAIC,
    REMOVAL,
    Recommendation,
    ReportCard,
    Row,
)
from lulc_lib.metrics import evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions, predict
from lulc_lib.storage import sha256_file
from lulc_lib.tiles import CLASSES

OWN_FOLDER = checkpoints._OWN_FOLDER  # before the tests replace it
pytestmark = pytest.mark.usefixtures("own_folder")


def report_on(count: int = 100, seen: np.ndarray | None = None):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 9, count)  # no SeaLake: its figures are undefined
    logits = generator.normal(size=(count, 10)) + 3 * np.eye(10)[labels]
    names = tuple(map(str, range(count)))
    pred = Predictions(
        logits, labels, names, None, "eurosat", "d" * 64, "seed42/test", "small", seen
    )
    return evaluate(pred, resamples=20, allow_training_tiles=True)


def test_card_says_what_the_checkpoint_is(trained, saved):
    """The card has config, data, history, versions and time; the model built from it is alike."""
    model, card = load_checkpoint(saved)
    assert card == read_card(saved) == model.card
    assert (card.name, card.model, card.classes) == ("small", trained.spec, list(CLASSES))
    assert card.run_config() == CONFIG
    assert card.data == {
        "source": "eurosat", "digest": "d" * 64, "part": "seed42/train", "count": 3
    }  # fmt: skip
    assert card.history["best_epoch"] == 0
    assert card.history["epochs"][1]["val_loss"] is None  # JSON has no NaN
    assert (card.seconds, card.hardware) == (90.0, "2 CPU cores")
    assert card.weights_sha256 == sha256_file(f"{saved}.safetensors")
    assert {"lulc_lib", "torch", "torchvision", "timm", "python", "numpy"} <= set(card.versions)
    assert card.created.startswith("20")
    assert card.created.endswith("+00:00")
    assert (model.name, model.image_size, model.mean) == ("test_resnet", 32, trained.mean)
    assert repr(card) == (
        "Card('small: test_resnet at 32 px, trained on 3 tiles (eurosat, seed42/train)')"
    )


@pytest.mark.parametrize(
    ("name", "size", "config"),
    [
        ("vit", None, RunConfig(model="vit", epochs=3, mixup=0.2, channels_last=True)),
        ("test_resnet", 32, RunConfig(model="test_resnet", save_every=7)),
        ("test_resnet", 64, RunConfig(model="test_resnet", sizes=((0, 32), (6, 64)))),
    ],
)
def test_card_gives_the_command_of_its_recipe(name, size, config, tmp_path):
    """Typed again, the command asks for the same model and settings."""
    save_checkpoint(create_model(name, image_size=size), config, tmp_path / "a")
    program, *words = read_card(tmp_path / "a").command().split()
    options = make_parser().parse_args(words)
    asked = read_request(options)
    assert program == "lulc"
    assert RunConfig.from_dict(asked["config"]) == replace(config, save_every=200)
    assert asked["image_size"] == (None if config.sizes else size)
    assert asked["pretrained"] is False


def test_a_recipe_names_what_a_teacher_sees_where_there_is_one(tmp_path):
    """Without a teacher the setting means nothing and is not told."""
    alone = RunConfig(model="vit", mixup=0.2)
    taught = replace(alone, teacher="resnet50", distill=0.5, teacher_sees="view")
    small = create_model("vit", depth=1, embed_dim=48)
    for config, earlier, told in ((alone, (), False), (taught, (), True), (taught, (alone,), True)):
        save_checkpoint(small, config, tmp_path / "a", earlier=earlier)
        page = describe_cards(tmp_path)
        assert ("teacher sees view" in page) is told
        assert "teacher sees tile" not in page


def test_card_gives_the_commands_of_all_stages(tmp_path, monkeypatch):
    """A model trained in two runs has a line for each; the second starts from the first's."""
    monkeypatch.chdir(tmp_path)
    before = RunConfig(model="vit", epochs=3, mixup=0.2)
    after = replace(before, epochs=2, schedule="onecycle")
    save_checkpoint(create_model("vit"), after, tmp_path / "a", earlier=[before])
    card = read_card(tmp_path / "a")
    assert card.stages() == [before, after]
    assert card.run_config() == after
    first, second = card.command().splitlines()
    assert first.endswith("--name a-1")
    assert second.startswith("lulc train --model vit --start runs/a-1/a-1 ")
    save_checkpoint(create_model("vit"), before, tmp_path / "runs/a-1/a-1")
    for line, config in ((first, before), (second, after)):
        asked = read_request(make_parser().parse_args(line.split()[1:]))
        assert RunConfig.from_dict(asked["config"]) == config
    assert asked["start"] == str(tmp_path / "runs/a-1/a-1")
    assert "; then, from its best weights, epochs 2, schedule onecycle\n" in describe_cards(
        tmp_path
    )


@pytest.mark.parametrize(
    ("part", "asked"), [("spatial/train", "--split spatial"), ("all", ""), ("seed42/train", "")]
)
def test_command_names_the_split(part, asked, tmp_path):
    """A model of another split asks for it; one of all tiles asks for none that is not there."""
    save_checkpoint(create_model("vit"), RunConfig(model="vit"), tmp_path / "a")
    card = replace(read_card(tmp_path / "a"), data={"part": part})
    assert re.findall(r"--split \S+", card.command()) == ([asked] if asked else [])


def test_no_command_where_none_can_say_it(tmp_path):
    """A model made with arguments of its own, or without settings, has no such command."""
    own = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    save_checkpoint(own, RunConfig(model="vit"), tmp_path / "own")
    save_checkpoint(create_model("test_vit", image_size=64), None, tmp_path / "bare")
    assert read_card(tmp_path / "own").command() == ""
    assert read_card(tmp_path / "bare").command() == ""


def test_card_keeps_the_report(trained, tmp_path):
    """Figures come with their intervals, undefined ones as null; the summary names them."""
    report = report_on()
    save_checkpoint(trained, CONFIG, tmp_path / "scored", report=report)
    card = read_card(tmp_path / "scored")
    assert card.metrics == report.to_dict()
    assert card.metrics["macro_f1"]["low"] < report.macro_f1 < card.metrics["macro_f1"]["high"]
    assert card.metrics["per_class"]["SeaLake"]["ap"] is None
    assert f"macro-F1 {report.macro_f1}" in card.summary()


def test_training_names_are_small():
    """The 16,200 names of a random split take less than a quarter of their text in the card."""
    everything = [f"{name}/{name}_{i}.jpg" for name in CLASSES for i in range(1, 2701)]
    names = tuple(np.random.default_rng(0).permutation(everything)[:16_200].tolist())
    packed = cards.pack_names(names)
    assert cards.unpack_names(packed) == tuple(sorted(names))
    assert len(packed) * 4 < len("\n".join(names))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has format 99, this library reads 2"),
        ({"classes": ["Cat", "Dog"]}, "speaks of other classes.*Cat.*AnnualCrop"),
        ({"classes": list(CLASSES[::-1])}, "speaks of other classes"),
        ({"model": "resnet50"}, "model in the card .* must be dict, got 'resnet50'"),
        ({"weights_sha256": 5}, "weights_sha256 in the card .* must be str, got 5"),
        ({"seconds": "long"}, "seconds in the card .* got 'long'"),
        ({"data": {"source": "eurosat"}}, "must name source, digest, part and count"),
        ({"training_names": "%%%"}, "training_names cannot be read"),
        ({"training_names": ""}, "speaks of 3 training tiles and names 0"),
        ({"model": {}}, "wrapped module"),
        ({"model": {"architecture": "test_resnet"}}, "cannot be built.*lacks arguments"),
    ],
)
def test_malformed_cards_are_named(saved, changes, message):
    """Each field that a card gets wrong is named with what was met."""
    change_card(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[]", "must hold an object, got list"),
        ('{"format": 2, "name": "x"}', "lacks model, classes, weights_sha256"),
        (b"\xff\xfe", "cannot be read as JSON"),
        ("[" * 10**5, "nested more than"),
        ('{"format": 2, "seconds": ' + "9" * 5000 + "}", "number of 5,000 digits"),
    ],
)
def test_cards_that_are_no_cards_are_named(saved, text, message):
    """Broken JSON and other JSON are told apart."""
    Path(f"{saved}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_training_names_cannot_swell_up(saved, monkeypatch):
    """A small text that unpacks to an enormous one is cut off and refused."""
    monkeypatch.setattr(cards, "_MOST_NAMES", 1000)
    packed = cards.base64.b64encode(zlib.compress(b"x\n" * 10**6)).decode()
    assert len(packed) < 10_000
    change_card(saved, training_names=packed)
    with pytest.raises(CheckpointError, match="speaks of 3 training tiles and names"):
        load_checkpoint(saved)


def test_a_change_by_hand_is_noticed(saved):
    """A deviation changed by hand loads no more, until somebody says that it was on purpose."""
    card = Path(f"{saved}.json")
    good = card.read_text()
    for old, new in (('"std"', '"Std"'), ('"notes": ""', '"notes": "Weak."'), ("0.5", "0.6")):
        card.write_text(good.replace(old, new, 1))
        with pytest.raises(CheckpointError, match=r"small.json is not as it was written"):
            load_checkpoint(saved)
    card.write_text(json.dumps(json.loads(good), indent=7))  # the layout means nothing
    load_checkpoint(saved)


def test_cards_are_sealed_by_a_command(saved, capsys):
    """Notes changed by hand, and cards of format 1, are taken after `lulc cards --seal`."""
    card, folder = Path(f"{saved}.json"), saved.parent
    changed = json.loads(card.read_text()) | {"notes": "Weak."}
    first = {k: v for k, v in changed.items() if k != "card_sha256"} | {"format": 1}
    for values, message in (
        (changed, "is not as it was"),
        (first, "has format 1, without"),
    ):
        card.write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=rf"{message}.*lulc cards --seal {folder}"):
            read_card(saved)
        assert main(["cards", "--seal", str(folder)]) == 0
        assert f"sealed {card}" in capsys.readouterr().out
        assert read_card(saved).notes == "Weak."
    main(["cards", "--seal", str(folder)])
    assert "sealed /" not in capsys.readouterr().out
    card.write_text(json.dumps(changed | {"classes": ["Cat"]}))
    with pytest.raises(CheckpointError, match="other classes"):
        cards.seal_card(card)


def test_shipped_cards_are_sealed():
    """The checkpoints that we ship load."""
    names = cards.names_in(OWN_FOLDER)
    assert {"resnet50", "vit"} <= set(names)
    for name in names:
        assert cards.parse_card(OWN_FOLDER / f"{name}.json").format == 2


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "a\nb", "", "C:\\x", "x" * 300])
def test_names_stay_in_their_folder(saved, tmp_path, name):
    """A card that names a place elsewhere, or what cannot be printed, is refused."""
    change_card(saved, name=name)
    for act in (read_card, load_checkpoint):
        with pytest.raises(CheckpointError, match="name must be a file's name") as caught:
            act(saved)
        assert "\n" not in str(caught.value)
    if "/" not in name and name not in ("..", ""):
        with pytest.raises(CheckpointError, match="name must be a file's name"):
            save_checkpoint(create_model("test_vit", image_size=64), None, tmp_path / name)


def test_cards_hold_no_home_folder(tmp_path, monkeypatch):
    """Neither notes nor a teacher's path tell where somebody's files lie."""
    home = tmp_path / "anna"
    monkeypatch.setenv("HOME", str(home))
    config = RunConfig(model="test_vit", teacher=f"{home}/runs/big/big, vit", distill=0.5)
    notes = f"Made from {home}/data; beside {home}ette."
    model = create_model("test_vit", image_size=64)
    save_checkpoint(model, config, tmp_path / "a", notes=notes, earlier=[config])
    card = read_card(tmp_path / "a")
    assert card.notes == f"Made from ~/data; beside {home}ette."
    assert [stage.teacher for stage in card.stages()] == ["big, vit", "big, vit"]


def test_the_page_of_cards_holds_no_markup_of_others(saved):
    """Notes and names are words on the page, whatever they are written with."""
    notes = "<script>x</script> **bold** [link](http://x) `code`\n\n# head | cell a_b _c_"
    change_card(saved, notes=notes, hardware="<b>", name="a|b`c")
    page = describe_cards(saved.parent)
    assert (
        "- **Limits**: &lt;script&gt;x&lt;/script&gt; \\*\\*bold\\*\\* [link\\](http://x) "
        "\\`code\\` # head \\| cell a_b \\_c\\_\n"
    ) in page
    assert "&lt;b&gt;" in page
    assert "| `a/b'c` | not tested | 32 px |" in page
    change_card(saved, metrics={"n": 3})
    with pytest.raises(CheckpointError, match=r"small.* cannot be described: KeyError"):
        describe_cards(saved.parent)


class Tiny(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, stride=8)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean(dim=(2, 3)))


def test_describe_cards_tells_each_model(trained, tmp_path):
    """One section a model with figures, intervals, data, recipe, cost and limits; credit below."""
    report = report_on(seen=np.arange(100) < 2)
    save_checkpoint(trained, CONFIG, tmp_path / "b", report, HISTORY, notes="Small and weak.")
    save_checkpoint(create_model(Tiny()), None, tmp_path / "a")
    page = describe_cards(tmp_path)
    assert page.index("## a") < page.index("## b") < page.index("## For all")
    assert f"| {report.macro_f1} | {report.macro_auprc} | {report.accuracy} |" in page
    assert "| `b` | seed42/test | 32 px | " in page
    assert "3 tiles of eurosat, seed42/train" in page
    assert "100 tiles of eurosat, seed42/test (**2 of them training tiles**)" in page
    assert "learning rate 0.001" in page
    assert "mixup 0.2" in page
    assert "2 minutes, 2 CPU cores" in page
    assert "**Limits**: Small and weak." in page
    assert "| SeaLake | - | " in page
    assert "tiny (wrapped)" in page
    for credit in ("Helber", "10.1109/JSTARS.2019.2918242", "MIT", "Copernicus"):
        assert credit in page


def test_describe_cards_remarks_on_the_explanations(tmp_path):
    """Fillings, strong nulls, a better mean rank elsewhere and a null that leads are all said."""
    save_checkpoint(create_model(Tiny()), None, tmp_path / "a")
    figures = {
        ("gradcam", "deep"): (0.6, 0.3, 0.25),
        ("libragrad", "early"): (0.7, 0.4, 0.28),
        ("centre", None): (0.25, 0.09, 0.3),
        ("random", None): (0.25, 0.0, 0.0),
    }
    rows = [
        Row(*one, test, "blur" * (test != MOSAIC), value, value - 0.05, value + 0.05, 10, 0.1)
        for one, values in figures.items()
        for test, value in zip(CORE, values, strict=True)
    ]
    lead = f"{REMOVAL}, {CENTRE_LEAD}"
    for one, value in ((("gradcam", "deep"), -0.05), (("libragrad", "early"), -0.02)):
        rows.append(Row(*one, lead, "blur", value, value - 0.1, value + 0.1, 10, 0.1))
    best = Recommendation("gradcam", "deep", "report card: chosen on other tiles")
    report = ReportCard("a", "w", "drawn", "d", tuple(rows), best)
    report.save(tmp_path / "a.report.json")
    page = describe_cards(tmp_path)
    for words in (
        "What is removed is filled by blur in this table.",
        "In single deletion, where chance is 0, the null centre reaches 0.090.",
        "Here libragrad at early has the best mean rank",
        "On removal centre scores above the recommended gradcam; its paired lead over centre is "
        "-0.050 [-0.150, 0.050].",
    ):
        assert words in page
    plain = replace(report, rows=tuple(row for row in rows if row.method == "gradcam"))
    plain.save(tmp_path / "a.report.json")
    page = describe_cards(tmp_path)
    assert "the null" not in page
    assert "best mean rank;" not in page


def test_describe_cards_of_nothing(tmp_path):
    """An empty folder says so; a missing one is an error."""
    assert "no checkpoints here yet" in describe_cards(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of checkpoints"):
        describe_cards(tmp_path / "nowhere")


def test_figures_of_eight_views_are_told_apart(tmp_path):
    """The card keeps both reports, the page names both, and they cannot be swapped."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    tiles = synthetic(2, seed=3)
    one = evaluate(predict(model, tiles), resamples=5)
    eight = evaluate(predict(model, tiles, tta=True), resamples=5)
    save_checkpoint(model, None, tmp_path / "both", one, report_tta=eight)
    _, card = load_checkpoint(tmp_path / "both")
    assert card.metrics["macro_f1"]["value"] == one.macro_f1
    assert card.metrics_tta["macro_f1"]["value"] == eight.macro_f1
    assert "Averaged over eight flips and turns" in describe_cards(tmp_path)
    with pytest.raises(CheckpointError, match="swap report and report_tta"):
        save_checkpoint(model, None, tmp_path / "swapped", eight)
