"""Training is one loop whose every step can be checked, killed and repeated."""

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3
from torch import nn

from lulc_lib import training
from lulc_lib.checkpoints import save_checkpoint
from lulc_lib.config import RunConfig
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.files import FolderLockedError, lock_folder
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.splits import split
from lulc_lib.training import fit, learning_rate_at, make_optimizer

pytestmark = pytest.mark.training

TINY = {"depth": 1, "embed_dim": 24, "num_heads": 2}
PLAIN = RunConfig(
    model="vit",
    epochs=2,
    batch_size=12,
    learning_rate=1e-3,
    augment="none",
    label_smoothing=0.0,
    warmup_epochs=0.0,
)
FULL = replace(
    PLAIN, augment="d4", shift=3, mixup=0.3, label_smoothing=0.1, ema=0.9, clip_norm=1.0,
    warmup_epochs=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    """Sixty drawn tiles in three parts: 36, 12, 12."""
    return split(synthetic(6, seed=1), "seed42")


def tiny(seed=0, **arguments):
    torch.manual_seed(seed)
    return create_model("vit", **{**TINY, **arguments})


def same_weights(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def numbers(history):
    """History without clock readings."""
    clocks = {"seconds", "images_per_second"}
    return [{k: v for k, v in row.items() if k not in clocks} for row in history.epochs]


def test_one_step_equals_the_step_written_by_hand(parts):
    """One batch through `fit` changes the weights as AdamW by hand does, to float accuracy."""
    train = parts.train[:12]
    model, twin = tiny(), tiny()
    config = replace(PLAIN, epochs=1, schedule="constant")
    fit(model, train, None, config, progress=False)
    order = np.random.default_rng((config.seed, 0, 0)).permutation(12)
    twin.train()
    loss = F.cross_entropy(twin(train.float(torch.from_numpy(order))), train.labels[order])
    loss.backward()
    for name, p in twin.named_parameters():
        decay = config.weight_decay if p.ndim > 1 and "pos_embed" not in name else 0.0
        with torch.no_grad():  # the first step of Adam moves by the gradient's sign
            p.mul_(1 - config.learning_rate * decay)
            p.sub_(config.learning_rate * p.grad / (p.grad.abs() + 1e-8))
    for name, p in model.named_parameters():
        assert torch.allclose(p, dict(twin.named_parameters())[name], atol=2e-6), name


def test_same_seed_same_history_other_seed_other_history(parts):
    """A run repeats itself exactly, and the seed matters."""
    runs = []
    for seed in (42, 42, 7):
        model = tiny(drop_path_rate=0.2)
        history = fit(model, parts.train, parts.val, replace(FULL, seed=seed), progress=False)
        runs.append((model, numbers(history)))
    assert runs[0][1] == runs[1][1]
    assert same_weights(runs[0][0], runs[1][0])
    assert runs[0][1] != runs[2][1]


def test_a_thread_that_asks_the_model_changes_no_training(parts):
    """Each step trains in train mode, also while a panel predicts all the time."""
    config, runs = replace(PLAIN, model="test_resnet"), []
    for asked in (False, True):
        torch.manual_seed(0)
        model, ended, modes = create_model("test_resnet", image_size=32), threading.Event(), []

        def ask(model=model, ended=ended):
            while not ended.is_set():
                predict(model, parts.test[:4])

        def note(norm, _, modes=modes):
            if torch.is_grad_enabled():
                modes.append(norm.training)

        model.network.bn1.register_forward_pre_hook(note)
        thread = threading.Thread(target=ask)
        if asked:
            thread.start()
        try:
            history = fit(model, parts.train, parts.val, config, progress=False)
        finally:
            ended.set()
        if asked:
            thread.join(30)
        assert modes == [True] * 6
        assert not model.training
        runs.append((model, numbers(history)))
    assert runs[0][1] == runs[1][1]
    assert same_weights(runs[0][0], runs[1][0])


def test_fit_leaves_the_callers_random_state_alone(parts):
    """Training draws from generators of its own."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = tiny()
    torch.manual_seed(5)
    fit(model, parts.train, None, PLAIN, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_a_tiny_rate_leaves_the_weights(parts):
    """With a vanishing learning rate nothing is learnt: the limit of no training."""
    model, before = tiny(), tiny()
    config = replace(PLAIN, learning_rate=1e-30)
    fit(model, parts.train, parts.val, config, progress=False)
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-20)


def test_training_learns(parts):
    """Fifteen epochs lower the training loss; the model knows its tiles and is in eval mode."""
    model = tiny()
    config = replace(PLAIN, epochs=15, learning_rate=3e-3)
    history = fit(model, parts.train, parts.val, config, progress=False)
    assert history.epochs[-1]["train_loss"] < 0.7 * history.epochs[0]["train_loss"]
    assert not model.training
    assert model.trained_on.names == parts.train.names


def test_the_best_epoch_is_kept(parts):
    """The weights left in the model are those of the epoch the criterion chose."""
    model = tiny()
    config = replace(PLAIN, epochs=4, learning_rate=0.05, best_by="loss")
    history = fit(model, parts.train, parts.val, config, progress=False)
    losses = [row["val_loss"] for row in history.epochs]
    assert history.best_epoch == int(np.argmin(losses))
    now = training.validate(model, parts.val, "float32")
    assert now["val_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert history.best["val_loss"] == min(losses)


@pytest.mark.parametrize("favoured", [0, 1])  # last weights, average
def test_the_better_of_last_and_averaged_weights_is_kept(parts, monkeypatch, favoured):
    """Whichever validates better stays in the model, and the history says which."""
    real, calls = training.validate, []

    def judged(model, *rest):
        calls.append(1)
        found = real(model, *rest)
        return found | {"val_loss": found["val_loss"] + 10 * ((len(calls) - 1) % 2 != favoured)}

    monkeypatch.setattr(training, "validate", judged)
    model = tiny()
    history = fit(model, parts.train, parts.val, replace(PLAIN, ema=0.9), progress=False)
    assert {row["averaged"] for row in history.epochs} == {float(favoured)}
    now = real(model, parts.val, "float32")["val_loss"]
    assert now == pytest.approx(history.best["val_loss"], abs=1e-6)


def test_without_validation_the_last_epoch_is_kept(parts):
    """The published 80/20 split has no validation part: the last epoch stays."""
    history = fit(tiny(), parts.train, None, PLAIN, progress=False)
    assert history.best_epoch == 1
    assert math.isnan(history.epochs[0]["val_loss"])


def test_only_the_last_size_can_be_best(parts, monkeypatch):
    """With progressive resizing, an epoch at a smaller size is never the one that is kept."""
    real = training.validate

    def flattering(model, *rest):
        found = real(model, *rest)
        return found | {"val_loss": found["val_loss"] - 100 * (model.image_size == 32)}

    monkeypatch.setattr(training, "validate", flattering)
    torch.manual_seed(0)
    model = create_model("mobilenetv3_small_050", image_size=64)
    config = replace(PLAIN, model="mobilenetv3_small_050", sizes=((0, 32), (1, 64)))
    history = fit(model, parts.train, parts.val, config, progress=False)
    assert [row["size"] for row in history.epochs] == [32, 64]
    assert history.epochs[0]["val_loss"] < history.epochs[1]["val_loss"]
    assert history.best_epoch == 1
    assert model.image_size == 64


def test_accumulated_parts_equal_the_whole_batch(parts):
    """A batch worked through in three parts gives the step of the whole batch."""
    whole, in_parts = tiny(), tiny()
    fit(whole, parts.train, None, PLAIN, progress=False)
    fit(in_parts, parts.train, None, replace(PLAIN, accumulate=3), progress=False)
    for a, b in zip(whole.parameters(), in_parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_bfloat16_and_channels_last_train_the_same_task(parts):
    """Autocast and memory order change rounding, not the course of training."""
    plain = fit(tiny(), parts.train, parts.val, PLAIN, progress=False)
    config = replace(PLAIN, precision="bfloat16", channels_last=True)
    model = tiny()
    quick = fit(model, parts.train, parts.val, config, progress=False)
    assert quick.epochs[-1]["train_loss"] == pytest.approx(plain.epochs[-1]["train_loss"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert "forward" not in vars(model)  # accelerate's wrapper is gone


RUN = """
import sys, torch
import lulc_lib as lulc
from lulc_lib import training
folder, kill_at = sys.argv[1], int(sys.argv[2])
parts = lulc.split(lulc.synthetic(6, seed=1), "seed42")
torch.manual_seed(0); torch.set_num_threads(1)
model = lulc.create_model("vit", depth=1, embed_dim=24, num_heads=2, drop_path_rate=0.2)
config = lulc.RunConfig(model="vit", epochs=3, batch_size=12, mixup=0.3, ema=0.9, save_every=2)
taken = training.learning_rate_at
def counted(step, steps, config):
    if step == kill_at:
        print("ready", flush=True)
        import time; time.sleep(60)
    return taken(step, steps, config)
training.learning_rate_at = counted
history = lulc.fit(model, parts.train, parts.val, config, run_dir=folder, resume=True,
                   progress=False)
torch.save(model.state_dict(), folder + "/final.pt")
print([(r["epoch"], r["train_loss"], r["train_macro_f1"], r["val_loss"]) for r in history.epochs])
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    """SIGKILL in mid-epoch; the resumed run ends as an unbroken one, bit by bit."""

    def run(folder, kill_at):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder), str(kill_at)],
            stdout=subprocess.PIPE,
            text=True,
        )

    unbroken = run(tmp_path / "unbroken", -1)
    killed = run(tmp_path / "killed", 5)  # last saved before step 4, in mid-epoch
    assert killed.stdout.readline() == "ready\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert (tmp_path / "killed" / "state.pt").is_file()
    resumed = run(tmp_path / "killed", -1)
    expected, got = unbroken.communicate(timeout=300)[0], resumed.communicate(timeout=300)[0]
    assert unbroken.returncode == resumed.returncode == 0
    assert got == expected
    a, b = (
        torch.load(tmp_path / n / "final.pt", weights_only=True) for n in ("unbroken", "killed")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_ctrl_c_keeps_the_best_so_far(parts, monkeypatch):
    """An interrupt ends the run early; the best weights so far are in the model, and it says so."""
    model = tiny()
    taken = learning_rate_at

    def interrupt(step, steps, config):
        if step == 4:  # in the second epoch of three steps
            raise KeyboardInterrupt
        return taken(step, steps, config)

    monkeypatch.setattr(training, "learning_rate_at", interrupt)
    history = fit(model, parts.train, parts.val, PLAIN, progress=False)
    assert history.interrupted
    assert len(history.epochs) == 1
    now = training.validate(model, parts.val, "float32")
    assert now["val_loss"] == pytest.approx(history.best["val_loss"], abs=1e-6)


def test_resume_tells_two_halves_of_a_part_apart(parts, tmp_path):
    """As many tiles of the same part are not the same tiles."""
    config = replace(PLAIN, epochs=1)
    fit(tiny(), parts.train[:18], parts.val[:6], config, run_dir=tmp_path, progress=False)
    for train, val, which in (
        (parts.train[18:], parts.val[:6], "tiles"),
        (parts.train[:18], parts.val[6:], "validation tiles"),
    ):
        with pytest.raises(ValueError, match=f"other choice, labels or pixels of the {which}"):
            fit(tiny(), train, val, config, run_dir=tmp_path, resume=True, progress=False)


def test_resume_refuses_another_run(parts, tmp_path):
    """A state of other settings, other tiles or no state at all is an error that says so."""
    config = replace(PLAIN, epochs=1)
    fit(tiny(), parts.train, None, config, run_dir=tmp_path, progress=False)
    other = replace(config, learning_rate=0.002)
    with pytest.raises(ValueError, match=r"learning_rate=0\.001, not 0\.002"):
        fit(tiny(), parts.train, None, other, run_dir=tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match="other tiles"):
        fit(tiny(), parts.val, None, config, run_dir=tmp_path, resume=True, progress=False)
    for model, val, message in (
        (tiny(image_size=32), None, "other model settings .*vit at 64 px.* not vit at 32 px"),
        (tiny(mean=(0.5, 0.5, 0.5)), None, r"other model settings .*not vit.* mean \(0\.5, 0\.5"),
        (tiny(), parts.val, r"other validation tiles \(none, not .*val 12\)"),
    ):
        with pytest.raises(ValueError, match=f"belongs to a run with {message}"):
            fit(model, parts.train, val, config, run_dir=tmp_path, resume=True, progress=False)
    moved = replace(parts.train, labels=parts.train.labels.roll(1))
    greyed = replace(parts.train, images=parts.train.images.flip(1))
    for train in (moved, greyed):
        with pytest.raises(ValueError, match="with other choice, labels or pixels of the tiles"):
            fit(tiny(), train, None, config, run_dir=tmp_path, resume=True, progress=False)
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is not a saved state"):
        fit(tiny(), parts.train, None, config, run_dir=tmp_path, resume=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "state.pt"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": lambda p: p.train[:0]}, "train holds no tiles"),
        ({"train": lambda p: p.train[:1]}, "at least 2 tiles"),
        ({"val": lambda p: p.train[:5]}, "share tiles"),
        ({"val": lambda p: synthetic(7, seed=1)}, "share tiles"),  # another copy of the data
        ({"config": replace(PLAIN, accumulate=13)}, "accumulate"),
        ({"config": replace(PLAIN, tracker="tensorboard")}, "needs run_dir"),
        ({"config": replace(PLAIN, learning_rate=1e30)}, "training loss is|not finite|NaN"),
        ({"resume": True}, "needs run_dir"),
    ],
)
def test_errors_name_the_cause(parts, change, message):
    """Each misuse is named before, or as soon as, it does harm."""
    arguments = {"train": lambda p: p.train, "val": lambda p: p.val, "config": PLAIN} | change
    train, val = arguments.pop("train")(parts), arguments.pop("val")(parts)
    with pytest.raises(ValueError, match=message):
        fit(tiny(), train, val, progress=False, **arguments)
    with pytest.raises(TypeError, match="RunConfig"):
        fit(tiny(), parts.train, None, {"epochs": 1}, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": nn.Linear(3, 10)}, "made by create_model or .* got Linear; wrap a module"),
        ({"train": torch.zeros(2, 3, 64, 64)}, r"split\(data, 'seed42'\)\.train, got Tensor"),
        ({"train": split(synthetic(1), "seed42")}, "train must be a TileSet, .* got Split"),
        ({"train": None}, "train must be a TileSet, .* got NoneType"),
        ({"val": torch.zeros(2, 3, 64, 64)}, "val must be a TileSet, .*.val, got Tensor"),
    ],
)
def test_objects_of_another_kind_are_named(parts, change, message):
    """The error says what `fit` takes, and where it comes from."""
    given = {"model": tiny(), "train": parts.train, "val": parts.val} | change
    with pytest.raises(TypeError, match=message):
        fit(**given, config=PLAIN, progress=False)


