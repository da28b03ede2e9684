"""Checkpoints: round trips, torn and foreign files, and every error a user can meet."""

import contextlib
import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from made_checkpoints import CONFIG, change_card
from torch import nn

from lulc_lib import checkpoints
from lulc_lib.cards import CheckpointError, card_text, waiting_card
from lulc_lib.checkpoints import (
    available_checkpoints,
    find_checkpoint,
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from lulc_lib.metrics import evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.storage import sha256_file
from lulc_lib.tiles import CLASSES, TileSet

OWN_FOLDER = checkpoints._OWN_FOLDER  # before the tests replace it
pytestmark = pytest.mark.usefixtures("own_folder")


def random_tiles(count: int = 12) -> TileSet:
    images = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)
    labels = torch.arange(count) % len(CLASSES)
    names = tuple(f"{CLASSES[int(c)]}/{CLASSES[int(c)]}_{i}.jpg" for i, c in enumerate(labels))
    return TileSet(images, labels, names, "eurosat", "d" * 64, "seed42/test")


def test_round_trip_in_float32_keeps_every_bit(trained, tmp_path):
    """What was saved in float32 comes back bit for bit, in eval mode, with equal predictions."""
    tiles = random_tiles()
    path = save_checkpoint(trained, CONFIG, tmp_path / "exact", precision="float32")
    model, card = load_checkpoint(tmp_path / "exact")
    assert path == tmp_path / "exact.safetensors"
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert not any(module.training for module in model.modules())
    assert np.array_equal(predict(model, tiles).logits, predict(trained, tiles).logits)
    assert card.precision == "float32"


def test_round_trip_in_float16_predicts_alike(trained, saved):
    """Half the file: parameters are rounded to float16, logits agree, classes are the same."""
    tiles = random_tiles(30)
    model, card = load_checkpoint(saved)
    exact, rounded = predict(trained, tiles), predict(model, tiles)
    assert np.abs(exact.logits - rounded.logits).max() < 5e-3 * np.abs(exact.logits).max()
    assert not np.array_equal(exact.logits, rounded.logits)
    assert (exact.predicted == rounded.predicted).all()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert card.precision == "float16"
    assert Path(f"{saved}.safetensors").stat().st_size < 1.2 * 2 * sum(
        p.numel() for p in trained.parameters()
    )


def test_buffers_keep_dtype_and_value(trained, saved):
    """BatchNorm's counts stay whole numbers, its variances are not flushed to 0 by float16."""
    model, _ = load_checkpoint(saved)
    stored = safetensors.torch.load_file(f"{saved}.safetensors")
    for name, buffer in trained.named_buffers():
        if name in stored:
            assert stored[name].dtype == buffer.dtype, name
            assert torch.equal(model.state_dict()[name], buffer), name
    assert any(t.dtype == torch.int64 for t in stored.values())


def test_loading_leaves_the_global_generator_alone(saved):
    """The first weights of a model, which the stored ones replace, are drawn unseen."""
    before = torch.get_rng_state()
    load_checkpoint(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_own_training_tiles_are_recognised(saved):
    """A loaded model marks the tiles it was trained on; evaluating on them is refused."""
    model, card = load_checkpoint(saved)
    assert sorted(model.trained_on.names) == [
        "Forest/Forest_3.jpg", "River/River_1.jpg", "River/River_2.jpg"
    ]  # fmt: skip
    assert model.trained_on == card.trained_on()
    tiles = random_tiles(12)
    names = ("Forest/Forest_3.jpg", *tiles.names[1:])
    mixed = TileSet(tiles.images, tiles.labels, names, "eurosat", "d" * 64, "seed42/test")
    pred = predict(model, mixed)
    assert pred.seen.tolist() == [True] + [False] * 11
    with pytest.raises(ValueError, match=r"trained on 1 of these 12 tiles.*Forest_3"):
        evaluate(pred)
    assert not predict(model, tiles).seen.any()


def test_a_model_without_history_can_be_saved(tmp_path):
    """Neither config nor training tiles are needed; then the card claims none."""
    model = create_model("test_vit", image_size=64)
    save_checkpoint(model, None, tmp_path / "deep" / "bare.v2")
    loaded, card = load_checkpoint(str(tmp_path / "deep" / "bare.v2"))
    assert (card.name, card.config, card.data, card.history) == ("bare.v2", {}, {}, {})
    assert card.run_config() is None
    assert loaded.trained_on is None
    tiles = random_tiles(2)
    assert np.allclose(predict(loaded, tiles).logits, predict(model, tiles).logits, atol=1e-2)


def test_shared_weights_are_saved_too(tmp_path):
    """Two layers with one and the same tensor, which safetensors refuses as such, round-trip."""

    def tied() -> nn.Module:
        first, second = nn.Linear(3, 10), nn.Linear(3, 10)
        second.weight = first.weight
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), first)
        head.add_module("unused", nn.Identity())
        head.unused.twin = second
        return head

    model = create_model(tied())
    save_checkpoint(model, None, tmp_path / "tied", precision="float32")
    loaded, _ = load_checkpoint(tmp_path / "tied", model=tied())
    assert torch.equal(loaded.network[2].weight, model.network[2].weight)


