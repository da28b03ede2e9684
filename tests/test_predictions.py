"""Predict tiles."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib import predictions
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.metrics import evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import (
    LazyImages,
    Predictions,
    aligned,
    cached_predictions,
    identity,
    predict,
    store_predictions,
    weights_digest,
)
from lulc_lib.storage import CacheWarning, cache_dir
from lulc_lib.tiles import CLASSES, TileSet, TrainedOn

SMALL_VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}


def random_tiles(count: int = 12, seed: int = 0) -> TileSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % len(CLASSES)
    names = tuple(f"{CLASSES[int(c)]}/{CLASSES[int(c)]}_{i}.jpg" for i, c in enumerate(labels))
    return TileSet(images, labels, names, "eurosat", "d" * 64, "seed42/test")


@pytest.fixture(scope="module")
def small_model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("test_resnet", image_size=32)


class Brightness(nn.Module):
    """Logits whose entry c is c times the mean of the image: an answer worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(10.0))
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight


def test_predictions_known_answers():
    """Softmax, confidence and cross-entropy of two tiles equal what a pencil gives."""
    logits = np.zeros((2, 10))
    logits[1, 3] = np.log(9)  # odds of 9 against nine classes at 1: one half
    pred = Predictions(logits, [0, 4], ("a", "b"))
    assert np.allclose(pred.probabilities[0], 0.1, atol=1e-12)
    assert pred.confidence == pytest.approx([0.1, 0.5], abs=1e-7)
    assert pred.predicted.tolist() == [0, 3]
    assert pred.correct.tolist() == [True, False]
    assert pred.losses == pytest.approx([np.log(10), np.log(18)], abs=1e-7)
    assert pred.logits.dtype == np.float32
    assert pred.probabilities.dtype == np.float64
    assert len(pred) == 2
    assert "2 tiles" in repr(pred)


def test_aligned_predictions_are_of_the_tiles_asked_for():
    """Rows are found by name, in the tiles' order, with all that belongs to them."""
    tiles = random_tiles(6)
    logits = np.arange(60, dtype=np.float32).reshape(6, 10)
    known = Predictions(
        logits, None, tiles.names, logits[:, :2], digest=tiles.digest, seen=np.arange(6) < 3
    )
    some = tiles[[4, 0]]
    found = aligned(known, some, "vit")
    assert found.names == some.names
    assert np.array_equal(found.logits, logits[[4, 0]])
    assert np.array_equal(found.features, logits[[4, 0], :2])
    assert found.seen.tolist() == [False, True]
    assert found.labels.tolist() == some.labels.tolist()
    bare = aligned(replace(known, features=None, seen=None, digest=""), some, "vit")
    assert bare.features is None
    assert bare.seen is None
    twice = tiles[[1, 1]]
    same = Predictions(logits[:2], None, twice.names)
    assert np.array_equal(aligned(same, twice, "vit").logits, logits[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": tuple("abcdef")}, "'vit' lack 2 of the 2 tiles, first 'River"),
        ({"digest": "other"}, "'vit' come from another data set than the 2 tiles"),
        ({"names": ("x", "x", *random_tiles(12).names[8:])}, "'vit' name 'x' twice"),
    ],
)
def test_predictions_of_other_tiles_are_refused(change, message):
    """A tile without a prediction, another data set, and a name that is there twice."""
    tiles = random_tiles(12)
    names = tiles.names[6:]
    known = Predictions(np.zeros((6, 10)), None, names, digest=tiles.digest)
    with pytest.raises(ValueError, match=message):
        aligned(replace(known, **change), tiles[[8, 9]], "vit")


def test_predictions_of_large_logits_stay_finite():
    """Logits of a thousand give probabilities of 0 and 1 and finite losses, without a warning."""
    logits = np.full((1, 10), -1000.0)
    logits[0, 2] = 1000
    pred = Predictions(logits, [0], ("a",))
    assert pred.confidence[0] == 1
    assert pred.losses[0] == 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((3, 10))}, r"logits must be \(2, 10\).*got \(3, 10\)"),
        ({"logits": np.zeros((2, 9))}, r"got \(2, 9\)"),
        ({"logits": np.full((2, 10), np.nan)}, "logits are NaN or infinite for 2 of 2.*'a'"),
        ({"labels": [0]}, r"labels must be whole numbers \(2,\)"),
        ({"labels": [0.0, 1.0]}, "labels must be whole numbers.*float64"),
        ({"labels": [0, 10]}, r"labels must lie in 0..9, got 0..10"),
        ({"features": np.zeros((3, 4))}, "features must have 2 rows, got 3"),
        ({"seen": np.zeros(1, bool)}, "seen must have 2 rows, got 1"),
    ],
)
def test_predictions_name_what_does_not_fit(change, message):
    """Shapes, kinds and ranges that do not fit together are named with the value met."""
    good = {"logits": np.zeros((2, 10)), "labels": [0, 1], "names": ("a", "b")}
    with pytest.raises(ValueError, match=message):
        Predictions(**{**good, **change})