class BrokenError(Exception):
    """Stands for any error: a full disk, memory that is used up, a tracker that raises."""


def break_at(monkeypatch, name, count):
    """Make one of the training's functions raise when it is called for the `count`-th time."""
    calls, taken = [], getattr(training, name)

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise BrokenError("no space left")
        return taken(*args, **kwargs)

    monkeypatch.setattr(training, name, counted)


@pytest.mark.parametrize(
    ("name", "count", "ended"),
    [
        ("learning_rate_at", 1, 0),  # before the first of three steps an epoch
        ("learning_rate_at", 3, 0),
        ("learning_rate_at", 5, 1),
        ("validate", 2, 1),
        ("seal", 1, 1),
        ("_ask_once", 1, 0),
    ],
)
def test_any_error_leaves_the_best_weights_or_the_old_ones(
    parts, monkeypatch, tmp_path, name, count, ended
):
    """Weights that learnt anything know their tiles; a failed first epoch leaves what was."""
    expected = tiny()
    config = replace(PLAIN, epochs=1 if ended else 2)
    if ended:  # the learning rate is constant, so that one epoch of two is one epoch of one
        fit(expected, parts.train, parts.val, replace(config, schedule="constant"), progress=False)
    model = tiny()
    break_at(monkeypatch, name, count)
    config = replace(PLAIN, schedule="constant")
    with pytest.raises(BrokenError):
        fit(model, parts.train, parts.val, config, run_dir=tmp_path, progress=False)
    assert same_weights(model, expected)
    assert model.trained_on == (parts.train.provenance() if ended else None)
    assert "forward" not in vars(model)
    assert all(p.grad is None for p in model.parameters())
    monkeypatch.undo()
    with lock_folder(tmp_path):  # is free again
        pass


