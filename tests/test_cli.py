"""The command line: what it says, where it writes, and every way to get it wrong."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lulc_lib import hardware
from lulc_lib.checkpoints import load_checkpoint, save_checkpoint, save_predictions
from lulc_lib.cli import COMMANDS, common, doctor, main, train
from lulc_lib.cli.gallery import choose
from lulc_lib.config import RunConfig
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.eurosat import find_source
from lulc_lib.evidence import ReportCard
from lulc_lib.images import jpeg_bytes, open_picture, png_bytes
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions
from lulc_lib.splits import split

LULC = Path(sys.executable).with_name("lulc")
DRAWN = ("--drawn", "--tiles-per-class", "6")
TINY = ("train", "--model", "resnet10t", "--image-size", "64", *DRAWN, "--batch-size", "12")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints resnet50 and vit, tiny and untrained, that claim drawn tiles."""
    folder = tmp_path_factory.mktemp("checkpoints")
    train_part = split(synthetic(6, common.DRAWN_SEED), "seed42").train
    tiny_vit = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    for name, model in (
        ("resnet50", create_model("resnet10t", image_size=64)),
        ("vit", create_model("vit", **tiny_vit)),
    ):
        model.trained_on = train_part.provenance()
        save_checkpoint(model, RunConfig(model=name), folder / name)
    return folder