def test_names_are_found_in_the_checkout_from_anywhere(trained, tmp_path, monkeypatch):
    """A bare name is looked up in the checkout's folder, whatever the working directory."""
    folder = checkpoints._OWN_FOLDER
    save_checkpoint(trained, CONFIG, folder / "small")
    save_checkpoint(trained, CONFIG, tmp_path / "decoy")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("small") == folder / "small.safetensors"
    assert load_checkpoint("small")[1].name == "small"
    assert available_checkpoints() == ["small"]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'decoy' in .*there is small"):
        load_checkpoint("decoy")


def test_own_folder_is_found_from_the_package():
    """The checkout's folder stands beside the package, whatever the working directory."""
    assert Path(__file__).resolve().parents[1] / "checkpoints" == OWN_FOLDER


def test_folder_from_the_environment_comes_first(trained, tmp_path, monkeypatch):
    """$LULC_CHECKPOINTS wins over the checkout, which is still searched."""
    own, chosen = checkpoints._OWN_FOLDER, tmp_path / "mine"
    for folder, names in ((own, ("a", "both")), (chosen, ("b", "both"))):
        for name in names:
            save_checkpoint(trained, CONFIG, folder / name)
    monkeypatch.setenv("LULC_CHECKPOINTS", str(chosen))
    assert find_checkpoint("both").parent == chosen
    assert find_checkpoint("a").parent == own
    assert available_checkpoints() == ["a", "b", "both"]


def test_a_chosen_folder_that_is_missing_is_an_error(monkeypatch, tmp_path):
    """$LULC_CHECKPOINTS naming no folder is never passed over."""
    monkeypatch.setenv("LULC_CHECKPOINTS", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"LULC_CHECKPOINTS names .*nowhere.*unset"):
        load_checkpoint("small")
    with pytest.raises(FileNotFoundError, match="LULC_CHECKPOINTS"):
        available_checkpoints()


@pytest.mark.parametrize("ending", ["", ".safetensors", ".json"])
def test_paths_are_taken_as_they_are(saved, ending, monkeypatch):
    """A path with or without its ending, absolute or relative, needs no folder of checkpoints."""
    assert read_card(f"{saved}{ending}").name == "small"
    assert read_card(Path(f"{saved}{ending}")).name == "small"
    monkeypatch.chdir(saved.parent)
    assert read_card(f"./small{ending}").name == "small"


def test_missing_halves_are_named(saved):
    """Weights without a card, a card without weights, and neither, are told apart."""
    other = saved.with_name("other")
    with pytest.raises(FileNotFoundError, match=r"neither other.safetensors nor other.json.*small"):
        load_checkpoint(other)
    Path(f"{saved}.json").rename(f"{saved}.kept")
    with pytest.raises(FileNotFoundError, match=r"lacks .*small.json.*belong together"):
        load_checkpoint(saved)
    Path(f"{saved}.kept").rename(f"{saved}.json")
    Path(f"{saved}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks .*small.safetensors"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["", ".", "..", "folder/"])