def test_a_failed_second_training_keeps_what_the_model_was(parts, monkeypatch):
    """Weights, tiles, card and size are as before where no epoch of the new run ended."""
    torch.manual_seed(0)
    model = create_model("mobilenetv3_small_050", image_size=64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.trained_on, model.card = parts.test.provenance(), "its card"
    config = replace(PLAIN, model="mobilenetv3_small_050", sizes=((0, 32), (1, 64)))
    break_at(monkeypatch, "learning_rate_at", 2)
    with pytest.raises(BrokenError):
        fit(model, parts.train, parts.val, config, progress=False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (model.trained_on, model.card) == (parts.test.provenance(), "its card")
    assert model.image_size == 64


def test_weights_that_diverge_are_never_kept(parts):
    """A loss is computed before its step: an epoch that ends in NaN weights cannot be the best."""
    model, before = tiny(), tiny()
    config = replace(PLAIN, epochs=1, batch_size=36, learning_rate=1e38)
    with pytest.raises(ValueError, match=r"is NaN or infinite after this epoch; lower"):
        fit(model, parts.train, None, config, progress=False)
    assert same_weights(model, before)
    assert model.trained_on is None


class Odd(nn.Module):
    """Returns what `answer` makes of its logits when it trains, and the logits otherwise."""

    def __init__(self, answer):
        super().__init__()
        self.head, self.answer = nn.Linear(3, 10), answer

    def forward(self, images):
        logits = self.head(images.mean((2, 3)))
        return self.answer(logits) if self.training else logits


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: (logits, logits), "returned a tuple"),
        (lambda logits: {"out": logits}, "returned a dict"),
        (lambda logits: logits[:, :4], r"returned a tensor of shape \(12, 4\)"),
    ],
)
def test_outputs_that_are_no_logits_are_named_before_the_first_step(parts, answer, message):
    """A module that answers otherwise when it trains is named, and its weights stay."""
    model = create_model(Odd(answer))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        fit(model, parts.train, None, PLAIN, progress=False)
    for parameter, kept in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)