def test_predict_known_answer_and_provenance():
    """Logits are the network's on tiles divided by 255; labels, names and origin come along."""
    tiles = random_tiles(7)
    pred = predict(Brightness(), tiles, batch_size=3)
    expected = tiles.float().mean(dim=(1, 2, 3))[:, None] * torch.arange(10.0)
    assert np.allclose(pred.logits, expected.numpy(), atol=1e-6)
    assert pred.labels.tolist() == tiles.labels.tolist()
    assert (pred.names, pred.source, pred.part) == (tiles.names, tiles.source, tiles.part)
    assert (pred.digest, pred.model, pred.seen) == (tiles.digest, "Brightness", None)
    assert pred.seconds > 0


def test_predict_takes_bare_images():
    """A TileSet, its uint8 images and its floats give the same logits; bare ones have no labels."""
    tiles, model = random_tiles(4), Brightness()
    whole = predict(model, tiles)
    for images in (tiles.images, tiles.images.numpy(), tiles.float()):
        bare = predict(model, images)
        assert np.array_equal(bare.logits, whole.logits)
        assert bare.labels is None
        assert bare.names[1] == "image 1"
    assert np.array_equal(predict(model, tiles.images[0]).logits, whole.logits[:1])


def test_predict_works_batch_by_batch(small_model):
    """The size of a batch does not change the result; what no batch covers is not forgotten."""
    tiles, counter = random_tiles(10), Brightness()
    predict(counter, tiles, batch_size=4)
    assert counter.sizes == [4, 4, 2]
    one, all_ = (predict(small_model, tiles, batch_size=b).logits for b in (1, 10))
    assert np.allclose(one, all_, atol=1e-5)


def test_predict_takes_smaller_batches_for_larger_networks():
    """Left to itself, the batch shrinks with the area inside, so that the memory stays small."""
    tiles, counter = random_tiles(150), Brightness()
    predict(counter, tiles)
    assert counter.sizes == [4, 146]
    counter.image_size, counter.sizes = 224, []
    predict(counter, tiles)
    assert max(counter.sizes) == 20


@pytest.mark.parametrize(("cache", "expected"), [(24, 6), (1, 4), (1200, 96), (None, 4)])
def test_predict_takes_batches_that_the_cache_holds(cache, expected, monkeypatch):
    """After four tiles that are watched, a layer takes a quarter of the cache; 4 tiles at least."""
    monkeypatch.setattr(predictions, "processor_cache", lambda: cache and cache * 2**20)
    sizes = []
    counting = nn.Identity()  # the largest output: 64 channels of 64x64 are 1 MiB a tile
    counting.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    model = nn.Sequential(counting, nn.Conv2d(3, 64, 1), head)
    predict(model, random_tiles(100))
    assert sizes[:2] == [4, expected]
    assert sum(sizes) == 100
    assert not any(module._forward_hooks for module in model.modules())
    sizes.clear()
    predict(model, random_tiles(20), batch_size=16)
    assert sizes == [16, 4], "a size that is asked for is taken"


def test_predict_makes_images_when_their_batch_comes_up():
    """Lazy images are asked for in order, each once, and answered as if they were all there."""
    model, images = Brightness(), random_tiles(10).float()
    asked = []

    def make(first: int, last: int) -> torch.Tensor:
        asked.append((first, last))
        return images[first:last]

    found = predict(model, LazyImages(10, make), batch_size=4)
    assert asked == [(0, 4), (4, 8), (8, 10)]
    assert np.array_equal(found.logits, predict(model, images, batch_size=4).logits)
    with pytest.raises(ValueError, match="leave out cache"):
        predict(model, LazyImages(10, make), cache=True)


def test_predict_divides_no_more_than_one_batch():
    """Tiles stay uint8: what reaches the network is one float batch, never a copy of them all."""
    tiles = random_tiles(40)
    whole = 40 * 3 * 64 * 64 * 4
    seen = []

    class Watching(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.untyped_storage().nbytes())
            return super().forward(images)

    predict(Watching(), tiles, batch_size=4)
    predict(Watching(), tiles.images.numpy(), batch_size=4)
    assert max(seen) * 10 <= whole


