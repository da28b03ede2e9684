"""Models take tiles as they are, and know their own anatomy."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from lulc_lib import models
from lulc_lib.anatomies import anatomy
from lulc_lib.checkpoints import load_checkpoint, save_checkpoint
from lulc_lib.explanations import explain, layers
from lulc_lib.models import (
    EUROSAT_MEAN,
    EUROSAT_STD,
    TileClassifier,
    create_model,
    enlarged,
    from_spec,
)
from lulc_lib.predictions import predict, structure_digest
from lulc_lib.running import evaluating

SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}


class Toy(nn.Module):
    """One convolution, global average pooling, one linear layer."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_resize_and_normalisation_are_the_first_layers():
    """A tile in [0, 1] goes in; the network sees it resized and normalised."""
    model = create_model(Toy(), image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    prepared = model.prepare(torch.full((1, 3, 64, 64), 0.75))
    assert prepared.shape == (1, 3, 32, 32)
    assert torch.allclose(prepared, torch.ones_like(prepared))
    assert create_model("resnet18").mean == EUROSAT_MEAN
    assert create_model("resnet18").std == EUROSAT_STD


def test_features_are_what_the_head_reads():
    """Logits with features equal plain logits, and the head maps features to them."""
    model = create_model("vit", **SMALL_VIT).eval()
    images = torch.rand(3, 3, 64, 64)
    logits, features = model.forward_with_features(images)
    assert torch.equal(logits, model(images))
    head = model.get_submodule(anatomy(model).head)
    assert torch.allclose(head(features), logits, atol=1e-6)


def test_size_inside_can_change_where_the_network_allows_it():
    """A convolutional network takes another size inside; a ViT refuses by name."""
    model = create_model("resnet18", image_size=64)
    assert anatomy(model).grid == (2, 2)
    model.image_size = 128
    assert anatomy(model).grid == (4, 4)
    assert model.spec["image_size"] == 128
    with pytest.raises(ValueError, match="vit works at 64 px alone"):
        create_model("vit", **SMALL_VIT).image_size = 128


def test_an_enlarged_copy_takes_images_of_several_tiles():
    """Its cells are those of the single tiles; the model itself and single tiles are as before."""
    model = create_model("resnet18", image_size=64).eval()
    large = enlarged(model, 2)
    assert (model.image_size, large.image_size, large.tiles_across) == (64, 128, 2)
    tiles = torch.rand(4, 3, 64, 64)
    whole = torch.cat([torch.cat([*tiles[:2]], 2), torch.cat([*tiles[2:]], 2)], 1)[None]
    seen = []

    def note(module, inputs, output):
        seen.append(output)

    handles = [one.network.conv1.register_forward_hook(note) for one in (model, large)]
    predict(model, tiles)
    predict(large, whole)
    for handle in handles:
        handle.remove()
    assert torch.allclose(seen[0][0][:, 2:30, 2:30], seen[1][0][:, 2:30, 2:30], atol=1e-5)
    found = explain(large, whole, ["gradcam", "inputxgradient", "edge"])
    assert {name: one.heatmap.shape for name, one in found.items()} == dict.fromkeys(
        found, (1, 64, 64)
    )
    assert found["gradcam"].grid.shape[1:] == (4, 4)
    # Four cells on two tiles are as wide as two on one: the same layer, the same ground.
    assert layers(large).cell_metres.iloc[-1] == layers(model).cell_metres.iloc[-1] == 320
    with pytest.raises(ValueError, match=r"shape \(N, 3, 128, 128\), got \(4, 3, 64, 64\)"):
        predict(large, tiles)
    with pytest.raises(ValueError, match=r"shape \(N, 3, 64, 64\), got \(1, 3, 128, 128\)"):
        explain(model, whole, "gradcam")
    with pytest.raises(ValueError, match="works at 64 px alone"):
        enlarged(create_model("vit"), 2)
    with pytest.raises(ValueError, match="across must be a whole number of at least 1, got 0"):
        enlarged(model, 0)


def test_mean_and_deviation_may_be_arrays():
    """Arrays and tensors mean what tuples of these numbers mean, also in the spec."""
    mean, std = (0.5, 0.25, 0.125), (0.25, 0.5, 0.25)
    for kind in (np.array, torch.tensor, list):
        for model in ("test_resnet", Toy()):
            made = create_model(model, image_size=32, mean=kind(mean), std=kind(std))
            assert (made.mean, made.std) == (mean, std)
    spec = create_model("test_resnet", image_size=32, mean=np.array(mean)).spec
    assert json.loads(json.dumps(spec))["mean"] == list(mean)


def test_timms_names_of_layers_are_kept(tmp_path):
    """A network with another activation, asked for by name, comes back from its checkpoint."""
    model = create_model("test_resnet", image_size=32, act_layer="silu")
    save_checkpoint(model, None, tmp_path / "silu")
    again, _ = load_checkpoint(tmp_path / "silu")
    assert isinstance(again.network.act1, nn.SiLU)
    assert structure_digest(again) == structure_digest(model)


def test_spec_builds_the_same_architecture():
    """What a card stores of a model is enough to build it again."""
    model = create_model("vit", **SMALL_VIT)
    again = from_spec(model.spec)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in again.state_dict().items()
    }
    assert again.spec == model.spec
    broken = {k: v for k, v in model.spec.items() if k != "architecture"}
    with pytest.raises(ValueError, match="lacks architecture"):
        from_spec(broken)
    assert create_model(Toy(), image_size=64).spec is None