def test_what_cannot_be_trained_is_named(parts):
    """Frozen, half-precision and inference-mode weights are told apart."""
    frozen, half = tiny().requires_grad_(False), tiny().half()
    with torch.inference_mode():
        made = tiny()
    for model, message in (
        (frozen, "nothing to train: none of its parameters requires a gradient"),
        (half, r"is torch\.float16, and fit trains float32"),
        (made, r"was made in torch\.inference_mode"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, parts.train, None, PLAIN, progress=False)


def test_training_needs_no_switch(parts):
    """Gradients switched off by the caller, or his inference mode, change nothing."""
    expected = tiny()
    fit(expected, parts.train, parts.val, PLAIN, progress=False)
    for mode in (torch.no_grad(), torch.inference_mode()):
        model = tiny()
        with mode:
            fit(model, parts.train, parts.val, PLAIN, progress=False)
        assert same_weights(model, expected)


def test_a_flipped_bit_in_the_state_is_noticed(parts, tmp_path):
    """Any byte of `state.pt`: the error names the file, and the model stays as it was."""
    config, file = replace(PLAIN, epochs=1), tmp_path / "state.pt"
    fit(tiny(), parts.train, None, config, run_dir=tmp_path, progress=False)
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(good), 40):
        bad = bytearray(good)
        bad[position] ^= 1 << rng.integers(8)
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"state\.pt is not a saved state of a run") as caught:
            training._read_state(file)
        assert "\n" not in str(caught.value)
    model, before = tiny(7), tiny(7)
    with pytest.raises(ValueError, match=r"state\.pt is not a saved state of a run"):
        fit(model, parts.train, None, config, run_dir=tmp_path, resume=True, progress=False)
    assert same_weights(model, before)
    assert model.trained_on is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("best"), "best is missing"),
        (lambda c: c.update(config=c["config"].replace('"seed": 42', '"seed": -1')), "seed must"),
        (lambda c: c["model"].pop("network.pos_embed"), "does not fit vit.*pos_embed"),
        (lambda c: c["optimizer"]["param_groups"].pop(), "does not fit vit"),
        (lambda c: c["counters"].update(rate=1), "counters is missing or of another type"),
    ],
)
def test_a_state_of_other_code_changes_nothing(parts, tmp_path, change, message):
    """A whole state whose parts do not fit is refused, and the model stays as it was."""
    config, file = replace(PLAIN, epochs=1), tmp_path / "state.pt"
    fit(tiny(), parts.train, None, config, run_dir=tmp_path, progress=False)
    with training.open_checked(file) as opened:
        contents = torch.load(opened, weights_only=True)
    change(contents)
    torch.save(contents, file)
    training.seal(file)
    model, before = tiny(7), tiny(7)
    with pytest.raises(ValueError, match=message):
        fit(model, parts.train, None, config, run_dir=tmp_path, resume=True, progress=False)
    assert same_weights(model, before)