def test_predict_features_feed_the_last_layer(small_model):
    """Features times the last layer's weights are the logits, to float16's precision."""
    pred = predict(small_model, random_tiles(5), features=True)
    head = small_model.network.fc
    rebuilt = pred.features.astype(np.float32) @ head.weight.detach().numpy().T
    assert pred.features.dtype == np.float16
    assert pred.features.shape == (5, head.in_features)
    assert np.allclose(rebuilt + head.bias.detach().numpy(), pred.logits, atol=1e-2)
    assert predict(small_model, random_tiles(5)).features is None


def test_predict_restores_each_modules_mode(small_model):
    """Training mode comes back module by module, a frozen part included, also after an error."""
    model = copy.deepcopy(small_model).train()
    frozen = model.network.bn1.eval()
    modes = [module.training for module in model.modules()]
    before = frozen.running_mean.clone()
    predict(model, random_tiles(4))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(frozen.running_mean, before)

    class Failing(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    failing = Failing().train()
    with pytest.raises(RuntimeError, match="no"):
        predict(failing, random_tiles(2))
    assert failing.training
    assert not failing._forward_hooks


def test_predict_is_in_eval_mode_meanwhile():
    """Dropout is off while predicting, whatever the mode before."""
    model = nn.Sequential(Brightness(), nn.Dropout(0.9)).train()
    tiles = random_tiles(4)
    assert np.array_equal(predict(model, tiles).logits, predict(model[0], tiles).logits)


def test_predict_bfloat16_is_close_and_other(small_model):
    """Autocast gives nearly the same logits in float32, and really is in use."""
    tiles = random_tiles(8)
    full = predict(small_model, tiles).logits
    half = predict(small_model, tiles, precision="bfloat16").logits
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    assert np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_predict_marks_training_tiles(small_model):
    """A model that knows its training tiles marks exactly these, for tiles of the same origin."""
    model, tiles = copy.deepcopy(small_model), random_tiles(6)
    model.trained_on = TrainedOn("eurosat", tiles.digest, "seed42/train", tiles.names[2:4])
    assert predict(model, tiles).seen.tolist() == [False, False, True, True, False, False]
    assert predict(model, tiles.images).seen is None


@pytest.mark.parametrize(
    ("images", "settings", "error", "message"),
    [
        (torch.zeros(2, 3, 32, 32), {}, ValueError, r"\(2, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), {}, ValueError, r"\(2, 3, 32, 32\)"),
        (torch.zeros(0, 3, 64, 64, dtype=torch.uint8), {}, ValueError, "there are no images"),
        (torch.full((1, 3, 64, 64), 2.0), {}, ValueError, r"\[0, 1\]"),
        (torch.zeros(1, 3, 64, 64).double(), {}, TypeError, "float64"),
        (random_tiles(1), {"precision": "float16"}, ValueError, "precision.*'float16'"),
        (
            random_tiles(1),
            {"batch_size": 0},
            ValueError,
            "batch_size must be a whole .* 1, got 0",
        ),
        (random_tiles(1), {"features": True}, TypeError, "Brightness gives no features"),
    ],
)
def test_predict_names_bad_input(images, settings, error, message):
    """Images and settings that cannot be used are named with the value met."""
    with pytest.raises(error, match=message):
        predict(Brightness(), images, **settings)


def test_predict_names_broken_weights_and_wrong_heads():
    """NaN logits name the first tile; a network of another number of classes names its shape."""
    broken = Brightness()
    broken.weight.data[3] = float("nan")
    tiles = random_tiles(3)
    with pytest.raises(ValueError, match="NaN or infinite for 3 of 3 tiles, first for 'AnnualCrop"):
        predict(broken, tiles)
    thousand = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    with pytest.raises(ValueError, match=r"must return logits \(3, 10\), it returned \(3, 4\)"):
        predict(thousand, tiles)


def test_without_a_cache_folder_predictions_are_made_each_time(small_model, tmp_path, monkeypatch):
    """Where nothing can be kept the logits come all the same, with a warning."""
    tiles = random_tiles(4)
    expected = predict(small_model, tiles)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning, match="the predictions could not be kept"):
        found = predict(small_model, tiles, cache=True)
    assert np.array_equal(found.logits, expected.logits)


def test_predict_cache_is_keyed_by_everything_that_matters(small_model, monkeypatch):
    """A second call reads the cache; other weights, tiles, settings or size compute anew."""
    runs = []
    forward = predictions._forward
    monkeypatch.setattr(predictions, "_forward", lambda *a: (runs.append(1), forward(*a))[1])
    model, tiles = copy.deepcopy(small_model), random_tiles(4)
    first = predict(model, tiles, cache=True)
    again = predict(model, tiles, cache=True)
    assert len(runs) == 1
    assert np.array_equal(first.logits, again.logits)
    assert again.seconds == first.seconds
    assert again.names == tiles.names
    predict(model, random_tiles(4, seed=1), cache=True)
    predict(model, tiles, cache=True, features=True)
    predict(model, tiles, cache=True, precision="bfloat16")
    assert len(runs) == 4
    assert predict(model, tiles, cache=True, features=True).features.shape[0] == 4
    model.image_size = 48
    predict(model, tiles, cache=True)
    assert len(runs) == 5
    with torch.no_grad():
        model.network.fc.bias[0] += 1e-3
    predict(model, tiles, cache=True)
    assert len(runs) == 6
    predict(model, tiles)
    assert len(runs) == 7


def test_predict_cache_never_keeps_nonsense(small_model):
    """NaN logits are not cached, and a wrapped module, whose code has no digest, never is."""
    model, tiles = copy.deepcopy(small_model), random_tiles(2)
    model.network.fc.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        predict(model, tiles, cache=True)
    predict(create_model(Brightness()), tiles, cache=True)
    predict(Brightness(), tiles, cache=True)
    assert list(cache_dir().rglob("*.npz")) == []


def test_weights_digest_sees_each_change(small_model):
    """The digest is the same for equal weights of any memory layout, another for any change."""
    model = copy.deepcopy(small_model)
    first = weights_digest(model)
    assert weights_digest(model.to(memory_format=torch.channels_last)) == first
    model.network.bn1.num_batches_tracked += 1
    assert weights_digest(model) != first
    assert weights_digest(copy.deepcopy(small_model).to(torch.bfloat16)) != first


class Negative(nn.Module):
    """A module of somebody's own."""

    def forward(self, x):
        return -x


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.network.blocks[0].mlp, "act", nn.ReLU()),
        lambda model: setattr(model.network.blocks[0].mlp.act, "approximate", "tanh"),
        lambda model: setattr(model.network, "global_pool", "max"),
        lambda model: model.prepare.mean.add_(0.1),
    ],
)
def test_predict_cache_knows_the_networks_structure(change):
    """A module that is replaced or set otherwise has another key; explaining leaves the key."""
    model, tiles = create_model("vit", **SMALL_VIT), random_tiles(4)
    first = predict(model, tiles, cache=True).logits
    known = identity(model)
    explain(model, tiles, ["gradcam", "libragrad", "rollout"])
    assert identity(model) == known
    change(model)
    changed = predict(model, tiles, cache=True).logits
    assert not np.array_equal(changed, first)
    assert np.array_equal(changed, predict(model, tiles).logits)
    assert identity(model)["weights"] == known["weights"]


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.register_forward_hook(lambda _, __, out: out * 0),
        lambda part: part.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0,)),
        lambda part: part.register_full_backward_hook(lambda *_: None),
        lambda part: setattr(part, "act", Negative()),
        lambda part: setattr(part, "forward", lambda x: x * 0),
    ],
)
def test_predict_cache_holds_nothing_of_code_without_a_digest(change):
    """With hooks or modules of somebody's own, nothing is read from the cache or put into it."""
    model, tiles = create_model("vit", **SMALL_VIT), random_tiles(4)
    expected = predict(model, tiles, cache=True)
    files = sorted(cache_dir().rglob("*.npz"))
    assert len(files) == 1
    made = change(model.network.blocks[0].mlp)
    live = predict(model, tiles, cache=True).logits
    assert np.array_equal(live, predict(model, tiles).logits)
    store_predictions(model, tiles, expected)
    assert cached_predictions({"a": model}, tiles) == {}
    assert sorted(cache_dir().rglob("*.npz")) == files
    if hasattr(made, "remove"):
        made.remove()
        assert np.array_equal(predict(model, tiles, cache=True).logits, expected.logits)
        assert cached_predictions({"a": model}, tiles).keys() == {"a"}