def test_folders_are_no_names(name):
    """An empty name or a folder is refused with the form that is meant."""
    with pytest.raises(CheckpointError, match="names a folder; give folder/NAME"):
        load_checkpoint(name)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".pkl", ".bin", ".PTH"])
def test_pickles_are_refused_by_name(tmp_path, ending):
    """A pickle is never opened, whether named outright or lying where the weights should be."""
    path = tmp_path / f"model{ending}"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=f"model{ending} is a pickle.*weights_only=True"):
        load_checkpoint(path)
    if ending.islower():
        with pytest.raises(CheckpointError, match=f"model{ending} is a pickle"):
            load_checkpoint(tmp_path / "model")
        path.rename(checkpoints._OWN_FOLDER / path.name)
        with pytest.raises(CheckpointError, match="is a pickle"):
            load_checkpoint("model")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "legacy torch"])
def test_disguised_pickles_are_refused_and_run_nothing(saved, tmp_path, kind):
    """A pickle under the name of safetensors, with a card that fits, is known by its bytes."""
    weights, trace = Path(f"{saved}.safetensors"), tmp_path / "exploded"
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save(Bomb(trace), weights, _use_new_zipfile_serialization=kind == "torch")
    change_card(saved, weights_sha256=sha256_file(weights))
    with pytest.raises(CheckpointError, match=r"small.safetensors is a pickle.*refused"):
        load_checkpoint(saved)
    assert not trace.exists()


def test_weights_that_are_not_the_cards_are_refused(trained, saved):
    """Changed, cut or exchanged weights do not fit the digest in the card."""
    weights = Path(f"{saved}.safetensors")
    good = weights.read_bytes()
    changed = bytearray(good)
    changed[-1] ^= 1
    for bad, message in (
        (bytes(changed), r"card does not fit its weights.*sha256"),
        (
            good[:-10],
            r"small.safetensors is not a safetensors file as it was written: it has .* byt",
        ),
        (b"", "is cut short; copy it again"),
    ):
        weights.write_bytes(bad)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(saved)
    weights.write_bytes(good)
    load_checkpoint(saved)


def test_a_file_that_is_no_safetensors_is_named(saved):
    """Nonsense with a fitting digest is an error of ours, not of the reader's."""
    weights = Path(f"{saved}.safetensors")
    weights.write_bytes(b"<html>not found</html>")
    change_card(saved, weights_sha256=sha256_file(weights))
    with pytest.raises(CheckpointError, match="is not a safetensors file as it was written"):
        load_checkpoint(saved)


def test_weights_of_another_architecture_are_refused(saved):
    """Shapes and names that do not fit the model of the card are listed, the first three."""
    spec = read_card(saved).model
    change_card(saved, model=spec | {"arguments": {"channels": [32, 48, 48, 64]}})
    with pytest.raises(CheckpointError, match=r"do not fit test_resnet.*the model \(.*64, "):
        load_checkpoint(saved)
    change_card(saved, model=spec | {"architecture": "test_vit"})
    with pytest.raises(CheckpointError, match=r"lacks network\..*and \d+ more"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("architecture", "resnet5000", "unknown model"),
        ("architecture", "hf-hub:someone/model", "unknown model"),
        ("architecture", "local-dir:/tmp", "unknown model"),
        ("arguments", {"pretrained": True}, "asks for pretrained"),
        ("arguments", {"checkpoint_path": "evil.pth"}, "asks for checkpoint_path"),
        ("arguments", {"no_such": 1}, "cannot be built"),
        ("image_size", -3, "cannot be built.*image_size"),
    ],
)
def test_a_card_cannot_reach_out(saved, key, value, message):
    """A card that names another source of weights, or nonsense, builds nothing."""
    change_card(saved, model=read_card(saved).model | {key: value})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


class Tiny(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, stride=8)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean(dim=(2, 3)))