def test_a_history_names_what_trained_and_not_what_looked_at_it_later(parts, tmp_path):
    """A run that goes on with other threads names both; one that had ended stays as it was."""
    config, ends = replace(PLAIN, epochs=2), []
    before = torch.get_num_threads()

    def stop(*_):
        raise KeyboardInterrupt

    try:
        for threads, epochs in ((1, 1), (2, 2), (1, 2), (3, 2)):
            torch.set_num_threads(threads)
            with pytest.MonkeyPatch.context() as patch:
                if epochs == 1:  # stopped in the first epoch, after its first state
                    patch.setattr(training._State, "end_epoch", stop)
                history = fit(
                    tiny(), parts.train, None, replace(config, save_every=1), run_dir=tmp_path,
                    resume=True, progress=False,
                )  # fmt: skip
            ends.append(history.hardware)
    finally:
        torch.set_num_threads(before)
    assert ends[0].endswith(", 1 threads")
    assert ends[1] == f"{ends[0]}; {ends[0].replace(', 1 threads', ', 2 threads')}"
    assert ends[2] == ends[3] == ends[1]


def test_a_state_of_an_earlier_version_resumes(parts, tmp_path):
    """It named the training tiles, and neither the validation tiles nor the model."""
    config, file = replace(PLAIN, epochs=1), tmp_path / "state.pt"
    expected = tiny()
    fit(expected, parts.train, parts.val, config, run_dir=tmp_path, progress=False)
    with training.open_checked(file) as opened:
        contents = torch.load(opened, weights_only=True)
    del contents["validation tiles"], contents["model settings"], contents["counters"]["hardware"]
    torch.save(contents, file)
    training.seal(file)
    model = tiny(7)
    fit(model, parts.train, parts.val, config, run_dir=tmp_path, resume=True, progress=False)
    assert same_weights(model, expected)


def test_a_run_folder_has_one_training_and_is_tried_first(parts, tmp_path, monkeypatch):
    """A second training in a folder is refused; one that cannot be written costs no epoch."""
    with lock_folder(tmp_path / "run"), pytest.raises(FolderLockedError, match="is in use"):
        fit(tiny(), parts.train, None, PLAIN, run_dir=tmp_path / "run", progress=False)
    (tmp_path / "file").touch()
    steps = []
    monkeypatch.setattr(training, "learning_rate_at", lambda *a: steps.append(a))
    with pytest.raises(OSError, match=r"run folder .*file cannot be written \(.*give another"):
        fit(tiny(), parts.train, None, PLAIN, run_dir=tmp_path / "file", progress=False)
    assert steps == []