def test_predict_leaves_the_callers_images():
    """A plain module that normalises in place works on a copy, with one view and with eight."""

    class InPlace(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.sub_(0.3).div_(0.2))

    images = random_tiles(6).float()
    before = images.clone()
    expected = predict(Brightness(), (images - 0.3) / 0.2 / 10 + 0.5).logits
    for given in (images, LazyImages(6, lambda first, last: images[first:last])):
        logits = predict(InPlace(), given).logits / 10 + 0.5 * np.arange(10)
        assert np.allclose(logits, expected, atol=1e-5)
    predict(InPlace(), images, tta=True)
    assert torch.equal(images, before)


class Loud(nn.Module):
    """A linear head that reads features of thousands, or of millions."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale, self.cells, self.head = scale, nn.AvgPool2d(8), nn.Linear(3, 10)

    def forward(self, images):
        """Return logits (N, 10)."""
        return self.head(self.cells(images).mean(dim=(2, 3)) * self.scale) / self.scale


@pytest.mark.parametrize(("scale", "kind"), [(1e3, np.float16), (1e6, np.float32)])
def test_features_beyond_float16_are_kept_in_float32(scale, kind):
    """Whatever the network's scale, features are finite, and are what the head reads."""
    model, tiles = create_model(Loud(scale), mean=(0, 0, 0), std=(1, 1, 1)), random_tiles(6)
    found = predict(model, tiles, features=True)
    assert found.features.dtype == kind
    expected = tiles.float().mean(dim=(2, 3)).numpy() * scale
    assert np.allclose(found.features, expected, rtol=1e-3)