def test_wrapped_modules_need_their_code(tmp_path):
    """A wrapped module is loaded into a module of the same shape, prepared as the card says."""
    model = create_model(Tiny(), image_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    save_checkpoint(model, None, tmp_path / "tiny", precision="float32")
    with pytest.raises(CheckpointError, match=r"wrapped module \('tiny'\).*model=module"):
        load_checkpoint(tmp_path / "tiny")
    tiles = random_tiles(3)
    loaded, _ = load_checkpoint(tmp_path / "tiny", model=Tiny())
    assert (loaded.image_size, loaded.mean) == (32, model.mean)
    assert np.array_equal(predict(loaded, tiles).logits, predict(model, tiles).logits)
    same = create_model(Tiny(), image_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    assert load_checkpoint(tmp_path / "tiny", model=same)[0] is same
    with pytest.raises(CheckpointError, match=r"head.weight of shape \(10, 4\), the model \(10, 8"):
        load_checkpoint(tmp_path / "tiny", model=Tiny(8))
    with pytest.raises(CheckpointError, match="model passed has image_size 64, the card says 32"):
        load_checkpoint(tmp_path / "tiny", model=create_model(Tiny()))
    with pytest.raises(CheckpointError, match="has mean"):
        load_checkpoint(tmp_path / "tiny", model=create_model(Tiny(), image_size=32))


def test_values_beyond_float16_are_named(trained, tmp_path):
    """A weight too large for float16 saves nothing and names the remedy, which works."""
    model = copy.deepcopy(trained)
    model.network.fc.weight.data[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"fc.weight has a value of 1e\+06.*float32'"):
        save_checkpoint(model, CONFIG, tmp_path / "large")
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(model, CONFIG, tmp_path / "large", precision="float32")
    assert load_checkpoint(tmp_path / "large")[0].network.fc.weight[0, 0] == 1e6


def test_a_diverged_model_is_not_saved(trained, tmp_path):
    """NaN among the weights is an error, whatever the precision."""
    model = copy.deepcopy(trained)
    model.network.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"fc.weight holds NaN.*diverged"):
        save_checkpoint(model, CONFIG, tmp_path / "nan", precision="float32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": "dir/"}, CheckpointError, "names a folder"),
        ({"path": "dir/model.pt"}, CheckpointError, "ends like a pickle.*without an ending"),
        ({"precision": "bfloat16"}, CheckpointError, "precision .* got 'bfloat16'"),
        ({"model": nn.Linear(1, 1)}, TypeError, "model must be a TileClassifier.*got Linear"),
        ({"config": {"epochs": 1}}, TypeError, "config must be a RunConfig or None, got dict"),
        ({"report": 0.9}, TypeError, "report must be a Report.*got float"),
        ({"history": []}, TypeError, "history must be a History.*got list"),
        ({"notes": None}, TypeError, r"notes must be a text \('' for none\), got NoneType"),
        ({"earlier": [{"epochs": 1}]}, TypeError, "earlier must hold RunConfigs, got dict"),
    ],
)
def test_saving_names_bad_arguments(trained, arguments, error, message, tmp_path, monkeypatch):
    """Each argument that cannot be used is named before anything is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        save_checkpoint(**{"model": trained, "config": CONFIG, "path": "dir/x"} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_could_not_be_read_is_not_written(trained, saved):
    """It is checked as the loader does, before a good checkpoint is replaced."""
    before = {file: file.read_bytes() for file in saved.parent.iterdir()}
    model = copy.deepcopy(trained)
    for fact, message in (
        ({"part": 42}, "part of data in the card .* is 42"),
        ({"names": ("",)}, "speaks of 1 training tiles and names 0"),
        ({"source": {1}}, "cannot be written: Object of type set"),
    ):
        model.trained_on = replace(trained.trained_on, **fact)
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(model, CONFIG, saved)
    assert {file: file.read_bytes() for file in saved.parent.iterdir()} == before
    load_checkpoint(saved)


@pytest.mark.parametrize("broken", ["weights", "card"])
def test_a_failed_save_leaves_the_old_checkpoint(trained, saved, monkeypatch, broken):
    """A save that fails midway, at the weights or at the card, leaves the old pair alone."""
    old = read_card(saved)

    def fail(*args, **kwargs):
        if broken == "weights":
            Path(args[1]).write_bytes(b"half")
        raise OSError("disk full")

    model = copy.deepcopy(trained)
    model.network.fc.bias.data += 1
    if broken == "weights":
        monkeypatch.setattr(safetensors.torch, "save_file", fail)
    else:
        monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(model, CONFIG, saved)
    monkeypatch.undo()
    files = sorted(path.name for path in saved.parent.iterdir())
    assert files == ["small.json", "small.safetensors"]
    assert load_checkpoint(saved)[1] == old


def test_a_first_save_that_fails_leaves_nothing(trained, monkeypatch):
    """Weights whose card cannot be written are not written either."""
    own = checkpoints._OWN_FOLDER
    monkeypatch.setattr(checkpoints, "card_text", lambda values: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(trained, CONFIG, own / "torn")
    assert list(own.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no checkpoint 'torn'"):
        load_checkpoint("torn")


KILLED = """
import os, signal, sys, warnings
from pathlib import Path
import torch
import lulc_lib as lulc
warnings.simplefilter("ignore", DeprecationWarning)
folder = Path(sys.argv[1])
torch.set_num_threads(1)
class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(10))
    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] + self.bias