def test_tensorboard_curves_are_written(parts, tmp_path):
    """With a tracker, an events file appears in the run's folder."""
    config = replace(PLAIN, epochs=1, tracker="tensorboard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")
        fit(tiny(), parts.train, parts.val, config, run_dir=tmp_path, progress=False)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_progress_bar_tells_loss_f1_speed_and_time(parts, capsys):
    """The bar names the epoch, the loss, the F1, the rate and the time left."""
    fit(tiny(), parts.train, parts.val, PLAIN, progress=True)
    shown = capsys.readouterr().err
    for words in ("epoch 2/2", "loss", "F1", "images/s", "<"):
        assert words in shown


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1]), ("cosine", [0.5, 1, 0.75, 0.25])],
)
def test_schedules_by_hand(schedule, expected):
    """Warm-up rises in a line; then the rate stays, or follows half a cosine to zero."""
    config = replace(PLAIN, epochs=4, learning_rate=1.0, schedule=schedule, warmup_epochs=1.0)
    got = [learning_rate_at(step, 1, config) for step in range(4)]
    assert got == pytest.approx(expected, abs=1e-9)


def test_onecycle_peaks_after_three_tenths():
    """The rate rises for 30 % of the steps and ends near zero."""
    config = replace(PLAIN, epochs=10, learning_rate=1.0, schedule="onecycle")
    rates = [learning_rate_at(step, 10, config) for step in range(100)]
    assert int(np.argmax(rates)) == 30
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.001


def test_second_run_still_knows_the_tiles_of_the_first(parts):
    """A model trained again knows both runs' tiles, and cannot choose an epoch by any of them."""
    model = tiny()
    once = replace(PLAIN, epochs=1)
    fit(model, parts.train, None, once, progress=False)
    fit(model, parts.val, None, once, progress=False)
    assert set(model.trained_on.names) == {*parts.train.names, *parts.val.names}
    assert model.trained_on.part == "seed42/train and seed42/val"
    with pytest.raises(ValueError, match="val holds 12 tiles that this model was trained on"):
        fit(model, parts.test, parts.val, once, progress=False)