def test_patches_may_come_from_convolutions():
    """The grid is that of as many halvings; each tile is by itself; the spec builds it again."""
    torch.manual_seed(0)
    model = create_model("vit", conv_stem=(8, 16), depth=2).eval()
    found = anatomy(model)
    assert (found.family, found.grid, found.prefix_tokens) == ("vit", (8, 8), 0)
    assert found.layer == "network.blocks.1"
    assert anatomy(create_model("vit", conv_stem=(16,), depth=1)).grid == (16, 16)
    images = torch.rand(3, 3, 64, 64)
    with evaluating(model):
        alone = torch.cat([model(images[i : i + 1]) for i in range(3)])
        together = model.train()(images)  # no batch statistics: training changes nothing
    torch.testing.assert_close(alone, together)
    again = from_spec(json.loads(json.dumps(model.spec)))
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_pretrained_weights_come_from_a_local_file(tmp_path, ending):
    """Weights of a local file are in the model, but for the new head, with their own statistics."""
    source = timm.create_model("resnet18", num_classes=1000)
    file = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(source.state_dict(), file)
    else:
        torch.save(source.state_dict(), file)
    model = create_model("resnet18.a1_in1k", pretrained=file, image_size=64)
    assert torch.equal(model.network.conv1.weight, source.conv1.weight)
    assert model.network.fc.weight.shape == (10, 512)
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.spec["pretrained"] == file.name
    other = create_model("resnet18", image_size=64)
    assert "pretrained" not in other.spec
    assert not torch.equal(other.network.conv1.weight, source.conv1.weight)


def test_pretrained_vit_from_a_local_file(tmp_path):
    """A ViT's weights load too; its own mean and deviation of 0.5 come with them."""
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    file = tmp_path / "vit.safetensors"
    save_file(source.state_dict(), file)
    model = create_model("vit_tiny_patch16_224.augreg_in21k", pretrained=file, depth=2)
    assert torch.equal(model.network.blocks[1].norm1.weight, source.blocks[1].norm1.weight)
    assert model.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_pretrained_files_run_no_code(tmp_path, wrapped):
    """A pickle that would run code is refused by our own reader, whatever timm would do."""
    trace, file = tmp_path / "trace", tmp_path / "weights.safetensors"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (trace,)

    torch.save({"state_dict": Bomb()} if wrapped else Bomb(), file)
    with pytest.raises(ValueError, match=r"does not hold weights of resnet18: it holds code"):
        create_model("resnet18", pretrained=file)
    assert not trace.exists()


def test_weights_of_another_network_are_refused(tmp_path):
    """Timm would pass over names that it does not know, and leave all weights random."""
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match="none of its matrices belongs to that network"):
        create_model("test_resnet.r160_in1k", pretrained=tmp_path / "vit.safetensors")


def test_what_training_scripts_save_is_understood(tmp_path):
    """Weights lie inside a larger dictionary, under names that wrappers have prefixed."""
    source = timm.create_model("test_resnet", num_classes=10)
    prefixed = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": prefixed}, tmp_path / "last.pth.tar")
    model = create_model("test_resnet.r160_in1k", pretrained=tmp_path / "last.pth.tar")
    name, value = next(iter(source.named_parameters()))
    assert torch.equal(model.network.get_parameter(name), value)
    assert "state_dict" not in model.network.pretrained_cfg