model = lulc.create_model(Two())
replace, syncs = Path.replace, []
for first in (True, False):
    for step in range(7):  # before and after each
        name = folder / f"{'first' if first else 'second'}{step}"
        with torch.no_grad():
            model.network.bias.fill_(1)
        if not first:
            lulc.save_checkpoint(model, None, name, notes="old")
            name.with_name(name.name + ".predictions.npz").touch()
        if os.fork() == 0:
            count = [0]
            def killed(*args):
                if count[0] == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count[0] += 1
            def replaced(path, target):
                killed()
                done = replace(path, target)
                killed()
                return done
            Path.replace = replaced
            unlink = Path.unlink
            def unlinked(path, **words):
                if "predictions" in path.name:
                    killed()
                return unlink(path, **words)
            Path.unlink = unlinked
            with torch.no_grad():
                model.network.bias.fill_(2)
            lulc.save_checkpoint(model, None, name, notes="new", precision="float32")
            os._exit(0)
        os.wait()
        got = ""
        try:
            loaded, card = lulc.load_checkpoint(name, model=Two())
            assert card.notes == {1: "old", 2: "new"}[loaded.network.bias[0].item()]
            assert card == lulc.checkpoints.read_card(name)
            got = card.notes
            assert name.name in lulc.checkpoints.names_in(folder)
        except FileNotFoundError:
            got = "none"
            assert first
        print(got, end=" ")
    print()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_save_that_is_killed_anywhere_leaves_the_old_or_the_new(tmp_path):
    """SIGKILL before and after each renaming: weights and card of one save load, never a mix."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = (line.split() for line in done.stdout.splitlines())
    assert first == ["none"] * 3 + ["new"] * 4
    assert second == ["old"] * 3 + ["new"] * 4


def test_a_waiting_card_of_other_weights_is_passed_over(trained, saved):
    """What a save left that was killed before it replaced the weights counts for nothing."""
    old = read_card(saved)
    waiting = waiting_card(Path(f"{saved}.safetensors"))
    for text in (card_text(json.loads(Path(f"{saved}.json").read_text()) | {
        "weights_sha256": "0" * 64, "notes": "new",
    }), "half a ca"):  # fmt: skip
        waiting.write_text(text)
        assert load_checkpoint(saved)[1] == old
    save_checkpoint(trained, CONFIG, saved)
    assert not waiting.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 10**12}, "asks for a network with 1000000000000 of something"),
        ({"embed_dim": 10**30}, "of something"),
        ({"mlp_ratio": float("1e300")}, "of something"),
        ({"embed_dim": 960, "num_heads": 3, "depth": 1000}, "far larger than its weights"),
        ({"embed_dim": 48, "num_heads": 3}, "do not fit vit"),
    ],
)
def test_a_card_larger_than_its_weights_builds_nothing(tmp_path, arguments, message, monkeypatch):
    """Sizes are compared with the header: before memory is taken, and before weights are read."""
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    save_checkpoint(model, None, tmp_path / "a")
    change_card(
        tmp_path / "a", model=model.spec | {"arguments": model.spec["arguments"] | arguments}
    )
    monkeypatch.setattr(checkpoints, "_read_weights", lambda *a: pytest.fail("weights were read"))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "a")
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def _other_activation(model):
    model.network.blocks[0].mlp.act = nn.ReLU()


def _block_less(model):
    model.network.blocks = model.network.blocks[:1]


def _other_epsilon(model):
    model.network.blocks[0].norm1.eps = 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_activation, "blocks.0.mlp.act is .*ReLU.* would load .*GELU"),
        (_block_less, "blocks.1 is nothing, where the checkpoint would load timm"),
        (_other_epsilon, "blocks.0.norm1 is .*eps=0.1.* would load .*eps=1e-06"),
    ],
)
def test_a_changed_network_is_not_saved_as_another(tmp_path, change, message):
    """What the card's network would not be is refused, and can be saved as a wrapped module."""
    model = create_model("vit", depth=2, embed_dim=24, num_heads=2)
    save_checkpoint(model, None, tmp_path / "a")
    before = (tmp_path / "a.safetensors").read_bytes()
    change(model)
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(model, None, tmp_path / "a")
    assert (tmp_path / "a.safetensors").read_bytes() == before
    settings = {"image_size": model.image_size, "mean": model.mean, "std": model.std}
    save_checkpoint(create_model(model.network, **settings), None, tmp_path / "b")
    again, _ = load_checkpoint(tmp_path / "b", model=copy.deepcopy(model.network))
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(again(x), model.eval()(x), atol=1e-2)