def test_norms_biases_and_positions_do_not_decay():
    """AdamW's decay reaches weight matrices alone, unless everything is asked for."""
    model = tiny()
    spared, decayed = make_optimizer(model, PLAIN).param_groups
    assert spared["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in decayed["params"])
    names = {id(p): n for n, p in model.named_parameters()}
    assert "network.pos_embed" in {names[id(p)] for p in spared["params"]}
    (everything,) = make_optimizer(model, replace(PLAIN, decay_everything=True)).param_groups
    assert len(everything["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("swin_tiny_patch4_window7_224", "relative_position_bias_table"),
        ("mixer_s16_224", None),  # its "mlp_tokens" are plain matrices
    ],
)
def test_each_network_says_which_of_its_matrices_do_not_decay(name, spared):
    """The lists of timm's networks count, where names alone would err."""
    model = create_model(name)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = make_optimizer(model, replace(PLAIN, model=name)).param_groups
    kept = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    matrices = {names[id(p)].rsplit(".")[-1] for p in kept if p.ndim >= 2}
    assert matrices == ({spared} if spared else set())


def test_averages_are_those_of_the_formula(parts):
    """The average of timm has our decay, (1 + step) / (10 + step) up to `ema`, to the bit."""
    model, config = tiny(), replace(PLAIN, ema=0.97)
    averaging = training._averaging(model, config)
    assert isinstance(averaging, ModelEmaV3)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(400):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
        averaging.update(model, step=step + 2)
        for name, value in model.state_dict().items():
            expected[name].lerp_(value, 1 - min(0.97, (1 + step) / (10 + step)))
    for name, value in averaging.module.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("fast", [True, False])
def test_muon_steps_are_orthogonal_where_that_means_something(monkeypatch, fast):
    """Under Muon a weight matrix moves by equal singular values; norms and positions do not.

    Where bfloat16 is emulated, nothing of it is computed in bfloat16.
    """
    monkeypatch.setattr(training, "fast_bfloat16", lambda: fast)
    dtypes, addmm = set(), torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *a, **k: (dtypes.add(a[0].dtype), addmm(*a, **k))[1])
    model = tiny()
    optimizer = make_optimizer(model, replace(PLAIN, optimizer="muon", weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.grad = torch.from_numpy(rng.standard_normal(parameter.shape)).float()
    optimizer.step()
    assert dtypes == {torch.bfloat16 if fast else torch.float32}
    steps = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    for name in ("network.blocks.0.attn.proj.weight", "network.blocks.0.mlp.fc1.weight"):
        values = torch.linalg.svdvals(steps[name])
        assert values.max() < 2 * values.min(), name
    alike = ["network.pos_embed", "network.blocks.0.norm1.weight"]
    for name in alike:  # Adam's first step: the rate, whatever the gradient's size
        assert torch.allclose(steps[name].abs(), torch.tensor(PLAIN.learning_rate), rtol=0.3), name


def test_macro_f1_agrees_with_scikit_learn():
    """The running macro-F1 is scikit-learn's, over the classes that occur."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 9, (2, 500))
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    for a, b in zip(labels, predicted, strict=True):
        confusion[a, b] += 1
    assert training.macro_f1(confusion) == pytest.approx(
        f1_score(labels, predicted, average="macro"), abs=1e-12
    )


def test_preset_seed_is_the_earlier_recipe():
    """The earlier project's recipe: one step of it is plain AdamW with lr 1e-5 and decay 2."""
    resnet, vit = (RunConfig.preset("seed", model=m) for m in ("resnet50", "vit_base"))
    for config in (resnet, vit):
        assert (config.learning_rate, config.weight_decay, config.batch_size) == (1e-5, 2.0, 16)
        assert (config.schedule, config.best_by, config.decay_everything) == (
            "constant",
            "loss",
            True,
        )
    assert (resnet.epochs, resnet.augment, resnet.crop_scale) == (10, "flip", 0.08)
    assert (vit.epochs, vit.augment, vit.crop_scale) == (20, "none", 1.0)


def taught(path, seed, parts):
    """Return a small ViT that a short training changed, kept at a path."""
    torch.manual_seed(seed)
    teacher = create_model("vit", **TINY)
    fit(teacher, parts.train, None, replace(PLAIN, epochs=1), progress=False)
    save_checkpoint(teacher, PLAIN, path, precision="float32")
    return teacher


def first_losses(config, parts, models):
    """Return the mean training loss of each model in the first epoch, as if it knew no tiles."""
    for model in models:
        model.trained_on = None
    return [
        fit(model, parts.train, None, config, progress=False).epochs[0]["train_loss"]
        for model in models
    ]


def test_a_teacher_is_learned_from(parts, tmp_path):
    """With no weight on labels, the targets are the teacher's probabilities."""
    teacher = taught(tmp_path / "teacher", 5, parts)
    config = replace(PLAIN, teacher=str(tmp_path / "teacher"), distill=1.0, epochs=1)
    loaded = training._load_teachers(parts.train, config, torch.device("cpu"))
    answers = training._ask_once(loaded, parts.train, config, False)
    expected = predict(teacher, parts.train).probabilities
    assert answers.shape == (36, 10)
    assert np.allclose(answers, expected, atol=1e-5)
    alike, other = tiny(), tiny()
    alike.load_state_dict(teacher.state_dict())
    alike, other = first_losses(config, parts, (alike, other))
    entropy = -(answers * answers.log()).sum(-1).mean().item()
    assert alike == pytest.approx(entropy, rel=0.02)
    assert other > alike


def test_several_teachers_give_the_mean_of_their_probabilities(parts, tmp_path):
    """Their names stand with commas between; blanks do not matter."""
    made = [taught(tmp_path / name, seed, parts) for seed, name in enumerate("ab")]
    config = replace(PLAIN, teacher=f"{tmp_path / 'a'}, {tmp_path / 'b'}", distill=1.0)
    assert config.teachers == (str(tmp_path / "a"), str(tmp_path / "b"))
    loaded = training._load_teachers(parts.train, config, torch.device("cpu"))
    expected = np.mean([predict(model, parts.train).probabilities for model in made], axis=0)
    assert np.allclose(training._ask_once(loaded, parts.train, config, False), expected, atol=1e-5)
    views = parts.train.images[:5].float() / 255
    assert np.allclose(training._asked(loaded, views), expected[:5], atol=1e-5)


def test_a_teacher_sees_what_the_student_sees(parts, tmp_path):
    """Of a blend of two shifted tiles, the target is what the teacher says of that blend.

    So a student with the teacher's weights has the smallest loss there is: the entropy of what it
    says itself. Against the teacher's answers to whole tiles it has a larger one.
    """
    teacher = taught(tmp_path / "teacher", 5, parts)
    config = replace(
        PLAIN, teacher=str(tmp_path / "teacher"), distill=1.0, teacher_sees="view", epochs=1,
        learning_rate=1e-9, label_smoothing=0.0, mixup=1.0, shift=8, colour=0.5,
    )  # fmt: skip
    seen, entropies = training._asked, []

    def noted(teachers, views):
        answers = seen(teachers, views)
        entropies.append(-(answers * answers.log()).sum(1).mean().item())
        return answers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_asked", noted)
        alike = tiny()
        alike.load_state_dict(teacher.state_dict())
        (loss,) = first_losses(config, parts, (alike,))
    assert len(entropies) == len(parts.train) // PLAIN.batch_size
    assert loss == pytest.approx(np.mean(entropies), rel=1e-4)
    alike.load_state_dict(teacher.state_dict())
    (of_tiles,) = first_losses(replace(config, teacher_sees="tile"), parts, (alike,))
    assert of_tiles > loss + 0.005


def test_training_figures_are_of_the_labels_whatever_the_teacher_says(parts, tmp_path):
    """The history's training macro-F1 means the same with either way to ask a teacher."""
    taught(tmp_path / "teacher", 5, parts)
    config = replace(
        PLAIN, teacher=str(tmp_path / "teacher"), distill=1.0, epochs=1, learning_rate=1e-9
    )
    rows = []
    for sees in ("tile", "view"):
        one = replace(config, teacher_sees=sees)
        rows += fit(tiny(), parts.train, None, one, progress=False).epochs
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-4)
    labels, predicted = parts.train.labels.numpy(), predict(tiny(), parts.train).predicted
    expected = f1_score(labels, predicted, average="macro")
    assert [row["train_macro_f1"] for row in rows] == pytest.approx([expected, expected])


def test_a_run_goes_on_with_the_same_teacher_alone(parts, tmp_path):
    """The teacher's weights count, not the name or place of its files."""
    taught(tmp_path / "teacher", 5, parts)
    config = replace(PLAIN, teacher=str(tmp_path / "teacher"), distill=1.0, epochs=1)
    run = {"run_dir": tmp_path / "run", "resume": True, "progress": False}
    expected = fit(tiny(), parts.train, None, config, **run)
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=lambda *_: ["run", "moved"])
    moved = replace(config, teacher=str(tmp_path / "moved" / "teacher"))
    found = fit(tiny(), parts.train, None, moved, **run)
    assert found.epochs[0]["train_loss"] == expected.epochs[0]["train_loss"]
    taught(tmp_path / "teacher", 6, parts)
    with pytest.raises(ValueError, match="belongs to a run with other weights of the teachers"):
        fit(tiny(), parts.train, None, config, **run)