def test_without_network_the_error_says_what_to_bring(monkeypatch):
    """Pretrained weights that cannot be downloaded: which file to bring and how to give it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors of timm/resnet50\.tv_in1k"):
        create_model("resnet50", pretrained=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: create_model("resnet5"), ValueError, "unknown model 'resnet5'; did you mean"),
        (lambda p: create_model("resnet50.nope"), ValueError, "no weights tag"),
        (lambda p: create_model("resnet18", image_size=3), ValueError, r"in 16\.\.1024"),
        (lambda p: create_model("resnet18", image_size="64"), ValueError, "got '64'"),
        (lambda p: create_model("resnet18", image_size=0), ValueError, r"image_size .* got 0"),
        (lambda p: create_model(Toy(), image_size=0), ValueError, r"image_size .* got 0"),
        (lambda p: create_model("resnet18", mean=[]), ValueError, r"mean must be .* got \[\]"),
        (lambda p: create_model(Toy(), std=()), ValueError, r"std must be three .* got \(\)"),
        (lambda p: create_model(Toy(), mean=0.5), ValueError, "mean must be three .* got 0.5"),
        (lambda p: create_model(Toy(), mean="abc"), ValueError, "mean must be three .* got 'abc'"),
        (
            lambda p: create_model("resnet18", act_layer=nn.SiLU),
            ValueError,
            r"act_layer=<class .*SiLU'> cannot be kept .* act_layer='silu', or wrap the network",
        ),
        (lambda p: create_model("vit", proj_drop_rate=float("nan")), ValueError, "rate=nan cannot"),
        (lambda p: create_model("resnet18", mean=(0.5,)), ValueError, "three numbers"),
        (lambda p: create_model("resnet18", std=(0.5, 0.0, 0.5)), ValueError, "std must be"),
        (lambda p: create_model("vit", image_size=63), ValueError, "multiple of the patch"),
        (lambda p: create_model("resnet18", depth=3), ValueError, "timm cannot make"),
        (lambda p: create_model("vit", conv_stem=48), ValueError, "conv_stem takes channels"),
        (lambda p: create_model("vit", conv_stem=["a"]), ValueError, r"conv_stem=\['a'\]"),
        (lambda p: create_model("resnet18", conv_stem=(8,)), ValueError, "embed_dim=None"),
        (lambda p: create_model("resnet18", pretrained=p / "no.bin"), FileNotFoundError, "no.bin"),
        (lambda p: create_model("resnet18", pretrained=_junk(p)), ValueError, "does not hold"),
        (lambda p: create_model(Toy(), pretrained=True), ValueError, "leave out pretrained"),
        (lambda p: create_model(Toy(classes=7)), ValueError, r"returned \(1, 7\)"),
        (lambda p: create_model(nn.Linear(2, 2)), ValueError, "cannot take images"),
        (lambda p: create_model(nn.Sequential(Toy(), nn.Softmax(1))), ValueError, "softmax off"),
        (lambda p: create_model(Tuple()), ValueError, "one tensor of logits, Tuple returned a tup"),
        (lambda p: create_model("resnet18", num_classes=7), ValueError, "leave out num_classes=7"),
        (lambda p: create_model("resnet18", in_chans=4), ValueError, "leave out in_chans=4"),
        (lambda p: create_model("vit", img_size=32), ValueError, "take image_size instead"),
        (lambda p: create_model("resnet18", features_only=True), ValueError, "features_only=True"),
        (lambda p: create_model("resnet18", out_indices=(1,)), ValueError, "leave out out_indices"),
        (
            lambda p: create_model("resnet18", image_size=64, global_pool=""),
            ValueError,
            r"with \{'global_pool': ''\} cannot take tiles",
        ),
        (lambda p: create_model(18), TypeError, "name or an nn.Module, got int"),
        (lambda p: create_model(create_model(Toy())), ValueError, "resized and normalised twice"),
        (
            lambda p: create_model(nn.DataParallel(create_model(Toy()))),
            ValueError,
            "resized and normalised twice",
        ),
        (
            lambda p: create_model("efficientformer_l1", image_size=64),
            ValueError,
            "^efficientformer_l1 cannot take tiles at 64 px",
        ),
    ],
)
def test_errors_name_the_cause(call, error, message, tmp_path):
    """Each wrong argument is named with its value and a remedy."""
    with pytest.raises(error, match=message):
        call(tmp_path)


class Tuple(Toy):
    """A module that returns a tuple."""

    def forward(self, x):
        return super().forward(x), None


def _junk(folder):
    file = folder / "junk.safetensors"
    file.write_bytes(b"not weights")
    return file


def test_repr_is_short():
    """A model shows its name, size and parameters, not its layers."""
    model = create_model(Toy(), image_size=64)
    assert isinstance(model, TileClassifier)
    assert repr(model) == "TileClassifier(toy, 64 px inside, 0.0 M parameters)"


def test_arguments_that_do_not_fit_pretrained_weights_are_no_failed_download(monkeypatch):
    """The argument is named; no file has to be fetched."""
    monkeypatch.setattr(models, "is_cached", lambda *names: True)
    with pytest.raises(ValueError, match=r"timm cannot make resnet18 with .*'depth'"):
        create_model("resnet18", pretrained=True, depth=3)