def test_a_number_that_no_card_may_hold_is_named_before_saving(tmp_path):
    """A checkpoint that would be refused when it is loaded is not written."""
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2, init_values=2000.0)
    with pytest.raises(CheckpointError, match=r"made with 2000\.0, .* may be 1,024 at most"):
        save_checkpoint(model, None, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_what_was_measured_of_the_same_weights_stays(tmp_path):
    """Saved again, as a finished run is when it is resumed, a checkpoint keeps its report card."""
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    save_checkpoint(model, None, tmp_path / "a")
    beside = [tmp_path / "a.report.json", tmp_path / "a.predictions.npz"]
    for file in beside:
        file.write_text("measured")
    save_checkpoint(model, CONFIG, tmp_path / "a", notes="the same weights")
    assert all(file.exists() for file in beside)
    other = create_model("vit", depth=1, embed_dim=24, num_heads=2, act_layer="relu")
    other.load_state_dict(model.state_dict())
    save_checkpoint(other, CONFIG, tmp_path / "a")
    assert not any(file.exists() for file in beside), "they are of another network"
    for file in beside:
        file.write_text("measured")
    with torch.no_grad():
        model.network.head.bias += 1
    save_checkpoint(model, CONFIG, tmp_path / "a")
    assert not any(file.exists() for file in beside)


def test_pipes_and_devices_are_no_checkpoint(saved):
    """A pipe, which would be waited for without end, is named."""
    for ending in (".safetensors", ".json"):
        Path(f"{saved}{ending}").rename(f"{saved}.kept")
        os.mkfifo(f"{saved}{ending}")
        with pytest.raises(CheckpointError, match=f"small{ending} is not a regular file"):
            load_checkpoint(saved)
        Path(f"{saved}.kept").replace(f"{saved}{ending}")


def test_any_flipped_bit_is_noticed(saved):
    """In the card and in the weights: the error is ours, one line, and names the file."""
    rng = np.random.default_rng(0)
    for ending, trials in ((".json", 60), (".safetensors", 25)):
        file = Path(f"{saved}{ending}")
        good = file.read_bytes()
        card = json.loads(good) if ending == ".json" else None
        for position in rng.integers(0, len(good), trials):
            bad = bytearray(good)
            bad[position] ^= 1 << rng.integers(8)
            with contextlib.suppress(ValueError):
                if card is not None and json.loads(bytes(bad)) == card:
                    continue  # a space became a line break
            file.write_bytes(bad)
            with pytest.raises(CheckpointError, match=f"small{ending}") as caught:
                load_checkpoint(saved)
            assert "\n" not in str(caught.value)
        file.write_bytes(good)


def test_saving_leaves_the_model_alone(trained, tmp_path):
    """Weights, dtype and training mode of the saved model are as before."""
    model = copy.deepcopy(trained).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(model, CONFIG, tmp_path / "x")
    assert model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