def test_predictions_turn_lists_into_arrays():
    """Marks and features may be given as lists; what is no mark is refused."""
    rows = {"logits": np.eye(10)[:2], "labels": [0, 1], "names": ("a", "b")}
    made = Predictions(**rows, seen=[False, False], features=[[0.5], [1.5]])
    assert evaluate(made, resamples=5).training_tiles == 0
    assert made.features.shape == (2, 1)
    with pytest.raises(ValueError, match="trained on 1 of these 2 tiles, such as 'b'"):
        evaluate(Predictions(**rows, seen=[False, True]))
    for seen, met in ((["no", "no"], "<U2"), ([0, 1], "int64"), ([[True], [False]], r"\(2, 1\)")):
        with pytest.raises(ValueError, match=rf"seen must be bool \(2,\), got .*{met}"):
            Predictions(**rows, seen=seen)
    with pytest.raises(ValueError, match="seen must have 2 rows, got True"):
        Predictions(**rows, seen=True)


def test_predict_and_aligned_name_a_wrong_object():
    """A name instead of a model, and images instead of predictions, come with the remedy."""
    tiles = random_tiles(2)
    with pytest.raises(TypeError, match=r"got str 'vit'; pass a model.* load_checkpoint\('vit'\)"):
        predict("vit", tiles)
    with pytest.raises(TypeError, match="got NoneType None; pass a model"):
        predict(None, tiles, cache=True)
    with pytest.raises(TypeError, match=r"as predict\(model, tiles\) returns them, got Tensor"):
        aligned(tiles.images, tiles, "vit")


def test_predict_progress_counts_tiles(capsys):
    """The bar counts tiles, and there is none unless asked for."""
    predict(Brightness(), random_tiles(5), progress=True)
    assert "5/5" in capsys.readouterr().err
    predict(Brightness(), random_tiles(5))
    assert capsys.readouterr().err == ""


def test_tta_averages_the_probabilities_of_eight_views():
    """By hand over the eight flips and turns; and it says that it did."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    tiles = synthetic(2, seed=3)
    images = tiles.float()
    views = [torch.rot90(v, k, (2, 3)) for v in (images, images.flip(3)) for k in range(4)]
    expected = sum(predict(model, view.clone()).probabilities for view in views) / 8
    got = predict(model, tiles, tta=True)
    assert np.allclose(got.probabilities, expected, atol=1e-6)
    assert got.tta
    assert evaluate(got, resamples=5).tta
    assert not evaluate(predict(model, tiles), resamples=5).tta
    turned_twice = predict(model, images.flip(2).clone(), tta=True)
    assert np.allclose(turned_twice.logits, got.logits, atol=1e-5)  # any view gives the same
    with pytest.raises(ValueError, match="leave out features or tta"):
        predict(model, tiles, features=True, tta=True)


class Remembers(nn.Module):
    """A network that keeps a tensor made in its forward pass, and a scripted one."""

    def __init__(self):
        super().__init__()
        self.kept = None
        self.head = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10)))

    def forward(self, x):
        """Return logits (N, 10)."""
        if self.kept is None:
            self.kept = torch.full_like(x[:1], 0.5)
        return self.head(x * self.kept)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_predict_leaves_nothing_that_forbids_gradients():
    """A tensor that a network keeps can be differentiated through; scripted parts are run."""
    model = Remembers()
    predict(model, torch.rand(2, 3, 64, 64))
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    model(images).sum().backward()
    assert images.grad.abs().max() > 0