@pytest.fixture(autouse=True)
def _own_place(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, request: object
) -> None:
    """Work in an empty folder, with these checkpoints and without EuroSAT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LULC_CHECKPOINTS", str(checkpoints))
    monkeypatch.delenv("LULC_EUROSAT", raising=False)
    monkeypatch.delenv("LULC_DEBUG", raising=False)


@pytest.fixture
def lulc(capsys: pytest.CaptureFixture[str]):
    """Run a command in this process: words -> (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture larger than a tile."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg_bytes(pixels))
    return path


def start(*words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(word) for word in (LULC, *words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=None if sys.platform == "win32" else _answer_ctrl_c,
    )


def _answer_ctrl_c() -> None:
    """Let the child hear Ctrl-C also where the tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def last_line(text: str) -> str:
    lines = re.split(r"[\r\n]+", text.strip())
    return lines[-1] if lines else ""


# --- the command itself --------------------------------------------------------------------------


def test_help_names_every_command_and_loads_nothing_heavy():
    """`lulc --help` lists all commands, and neither it nor a command's help imports torch."""
    words = ["-X", "importtime", "-m", "lulc_lib"]
    for more in (["--help"], ["train", "--help"]):
        run = subprocess.run([sys.executable, *words, *more], capture_output=True, text=True)
        assert run.returncode == 0
        loaded = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines()}
        assert not loaded & {"torch", "numpy", "matplotlib", "timm", "PIL"}
        if more == ["--help"]:
            assert all(f"    {name} " in run.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_examples(name: str, lulc):
    """The help of a command says what it does, and shows examples that its own parser takes."""
    code, out, err = lulc(name, "--help")
    assert (code, err) == (0, "")
    examples = re.findall(rf"^  (?:LULC_\S+ )?lulc ({name}\b.*)$", out, flags=re.MULTILINE)
    assert examples
    from lulc_lib.cli import make_parser

    for example in examples:
        typed = re.split(r"\s{2,}", example)[0].split()
        assert make_parser().parse_args(typed).command == name


def test_help_of_train_names_every_setting(lulc):
    """Every field of RunConfig can be found in `lulc train --help`."""
    out = lulc("train", "--help")[1]
    assert all(f"{spec.name}=" in out for spec in dataclasses.fields(RunConfig))


def test_no_command_shows_the_help(lulc):
    """`lulc` alone greets a newcomer with the help; --version names the version."""
    code, out, _ = lulc()
    assert code == 0
    assert "first steps" in out
    assert lulc("--version")[1].startswith("lulc_lib 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute"], r"there is no command 'evalute'; did you mean 'evaluate'\?; there is demo"),
        (["train", "--epoch", "3"], r"there is no option --epoch; did you mean '--epochs'\?"),
        (["train", "--drawn", "--out", "runs/run"], "a run cannot be called 'run', since its"),
        (["demo", "now"], "do not know what to do with 'now'"),
        (["evaluate"], "arguments are required: NAME"),
        (["evaluate", "vit", "--part", "tset"], "--part: .*'tset'; did you mean 'test'"),
        (["gallery", "vit", "--n", "0"], "--n: must be a whole number of at least 1, got '0'"),
        (["train", "--lr", "fast"], "--lr: invalid float value: 'fast'"),
        (["train", "--drawn", "--data", "x"], "not allowed with"),
        (["train", "--set", "epohs=3"], "no field 'epohs'; did you mean 'epochs'"),
        (["train", "--set", "epochs"], "--set takes FIELD=VALUE, got 'epochs'"),
        (["train", "--set", "epochs=ten"], "--set epochs takes a whole number, got 'ten'"),
        (["train", "--set", "ema=x"], "--set ema takes a number, got 'x'"),
        (["train", "--set", "channels_last=maybe"], "takes true or false, got 'maybe'"),
        (["train", "--set", "sizes=64"], "takes pairs EPOCH:PIXELS"),
        (["train", "--set", "ema=0", "--set", "ema=0.9"], "--set names ema twice"),
        (["train", "--lr", "1", "--set", "learning_rate=2"], "say the same twice"),
        (["train", "--epochs", "0"], r"epochs must lie in \[1, 100000\], got 0"),
        (["train", "--lr", "nan"], "learning_rate must be finite and positive, got nan"),
        (["train", "--name", "a/b"], "'a/b' cannot name a run: it is a path"),
        (["train", "--name", "x.pt"], "a run cannot be called 'x.pt'"),
        (["train", "--resume"], "there is no run in .*resnet50: start one without --resume"),
        (["train", "--model", "resnt50", "--drawn"], "unknown model 'resnt50'; did you mean"),
        (["train", "--pretrained", "no.bin", "--drawn"], "there is no weights file .*no.bin"),
        (["train", "--data", "nowhere"], "--data names .*nowhere, which does not exist"),
        (["train", *DRAWN, "--split", "spatial", "--model", "resnet10t"], "needs load_eurosat"),
        (["compare", "vit", "vit"], "vit is named twice"),
        (["compare", "vit"], "arguments are required: B"),
        (["evaluate", "vt"], "there is no checkpoint 'vt' .*; there is resnet50, vit"),
        (["evaluate", "vit", "--data", "nowhere"], "--data names nowhere"),
        (["evaluate", "vit", *DRAWN, "--split", "seed43"], "unknown split 'seed43'; the splits"),
        (["evaluate", "vit", *DRAWN, "--split", "paper80", "--part", "val"], "has no part 'val'"),
        (["evaluate", "vit", *DRAWN, "--part", "train"], "was trained on 36 of these 36 tiles"),
        (["evaluate", "vit", *DRAWN, "--part", "all", "--split", "sed42"], "leave out --split"),
        (["explain", "vit", "none.jpg"], "there is no picture none.jpg"),
        (["explain", "vit", "photo.jpg", "--out", "."], r"\. is a folder; name a file in it"),
        (["explain", "vit", "photo.jpg", "--out", "new/"], "new/ is a folder"),
        (["explain", "vit", "photo.jpg", "--out", "a.jpg"], r"a.jpg must end in \.png"),
        (["explain", "vit", "photo.jpg", "--out", "photo.jpg/a.png"], "photo.jpg is a file"),
        (["explain", "vit", "photo.jpg", "--method", "gradcm"], "unknown method 'gradcm'; did"),
        (["explain", "vit", "photo.jpg", "--target", "Sea"], "unknown class 'Sea'; the classes"),
        (["explain", "vit", "photo.jpg", "--target", "10"], r"must lie in 0\.\.9, got 10"),
        (["explain", "vit", "photo.jpg", "--layer", "7"], r"layer must lie in -2\.\.3, got 7"),
        (["explain", "vit", "photo.jpg", "--fit", "squash"], "there is crop, resize"),
        (["gallery", "vit", "vit"], "vit is named twice"),
        (["gallery", "vit", "--method", "gradcam+"], r"unknown method 'gradcam\+'; did you mean"),
        (["gallery", "resnet50", "--method", "relevance"], "relevance needs one attention over"),
        (["gallery", "vit", "--out", "page.png"], r"page.png must end in \.html or \.htm"),
        (["live", "resnet50"], "the live page cannot run resnet10t: it is a ResNet"),
        (["live", "vit", "--out", "page.png"], r"page.png must end in \.html or \.htm"),
        (["live", "vit", "--n", "500"], "--n: must be a whole number of 1 to 400, got '500'"),
        (["cards", "nowhere"], "there is no folder of checkpoints .*nowhere"),
        (["demo", "--out", "photo.jpg"], "photo.jpg is a file, so .* cannot be a folder"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, lulc, picture: Path):
    """What is wrong is said in one line that names it, with exit code 2; nothing is written."""
    before = sorted(picture.parent.rglob("*"))
    code, out, err = lulc(*words)
    assert code == 2
    assert "Traceback" not in out + err
    line = last_line(err)
    assert line.startswith("lulc: error: ")
    assert re.search(message, line), line
    written = {p for p in picture.parent.rglob("*") if p not in before}
    assert not {p for p in written if "cache" not in str(p) and p.is_file()}


def test_debug_shows_where_an_error_comes_from(lulc, monkeypatch: pytest.MonkeyPatch):
    """LULC_DEBUG=1 lets the error through, with its traceback."""
    monkeypatch.setenv("LULC_DEBUG", "1")
    with pytest.raises(ValueError, match="epohs"):
        main(["train", "--set", "epohs=3"])


def test_unexpected_errors_are_told_from_the_users(lulc, monkeypatch: pytest.MonkeyPatch):
    """An error that nobody foresaw names its kind, the way to see more, and exits with 1."""

    def fail(options: object) -> None:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(doctor, "run", fail)
    code, _, err = lulc("doctor")
    assert code == 1
    assert err == (
        "lulc: error: RuntimeError: no kernel image is available "
        "(unexpected; LULC_DEBUG=1 shows where it comes from)\n"
    )


def test_ctrl_c_exits_with_130(lulc, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C ends any command with 130 and without a traceback."""

    def stop(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", stop)
    code, _, err = lulc("doctor")
    assert code == 130
    assert err.strip() == "lulc: stopped by Ctrl-C"


@pytest.mark.parametrize(
    "words",
    [("train", "--help"), pytest.param(("cards", "checkpoints"), marks=pytest.mark.slow)],
)
def test_broken_pipe_is_silent(words: tuple[str, ...], checkpoints: Path):
    """A reader that goes away (`lulc doctor | head -1`) is no error worth a word."""
    Path("checkpoints").symlink_to(checkpoints)
    process = start(*words)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == (141 if words[0] == "cards" else 0)  # argparse swallows it itself
    assert error == ""


# --- train, evaluate, explain, gallery, cards ----------------------------------------------------


@pytest.mark.training
def test_a_start_that_failed_leaves_the_runs_name_free(lulc):
    """What was never trained is no run; the line that comes next can be pasted as it is."""
    words = (*TINY, "--epochs", "1", "--name", "first try")
    code, _, err = lulc(*words, "--set", "accumulate=999")
    assert code == 2
    assert "999" in err
    code, out, _ = lulc(*words)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    assert shlex.split(line)[3] == "runs/first try/first try"


@pytest.mark.training
def test_train_scores_saves_and_resumes(lulc):
    """A run ends with test figures and a checkpoint whose card carries them; it is never lost."""
    code, out, _ = lulc(*TINY, "--epochs", "1", "--name", "first", "--set", "augment=none")
    assert code == 0
    assert "on 36 tiles: drawn tiles, seed42/train" in out
    assert "12 test tiles: drawn tiles, seed42/test" in out
    assert "next: lulc explain runs/first/first" in out
    model, card = load_checkpoint("runs/first/first")
    assert f"wrote {Path('runs/first/first.safetensors').absolute()}" in out
    assert card.config["augment"] == "none"
    assert card.metrics["n"] == 12
    assert len(model.trained_on.names) == 36
    value = card.metrics["macro_f1"]["value"]

    code, out, _ = lulc("evaluate", "runs/first/first", *DRAWN)
    assert code == 0
    assert f"macro-F1   {value:.3f} [" in out, "the stored weights give the figures of the card"

    code, _, err = lulc(*TINY, "--name", "first")
    assert code == 2
    assert "state.pt is there already: a run would be lost" in err
    code, _, err = lulc("train", "--name", "first", "--resume", "--lr", "0.5")
    assert code == 2
    assert "has learning_rate=0.001, not 0.5" in err
    again = ("train", *DRAWN, "--start", "runs/first/first", "--name", "second")
    assert lulc(*again, "--epochs", "1", "--set", "augment=flip")[0] == 0
    code, out, _ = lulc("compare", "runs/first/first", "runs/second/second", *DRAWN)
    assert code == 0
    assert "second less first on 12 tiles: drawn tiles, seed42/test" in out
    assert "McNemar's exact p = " in out
    second, longer = load_checkpoint("runs/second/second")
    assert [config.augment for config in longer.stages()] == ["none", "flip"]
    assert [row["epoch"] for row in longer.history["epochs"]] == [0, 1]
    assert second.trained_on == model.trained_on
    assert lulc("train", "--name", "second", "--resume", "--start", "runs/first/first")[0] == 0
    for more, fault in (
        (("--pretrained",), "--start and --pretrained exclude each other"),
        (("--image-size", "32"), "--start and --image-size exclude each other"),
        (("--model", "resnet50"), "holds a resnet10t, not a resnet50: leave out --model"),
    ):
        code, _, err = lulc(*again, *more)
        assert code == 2
        assert re.search(fault, err), err
    code, out, err = lulc(*again[:-1], "third", "--split", "paper80")  # has no validation tiles
    assert code == 2
    assert "of the 10 test tiles (paper80/test) are among those that the model to start with" in err
    assert not Path("runs/third/run.json").exists()
    code, _, err = lulc("train", *DRAWN, "--start", "nothing")
    assert code == 2
    assert "there is no checkpoint 'nothing'" in err

    Path("runs/first/first.json").unlink()
    assert lulc("train", "--name", "first", "--resume")[0] == 0
    assert load_checkpoint("runs/first/first")[1].metrics["macro_f1"]["value"] == value
    record = json.loads(Path("runs/first/run.json").read_text())
    del record["config"]["teacher_sees"]  # as earlier versions wrote it
    Path("runs/first/run.json").write_text(json.dumps(record))
    same = ("train", "--name", "first", "--resume", "--set", "teacher_sees=tile")
    Path("runs/first/first.json").unlink()
    assert lulc(*same)[0] == 0
    Path("runs/first/run.json").write_text("[]")
    code, _, err = lulc("train", "--name", "first", "--resume")
    assert code == 2
    assert "run.json does not describe a run" in err


@pytest.mark.training
def test_same_seed_gives_the_same_first_weights(lulc):
    """The seed also fixes the initial weights: two runs end alike, another seed does not."""
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert lulc(*TINY, "--epochs", "1", "--seed", seed, "--name", name)[0] == 0
        digests.append(json.loads(Path(f"runs/{name}/{name}.json").read_text())["weights_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_settings_reach_every_field():
    """Each field of RunConfig can be set as text, and comes back with its own type."""
    other = {
        "model": "vit", "epochs": 30, "batch_size": 8, "optimizer": "muon",
        "learning_rate": 0.5, "weight_decay": 2.0, "decay_everything": True, "schedule": "onecycle",
        "warmup_epochs": 1.5, "label_smoothing": 0.2, "mixup": 0.3, "cutmix": 1.0,
        "colour": 0.2, "erase": 0.25,
        "teacher": "resnet50", "distill": 0.5, "teacher_sees": "view",
        "augment": "flip", "shift": 4, "crop_scale": 0.5,
        "precision": "bfloat16", "channels_last": True, "ema": 0.9, "clip_norm": 1.0,
        "accumulate": 2, "sizes": ((0, 64), (8, 96)), "best_by": "macro_f1", "seed": 7,
        "save_every": 5, "tracker": "wandb",
    }  # fmt: skip
    assert set(other) == {spec.name for spec in dataclasses.fields(RunConfig)}
    pairs = [f"{key}={value}" for key, value in other.items() if key != "sizes"]
    values = train.read_settings([*pairs, "sizes=0:64,8:96"])
    assert RunConfig.from_dict(values) == RunConfig(**other)


def test_presets_are_those_of_the_library():
    """--preset seed is RunConfig.preset("seed") for the model named, other options on top."""
    from lulc_lib.cli import make_parser

    words = ["train", "--preset", "seed", "--model", "vit_base", "--epochs", "3", "--pretrained"]
    asked = train.read_request(make_parser().parse_args(words))
    assert RunConfig.from_dict(asked["config"]) == RunConfig.preset("seed", "vit_base", epochs=3)
    assert asked["pretrained"] is True


def test_missing_tracker_is_named_before_training(lulc, monkeypatch: pytest.MonkeyPatch):
    """A tracker that is not installed is an error that says how to get it, at once."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = lulc(*TINY, "--tracker", "tensorboard")
    assert code == 2
    assert "--tracker tensorboard needs the package tensorboard: pip install tensorboard" in err
    assert not Path("runs").exists()


def test_evaluate_flatters_only_when_told(lulc):
    """Training tiles are an error; with --allow-training-tiles they are counted in plain sight."""
    code, out, _ = lulc("evaluate", "vit", *DRAWN, "--part", "all", "--allow-training-tiles")
    assert code == 0
    assert "vit on 60 tiles: drawn tiles, all; float32" in out
    assert "WARNING: it was trained on 36 of them" in out
    rows = re.findall(r"^(\w+) +(\d\.\d{3} +){4}6$", out, flags=re.MULTILINE)
    assert len(rows) == 10


@pytest.mark.parametrize(
    ("fit", "fitted", "ground"),
    [
        ("crop", "centre 64x64 pixels of 200x90 cut out", "640 x 640 m on the ground"),
        ("resize", "centre 90x90 pixels of 200x90 shrunk to 64x64", "900 x 900 m on the ground"),
    ],
)
def test_explain_states_fit_and_ground(fit: str, fitted: str, ground: str, lulc, picture: Path):
    """Any picture is taken; how it was fitted and how much ground that is, is said."""
    code, out, _ = lulc("explain", "vit", picture, "--fit", fit)
    assert code == 0
    assert fitted in out
    assert ground in out
    assert "8x8 grid, 1 cell = " + ("80 m" if fit == "crop" else "112 m") in out
    written = Path(out.split("wrote")[1].strip())
    assert written == Path("outputs/photo_vit_gradcam.png").absolute()
    width, height = open_picture(written).size
    assert min(width, height) > 300


def test_explain_takes_target_layer_and_out(lulc, picture: Path):
    """Target and layer can be named or numbered; an existing file is replaced by the new one."""
    out_file = Path("maps/deep/map.png")
    out_file.parent.mkdir(parents=True)
    out_file.write_text("old")
    words = ("--target", "River", "--layer", "-1", "--method", "eigencam", "--out", out_file)
    code, out, _ = lulc("explain", "resnet50", picture, *words)
    assert code == 0
    assert "eigencam for River" in out
    assert "ClassBlind: eigencam does not look at the class" in out
    assert out_file.read_bytes().startswith(b"\x89PNG")
    assert list(out_file.parent.iterdir()) == [out_file]
    assert lulc("explain", "resnet50", picture, "--target", "8")[1].count("for River") == 1


def test_explain_takes_reflectances_and_odd_names(lulc, tmp_path: Path):
    """A name with a formula and a line end is drawn and printed; numbers need --scale."""
    own = tmp_path / "a $x_1$\nb.tif"
    Image.fromarray(np.full((64, 64), 3000, dtype=np.uint16)).save(own)
    code, _, err = lulc("explain", "vit", own)
    assert code == 2
    assert "holds numbers from 3000 to 3000" in err
    assert "--scale 10000" in err
    code, out, _ = lulc("explain", "vit", own, "--scale", "10000", "--out", "map.png")
    assert code == 0
    assert out.startswith(
        "a $x_1$\\nb.tif: taken as it is; numbers from 3000 to 3000 divided by 10000"
    )


def test_explain_never_overwrites_its_picture(lulc, tmp_path: Path):
    """The picture that is read is not replaced by the drawing, however it is spelt."""
    own = tmp_path / "own.png"
    own.write_bytes(png_bytes(np.zeros((64, 64, 3), dtype=np.uint8)))
    content = own.read_bytes()
    (tmp_path / "link.png").symlink_to(own)
    for spelling in ("own.png", f"../{tmp_path.name}/own.png", "link.png"):
        code, _, err = lulc("explain", "vit", own, "--out", spelling)
        assert code == 2
        assert "is what is read; name another file" in err
    assert own.read_bytes() == content


def test_gallery_is_one_page_that_stands_alone(lulc):
    """Two models and two methods go into one file without any address; its place is printed."""
    words = ("--method", "gradcam++", "--method", "layercam", "--n", "10", "--out", "new/page.html")
    code, out, _ = lulc("gallery", "resnet50", "vit", *DRAWN, *words)
    assert code == 0
    assert f"wrote {Path('new/page.html').absolute()}" in out
    page = Path("new/page.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    assert page.count("<article") == 10
    for column in ("resnet50 · gradcam++", "vit · layercam"):
        assert column in page


def test_live_is_one_page_that_stands_alone(lulc):
    """A ViT, another model's maps and tiles go into one file; its place and size are printed."""
    code, out, err = lulc("live", "vit", *DRAWN, "--n", "10", "--out", "new/live.html")
    assert code == 0, err
    assert f"wrote {Path('new/live.html').absolute()} (0." in out
    page = Path("new/live.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    data = json.loads(re.search(r'data-block="data">(.*?)</script>', page)[1])
    assert len(data["tiles"]["names"]) == 10
    assert data["beside"]["name"] == "resnet50"
    assert lulc("live", "vit", "--alone", *DRAWN, "--n", "3", "--out", "alone.html")[0] == 0
    assert '"beside":null' in Path("alone.html").read_text(encoding="utf-8")


def test_report_prints_figures_and_writes_the_card(lulc):
    """A quick report of two tests says what it found, and its card reads again."""
    tests = ("--test", "single deletion", "--test", "removal", "--n-tiles", "10")
    code, out, err = lulc(
        "report", "vit", *DRAWN, "--quick", "--method", "gradcam", *tests, "--out", "card.json"
    )
    assert code == 0, err
    assert "recommended: none, since the card lacks mosaic" in out
    card = ReportCard.from_json(Path("card.json"))
    assert {row.method for row in card.rows} == {
        "gradcam",
        "random",
        "centre",
        "edge",
        "blur",
        "cells",
    }
    assert out.count("[") >= 12


def test_report_says_when_it_takes_fewer_tiles_and_that_it_goes_on(lulc, monkeypatch):
    """Fewer tiles than asked for are said beforehand; after Ctrl-C the same command goes on."""

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lulc_lib.report_cards.report_card", stopped)
    code, out, err = lulc("report", "vit", *DRAWN, "--n-tiles", "11")
    assert code == 130
    assert re.search(r"single deletion and removal take \d+ tiles where 11 were asked for", out)
    assert "the same command goes on where it was" in out
    assert last_line(err) == "lulc: stopped by Ctrl-C"


def test_report_replaces_report_cards_alone(lulc, checkpoints: Path):
    """The description of a model, and any other JSON file, is left as it is."""
    for name in ("vit.json", "run.json"):
        other = Path(name)
        other.write_bytes((checkpoints / "vit.json").read_bytes())
        code, _, err = lulc("report", "vit", *DRAWN, "--quick", "--out", name)
        assert code == 2
        assert "is there and is no report card; name another file" in last_line(err)
        assert other.read_bytes() == (checkpoints / "vit.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "gradcamm"), "unknown method 'gradcamm'"),
        (("--test", "mosaics"), "there is no test 'mosaics'"),
        (("--out", "card.txt"), "must end in .json"),
        (("--n-choosing", "8"), "--n-choosing counts validation tiles"),
    ],
)
def test_report_refuses_what_there_is_not(words, message, lulc):
    """Unknown methods, tests and endings are one line, before any work."""
    code, _, err = lulc("report", "vit", *DRAWN, "--quick", *words)
    assert code == 2
    assert message in last_line(err)


def test_a_card_of_other_tiles_does_not_replace_the_shipped_one(
    lulc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only a whole card of the model's own kind of test tiles may stand beside its weights."""
    from lulc_lib import report_cards

    sizes = report_cards.Sizes(4, 4, few=2, curves=2, steps=1, fillings=("mean",))
    monkeypatch.setattr(report_cards, "FULL", sizes)
    monkeypatch.setattr(report_cards, "_all_candidates",
                        lambda model: [report_cards.Candidate("gradcam")])  # fmt: skip
    own = tmp_path / "vit"
    for ending in (".safetensors", ".json", ".report.json"):
        shutil.copy(Path(__file__).parents[1] / "checkpoints" / f"vit{ending}", f"{own}{ending}")
    before = {path: path.read_bytes() for path in tmp_path.glob("vit.*")}
    for words in ((), ("--part", "val"), ("--n-choosing", "8")):
        code, out, err = lulc("report", own, *DRAWN, *words)
        assert code == 0, err
        assert "not kept: it is no whole card" in out
        assert {path: path.read_bytes() for path in tmp_path.glob("vit.*")} == before
    code, _, err = lulc("report", own, *DRAWN, "--quick", "--out", f"{own}.json")
    assert code == 2
    assert "is what is read; name another file" in last_line(err)
    code, out, err = lulc("report", own, *DRAWN, "--out", "other.json")
    assert code == 0, err
    assert Path("other.json").is_file()


def test_cards_page_is_written_but_replaces_nothing_else(lulc, tmp_path: Path, checkpoints: Path):
    """`lulc cards` writes README.md beside the cards, again and again, but no README of others."""
    for file in checkpoints.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert lulc("cards", ".")[0] == 0
    page = Path("README.md").read_text()
    assert "## resnet50" in page
    assert lulc("cards", ".")[0] == 0
    Path("README.md").write_text("My notes")
    code, _, err = lulc("cards", ".")
    assert code == 2
    assert "is not a page of model cards and would be lost" in err
    assert Path("README.md").read_text() == "My notes"


# --- choosing tiles ------------------------------------------------------------------------------


def make_predictions(labels: np.ndarray, wrong: np.ndarray) -> Predictions:
    predicted = np.where(wrong, (labels + 1) % 10, labels)
    names = tuple(f"tile {i}" for i in range(len(labels)))
    return Predictions(np.eye(10, dtype=np.float32)[predicted] * 5, labels, names)


def test_choice_is_balanced_with_half_mistakes():
    """As many tiles of each class; half of them mistakes where there are so many."""
    labels = np.repeat(np.arange(10), 12)
    wrong = np.tile(np.arange(12) < 3, 10)
    wrong[labels == 4] = False
    chosen = choose([make_predictions(labels, wrong)], 40)
    assert np.bincount(labels[chosen]).tolist() == [4] * 10
    assert np.bincount(labels[chosen], wrong[chosen]).tolist() == [2] * 4 + [0] + [2] * 5
    assert len(set(chosen.tolist())) == 40
    again = choose([make_predictions(labels, wrong)], 40)
    assert chosen.tolist() == again.tolist()
    assert chosen.tolist() != choose([make_predictions(labels, wrong)], 40, seed=1).tolist()


def test_choice_of_mistakes_counts_those_of_any_model():
    """--wrong takes tiles that at least one model gets wrong, and says so when there are none."""
    labels = np.repeat(np.arange(10), 3)
    none = np.zeros(30, dtype=bool)
    first, second = none.copy(), none.copy()
    first[2], second[7] = True, True
    both = [make_predictions(labels, first), make_predictions(labels, second)]
    assert choose(both, 40, only_wrong=True).tolist() == [2, 7]
    with pytest.raises(ValueError, match="all models are right on all 30 tiles"):
        choose([make_predictions(labels, none)], 40, only_wrong=True)
    assert len(choose(both, 99)) == 30, "never more than there are"


# --- doctor and demo -----------------------------------------------------------------------------


def test_doctor_finds_everything_that_is_needed(lulc):
    """The report covers versions, device, data, checkpoints, memory, disk; all is well: exit 0."""
    code, out, err = lulc("doctor")
    assert (code, err) == (0, "")
    for word in ("versions", "device", "data", "checkpoints", "memory and disk"):
        assert f"\n{word}\n" in out
    assert re.search(r"torch \d", out)
    here = hardware.processor()
    assert f"processor {here.kind}: {here.meaning}" in " ".join(out.split())
    assert "resnet50: resnet10t at 64 px, trained on 36 tiles (drawn tiles" in out
    assert re.search(r"ok +disk for cache: [\d.]+ GiB free", out)
    assert out.endswith("all that is needed is here\n")


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16", "avx2"])
@pytest.mark.parametrize("gpu", [None, True, False])
def test_doctor_names_the_kind_of_processor(
    flag: str, gpu: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Each kind is named with what it means, and a GPU with whether it has bfloat16."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flag}\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    kind = hardware.FLAGS[flag]
    text = " ".join(doctor._wrapped(finding) for finding in doctor.device())
    text = " ".join(text.split())
    assert f"{'ok' if kind.fast_bfloat16 else 'note'} processor {kind.kind}:" in text
    assert kind.meaning in text
    said = {None: "no GPU", True: "GPU has bfloat16: use", False: "GPU has no bfloat16: do not use"}
    assert [words in text for words in said.values()] == [gpu is value for value in said]


def test_doctor_says_what_each_missing_thing_prevents(
    lulc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoints: Path
):
    """Missing packages, data and checkpoints, and broken ones, are named with their consequence."""
    for name in ("vit.json", "vit.safetensors"):
        (tmp_path / name).write_bytes((checkpoints / name).read_bytes())
    with (tmp_path / "vit.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"torn")
    monkeypatch.setenv("LULC_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("LULC_EUROSAT", str(tmp_path / "gone"))
    monkeypatch.setitem(doctor.NEEDED, "no-such-package", "everything")
    monkeypatch.setitem(doctor.OPTIONAL, "no-such-extra", ("the notebooks", "notebooks"))
    monkeypatch.setattr(doctor, "MEMORY_WISHED", 2**60)
    monkeypatch.setattr(doctor, "DISK_WISHED", 2**60)
    code, out, _ = lulc("doctor")
    text = " ".join(out.split())
    assert code == 1
    assert "BAD no-such-package is missing, which prevents everything" in text
    assert "note no-such-extra is missing, which prevents the notebooks: `pip install" in text
    assert "BAD EuroSAT cannot be read: LULC_EUROSAT names" in text
    assert "BAD the card does not fit its weights" in text
    assert "training and `lulc evaluate --part all` may be killed" in text
    assert "decoding EuroSAT or saving runs may fail" in text
    assert "3 of these must be mended" in text


def test_doctor_goes_on_where_a_module_cannot_be_imported(lulc, monkeypatch: pytest.MonkeyPatch):
    """Whatever an import raises is named, as a mismatch with torch would; the rest follows."""

    class Mismatch:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "lulc_lib.checkpoints":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "lulc_lib.checkpoints")
    monkeypatch.setattr(sys, "meta_path", [Mismatch(), *sys.meta_path])
    code, out, _ = lulc("doctor")
    assert code == 1
    assert "BAD   checkpoints cannot be looked up: operator torchvision::nms" in out
    assert "\nmemory and disk\n" in out
    assert "must be mended" in out


def test_demo_takes_shipped_models_of_these_tiles(lulc):
    """Checkpoints whose card names the tiles' data set are taken as they are, with one table."""
    code, out, _ = lulc("demo", *DRAWN)
    assert code == 0
    assert "DRAWN TILES" in out
    assert "as asked by --drawn" in out
    assert out.count("shipped ") == 2
    assert "trained instead" not in out
    row = r"^{} +\d\.\d{{3}} \[.*\] +\d\.\d{{3}} \[.*\] +\d\.\d{{3}} \[.*\] +\d+\.\d$"
    for name in ("resnet50", "vit"):
        assert re.search(row.format(name), out, flags=re.MULTILINE)
    written = {"picture": "gallery.png", "page": "gallery.html", "live": "live.html"}
    for kind, file in written.items():
        path = Path("outputs/demo", file).absolute()
        assert re.search(rf"{kind} +{re.escape(str(path))}", out)
        assert path.stat().st_size > 10_000
    assert out.rstrip().splitlines()[-1].startswith("next: make lab")


@pytest.fixture
def with_predictions(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoints in a folder of their own, with predictions of the test tiles beside them."""
    folder = tmp_path / "with predictions"
    folder.mkdir()
    test = split(synthetic(6, common.DRAWN_SEED), "seed42").test
    for file in checkpoints.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("resnet50", "vit"):
        save_predictions(load_checkpoint(folder / name)[0], test)
    monkeypatch.setenv("LULC_CHECKPOINTS", str(folder))
    return folder


def test_demo_shows_the_kept_predictions_after_a_check(lulc, with_predictions: Path):
    """The models predict a sample, which is said; files that agree are shown, others are not."""
    agree = (
        "12 of 12 test tiles predicted now: their logits agree with {0}.predictions.npz to 0.001"
    )
    code, out, _ = lulc("demo", *DRAWN)
    assert code == 0
    for name in ("resnet50", "vit"):
        assert f"{name}: {agree.format(name)}; the table is from that file" in out
    file = with_predictions / "vit.predictions.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    facts = json.loads(str(arrays["facts"]))
    facts.pop("arrays")  # the digest, which files of earlier versions lack
    arrays |= {"logits": arrays["logits"][:, ::-1], "facts": np.array(json.dumps(facts))}
    np.savez(file, **arrays)
    code, told, _ = lulc("demo", *DRAWN)
    assert code == 0
    assert f"resnet50: {agree.format('resnet50')}" in told
    assert re.search(r"vit: 12 of 12 .* THEIR LOGITS DIFFER from vit\.predictions\.npz by", told)
    assert "The file is not believed, and all test tiles are predicted now" in told
    rows = [
        [line.split()[:10] for line in text.splitlines() if re.match(r"(resnet50|vit) +\d", line)]
        for text in (out, told)
    ]
    assert rows[0] == rows[1], "the table is the models' own both times"


def test_evaluate_says_where_its_predictions_are_from(lulc, with_predictions: Path):
    """Read from the file, it says so; --fresh, or other tiles, run the model."""
    kept = "predictions read from vit.predictions.npz (--fresh predicts now)"
    out = lulc("evaluate", "vit", *DRAWN)[1]
    assert kept in out
    for more in (["--fresh"], ["--part", "val"], ["--tta"]):
        fresh = lulc("evaluate", "vit", *DRAWN, *more)[1]
        assert kept not in fresh
        assert re.search(r", \d+\.\d s$", fresh, flags=re.MULTILINE)
        if more == ["--fresh"]:
            assert out.partition("figure")[2] == fresh.partition("figure")[2]


def test_gallery_says_where_its_predictions_are_from(lulc, with_predictions: Path):
    """What was read from the file is not claimed to have been predicted."""
    out = lulc("gallery", "vit", *DRAWN, "--n", "2", "--method", "edge", "--out", "a.html")[1]
    assert "vit: its predictions were read from vit.predictions.npz" in out


def test_demo_with_a_wrong_place_is_an_error(lulc, monkeypatch: pytest.MonkeyPatch):
    """A place that was named and does not exist is an error, never a silent fallback."""
    monkeypatch.setenv("LULC_EUROSAT", "/nowhere/eurosat")
    code, out, err = lulc("demo")
    assert code == 2
    assert "LULC_EUROSAT names /nowhere/eurosat, which does not exist" in err
    assert "DRAWN" not in out


@pytest.mark.training
@pytest.mark.slow
def test_demo_without_data_and_network(tmp_path: Path):
    """Without EuroSAT and with a dead network, small models are trained on drawn tiles."""
    if find_source() is not None:
        pytest.skip("EuroSAT lies in data/ here")
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    dead |= {"LULC_CHECKPOINTS": str(tmp_path), "LULC_CACHE": str(tmp_path / "cache")}
    dead |= {"HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": ""}
    process = start("demo", "--tiles-per-class", "6", "--epochs", "1", **dead)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "NO EUROSAT HERE: these are DRAWN TILES" in out
    assert "127.0.0.1:9" in out, "the reason is told"
    assert out.count("is trained instead") == 2
    assert "step" in err, "a progress bar was shown"
    assert Path("outputs/demo/gallery.png").read_bytes().startswith(b"\x89PNG")
    assert "the figures above say nothing about EuroSAT" in out


@pytest.mark.training
@pytest.mark.slow
def test_demo_takes_a_copy_in_data(tmp_path: Path):
    """A copy in data/ is found; it is said that these tiles are not the original ones."""
    if find_source() is not None:
        pytest.skip("EuroSAT lies in the checkout's data/ here")
    tiles = synthetic(6, seed=3)
    for name, image in zip(tiles.names, tiles.images.numpy(), strict=True):
        file = tmp_path / "data" / "2750" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg_bytes(image))
    process = start("demo", "--epochs", "1", LULC_CACHE=str(tmp_path / "cache"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "60 tiles of eurosat (modified)" in out
    assert "lulc: warning: not the original EuroSAT:" in err
    assert out.count("is trained instead") == 2, "the checkpoints belong to other tiles"


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_ctrl_c_during_training_can_be_resumed(lulc):
    """Ctrl-C ends a training with 130 and tells how to go on; --resume then ends it."""
    process = start(*TINY, "--epochs", "15", "--name", "long")
    state = Path("runs/long/state.pt")
    deadline = time.monotonic() + 240
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert f"lulc train --resume --out {state.parent.absolute()}" in out
    assert "Traceback" not in err
    assert not Path("runs/long/long.safetensors").exists()
    code, out, _ = lulc("train", "--resume", "--out", "runs/long")
    assert code == 0
    assert "of 15" in out