def test_a_teacher_that_knows_other_tiles_is_refused(parts, tmp_path):
    """A teacher trained on validation tiles would pass them on, also of another number of tiles."""
    for name, tiles, message in (
        ("val", parts.val, "12 tiles that are not among these training tiles"),
        ("more", split(synthetic(9, seed=1), "seed42").train, "not among these training tiles"),
        (None, None, "does not say what it was trained on"),
    ):
        teacher = tiny()
        if tiles is not None:
            fit(teacher, tiles, None, replace(PLAIN, epochs=1), progress=False)
        save_checkpoint(teacher, None, tmp_path / f"{name}")
        config = replace(PLAIN, teacher=str(tmp_path / f"{name}"), distill=0.5)
        with pytest.raises(ValueError, match=message):
            fit(tiny(), parts.train, parts.val, config, progress=False)


def test_a_teacher_of_the_same_part_may_know_more_of_it(parts, tmp_path):
    """A student may learn from some of the training tiles; validation and test stay unknown."""
    teacher = tiny()
    fit(teacher, parts.train, None, replace(PLAIN, epochs=1), progress=False)
    save_checkpoint(teacher, None, tmp_path / "teacher")
    config = replace(PLAIN, teacher=str(tmp_path / "teacher"), distill=0.5, epochs=1)
    history = fit(tiny(), parts.train[:20], parts.val, config, progress=False)
    assert history.best_epoch == 0


def test_teacher_and_its_weight_go_together():
    """One without the other would be ignored without a word."""
    for change in ({"teacher": "resnet50"}, {"distill": 0.5}):
        with pytest.raises(ValueError, match="teacher and distill go together"):
            replace(PLAIN, **change)
    with pytest.raises(ValueError, match="teacher_sees='view' needs a teacher"):
        replace(PLAIN, teacher_sees="view")
    with pytest.raises(ValueError, match="names a checkpoint twice, got 'vit, vit'"):
        replace(PLAIN, teacher="vit, vit", distill=0.5)
    with pytest.raises(ValueError, match="names with commas between, got 'vit,, resnet50'"):
        replace(PLAIN, teacher="vit,, resnet50", distill=0.5)


def test_a_second_training_of_the_same_model_is_like_the_first():
    """The asked precision holds, and nothing of accelerate stays on the model between them."""
    tiles = synthetic(n_per_class=2, seed=0)
    model, seen = create_model("resnet18", image_size=32), []
    own = set(vars(model))
    model.network.layer1.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    for _ in range(2):
        config = RunConfig(model="resnet18", epochs=1, batch_size=20, precision="bfloat16")
        fit(model, tiles, None, config, progress=False)
        assert set(seen) == {torch.bfloat16}
        assert set(vars(model)) == own
        seen.clear()
