"""Predictions beside a checkpoint: read where they belong, refused where they do not."""

import copy
import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged
from torch import nn

from lulc_lib import predictions
from lulc_lib.cards import CheckpointError, names_in
from lulc_lib.checkpoints import load_checkpoint, read_card, save_checkpoint, save_predictions
from lulc_lib.config import RunConfig
from lulc_lib.kept import (
    COMPONENTS,
    Kept,
    KeptPredictionsWarning,
    image_hashes,
    principal_components,
    read_kept,
    write_kept,
)
from lulc_lib.models import create_model
from lulc_lib.predictions import (
    cached_predictions,
    kept_components,
    model_key,
    predict,
    predict_sample,
)
from lulc_lib.training import fit

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


@pytest.fixture(scope="module")
def folder(tiles, tmp_path_factory) -> Path:
    """A small checkpoint with predictions of sixty drawn tiles beside it."""
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("kept")
    save_checkpoint(create_model("test_resnet", image_size=32), None, where / "small")
    save_predictions(load_checkpoint(where / "small")[0], tiles)
    return where


@pytest.fixture
def model(folder):
    return load_checkpoint(folder / "small")[0]


@pytest.fixture
def own(folder, tmp_path):
    """A copy of the checkpoint, to be damaged: (path, file of predictions)."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "small", tmp_path / "small.predictions.npz"


def rewrite(file: Path, **changes) -> None:
    """Write a file of predictions again with other arrays, or other facts, as an older version."""
    with np.load(file) as stored:
        arrays = dict(stored)
    facts = json.loads(str(arrays["facts"])) | changes.pop("facts", {})
    facts.pop("arrays")  # their digest
    np.savez(file, **(arrays | {"facts": np.array(json.dumps(facts))} | changes))


# --- read ----------------------------------------------------------------------------------------


def test_kept_logits_are_read_and_not_computed(model, tiles, monkeypatch):
    """`predict(..., cache=True)` gives what the model gives, bit for bit, without running it."""
    live = predict(model, tiles)
    monkeypatch.setattr(predictions, "_forward", None)
    for found in (predict(model, tiles, cache=True), cached_predictions({"a": model}, tiles)["a"]):
        assert np.array_equal(found.logits, live.logits)
        assert (found.names, found.part, found.digest) == (live.names, live.part, live.digest)
        assert np.array_equal(found.labels, live.labels)
        assert (found.read_from, found.seconds) == ("small.predictions.npz", 0)
    assert live.read_from == ""


def test_tiles_are_digested_once(model, tiles, monkeypatch):
    """Looking for kept predictions of several models reads all images once."""
    read = []
    digest = predictions.digest_arrays
    monkeypatch.setattr(
        predictions, "digest_arrays", lambda *a: read.append(a[0].shape) or digest(*a)
    )
    assert cached_predictions({"a": model, "b": model}, tiles).keys() == {"a", "b"}
    assert read.count(tuple(tiles.images.shape)) == 1


def test_rows_are_found_by_name(model, tiles, monkeypatch):
    """A part of the tiles, in another order and one of them twice, gets its own rows."""
    some = [41, 3, 17, 3]
    live = predict(model, tiles).logits
    monkeypatch.setattr(predictions, "_forward", None)
    found = predict(model, tiles[some], cache=True)
    assert np.array_equal(found.logits, live[some])
    components, share = kept_components(model, tiles[some])
    assert np.array_equal(components, kept_components(model, tiles)[0][some])
    assert components.dtype == np.float16
    assert 0 < share <= 1


def test_other_settings_are_computed(model, tiles):
    """Features, another precision, averaged views and images without names run the model."""
    some = tiles[:4]
    for settings in ({"features": True}, {"precision": "bfloat16"}, {"tta": True}):
        assert predict(model, some, cache=True, **settings).read_from == ""
    assert predict(model, some.images, cache=True).read_from == ""
    assert predict(model, some).read_from == ""
    assert cached_predictions({"a": model}, some)["a"].features is not None


def test_a_wrapped_module_and_a_new_model_have_no_file(tiles):
    """Without a checkpoint there is nothing to read, and nothing is written."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    for other in (create_model(network), create_model("test_resnet", image_size=32)):
        assert kept_components(other, tiles[:2]) is None
        assert predict(other, tiles[:2], cache=True).read_from == ""
        with pytest.raises(CheckpointError, match=r"(wrapped module|has no checkpoint): "):
            save_predictions(other, tiles)


# --- silently left alone -------------------------------------------------------------------------


def test_changed_weights_are_never_served(model, tiles):
    """One changed weight, or another size inside, and the model itself is asked."""
    some = tiles[:4]
    with torch.no_grad():
        model.network.fc.bias[2] += 1e-3
    found = predict(model, some, cache=True)
    assert found.read_from == ""
    assert np.array_equal(found.logits, predict(model, some).logits)
    with torch.no_grad():
        model.network.fc.bias[2] -= 1e-3
    model.image_size = 48
    assert predict(model, some, cache=True).read_from == ""
    assert kept_components(model, some) is None


def test_a_changed_network_is_never_served(model, tiles):
    """With another module or a hook the model itself is asked, and none of it is kept beside."""
    some = tiles[:4]
    served = predict(model, some, cache=True)
    act = model.network.act1
    model.network.act1 = nn.SiLU()
    assert predict(model, some, cache=True).read_from == ""
    assert kept_components(model, some) is None
    with pytest.raises(CheckpointError, match="has changed since it was loaded, or holds modules"):
        save_predictions(model, tiles)
    model.network.act1 = act
    with model.network.layer1.register_forward_hook(lambda _, __, out: out * 0):
        assert not np.array_equal(predict(model, some, cache=True).logits, served.logits)
        assert kept_components(model, some) is None
        with pytest.raises(CheckpointError, match="hooks of your own"):
            save_predictions(model, tiles)
    assert predict(model, some, cache=True).read_from == served.read_from != ""


def test_a_trained_copy_is_never_served(model, tiles):
    """A model that learnt on has other weights; the one it was copied from is served as before."""
    trained = copy.deepcopy(model)
    config = RunConfig(model="test_resnet", epochs=1, batch_size=16, learning_rate=1e-2)
    fit(trained, tiles, None, config)
    assert predict(trained, tiles[:4], cache=True).read_from == ""
    assert predict(model, tiles[:4], cache=True).read_from != ""


def test_a_changed_image_is_computed(model, tiles):
    """Tiles that keep names and digest but not their pixels get their own logits."""
    images = tiles.images[:4].clone()
    images[2] = 255 - images[2]
    changed = replace(tiles[:4], images=images)
    assert (image_hashes(changed) != image_hashes(tiles[:4])).tolist() == [
        False,
        False,
        True,
        False,
    ]
    found = predict(model, changed, cache=True)
    assert found.read_from == ""
    assert np.array_equal(found.logits, predict(model, changed).logits)


@pytest.mark.parametrize(
    "change", [{"digest": "another"}, {"source": "eurosat"}, {"names": ("River/other.jpg",) * 4}]
)
def test_other_tiles_are_computed(model, tiles, change):
    """Another data set, and a name that the file lacks, are not answered by the file."""
    assert predict(model, replace(tiles[:4], **change), cache=True).read_from == ""


def test_without_a_file_nothing_is_said(own, tiles):
    """A checkpoint may have no predictions beside it."""
    path, file = own
    file.unlink()
    assert predict(load_checkpoint(path)[0], tiles[:2], cache=True).read_from == ""


# --- ignored with a warning ----------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "text", "half", "flipped", "array", "facts", "pickle"])
def test_a_damaged_file_is_named_and_ignored(own, tiles, damage):
    """Whatever the damage: one warning that names the file, and the model's own logits."""
    path, file = own
    content = file.read_bytes()
    model = load_checkpoint(path)[0]
    flipped = bytearray(content)
    flipped[200] ^= 0xFF  # inside the first array, the logits
    match damage:
        case "empty" | "text" | "half" | "flipped":
            wrong = {"empty": b"", "text": b"no zip", "half": content[: len(content) // 2]}
            file.write_bytes(wrong.get(damage, bytes(flipped)))
        case "array":
            rewrite(file, logits=np.zeros((60, 9), dtype=np.float32))
        case "facts":
            np.savez(file, facts=np.array("{}"))
        case "pickle":
            np.savez(file, facts=np.array([{}], dtype=object))
    with pytest.warns(KeptPredictionsWarning, match=r"small\.predictions\.npz cannot be read") as w:
        found = predict(model, tiles[:3], cache=True)
    assert len(w) == 1
    assert w[0].filename == __file__
    assert found.read_from == ""
    assert np.array_equal(found.logits, predict(model, tiles[:3]).logits)


KEY = {"spec": {"a": 1}, "weights": "w", "precision": "float32", "features": False, "tta": False}


def write_some(file: Path, tiles) -> Kept:
    """Write predictions of some tiles, drawn at random, without a model."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(tiles), 10)).astype(np.float32)
    features = rng.normal(size=(len(tiles), 12))
    write_kept(file, tiles, logits, features, KEY, {"weights_sha256": "sha"})
    return read_kept(file, "sha", tiles, KEY)


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_changes_what_is_read(tiles, tmp_path, seed):
    """A flipped bit, a cut, bytes added: noticed with a warning, or without effect on any value.

    Dates and other remarks in a zip, and what stands before or behind it, have no effect.
    """
    file = tmp_path / "a.predictions.npz"
    whole = write_some(file, tiles[:10])
    file.write_bytes(damaged(file.read_bytes(), seed))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_kept(file, "sha", tiles[:10], KEY)
    assert (found is None) == (len(told) == 1)
    assert all("a.predictions.npz cannot be read" in str(w.message) for w in told)
    if found is not None:
        assert np.array_equal(found.logits, whole.logits)
        assert np.array_equal(found.components, whole.components)
        assert found.spread == whole.spread


@pytest.mark.parametrize(
    ("name", "change", "finding"),
    [
        ("logits", lambda x: x + 1e-3, "not those that were written"),
        ("components", lambda x: x[:5], "not those that were written"),
        ("labels", lambda x: 9 - x, "not those that were written"),
        ("extra", lambda _: np.ones(3), "does not hold the arrays"),
        ("facts", lambda _: np.array("[" * 5000), "nested more than 32 deep"),
        ("facts", lambda _: np.array("x" * 2**21), "longer than 1,048,576 bytes"),
        ("logits", lambda _: np.zeros(2**24 + 1, np.float32), "more than 67,108,864 bytes"),
    ],
)
def test_arrays_changed_by_hand_are_noticed(tiles, tmp_path, name, change, finding):
    """Arrays that are whole, but others than were written or too large, are never served."""
    file = tmp_path / "a.predictions.npz"
    write_some(file, tiles[:10])
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez_compressed(file, **arrays | {name: change(arrays.get(name))})
    with pytest.warns(KeptPredictionsWarning, match=finding):
        assert read_kept(file, "sha", tiles[:10], KEY) is None


def test_a_header_that_claims_terabytes_is_refused(tiles, tmp_path):
    """Memory for an array is taken from its bytes, not from what its header claims."""
    file = tmp_path / "a.predictions.npz"
    write_some(file, tiles[:10])
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    claim = members["logits.npy"].replace(b"(10, 10), }" + b" " * 10, b"(1000000, 1000000), }")
    assert len(claim) == len(members["logits.npy"])
    assert claim != members["logits.npy"]
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (members | {"logits.npy": claim}).items():
            archive.writestr(name, data)
    with pytest.warns(KeptPredictionsWarning, match="cannot reshape"):
        assert read_kept(file, "sha", tiles[:10], KEY) is None


def test_predictions_that_are_not_finite_are_damage(own, tiles):
    """NaN among the kept logits is never served."""
    path, file = own
    rewrite(file, logits=np.full((60, 10), np.nan, dtype=np.float32))
    with pytest.warns(KeptPredictionsWarning, match="not finite"):
        assert np.isfinite(predict(load_checkpoint(path)[0], tiles[:3], cache=True).logits).all()


def test_a_file_of_another_checkpoint_is_named_and_ignored(own, tiles, tmp_path):
    """A file copied beside other weights says nothing of them."""
    _, file = own
    torch.manual_seed(1)
    other = create_model("test_resnet", image_size=32)
    save_checkpoint(other, None, tmp_path / "other")
    (tmp_path / "other.predictions.npz").write_bytes(file.read_bytes())
    model = load_checkpoint(tmp_path / "other")[0]
    with pytest.warns(KeptPredictionsWarning, match=r"other\.predictions.* for other weights"):
        found = predict(model, tiles[:3], cache=True)
    assert np.array_equal(found.logits, predict(model, tiles[:3]).logits)


def test_where_warnings_are_errors_it_is_one(own, tiles):
    """The warning goes through as it is, and is not taken for damage."""
    path, file = own
    rewrite(file, facts={"weights_sha256": "0" * 64})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeptPredictionsWarning, match="for other weights"):
            predict(load_checkpoint(path)[0], tiles[:3], cache=True)


# --- written -------------------------------------------------------------------------------------


def test_the_file_says_what_it_belongs_to(own, tiles):
    """Weights by two digests, data set, part and settings; labels and float32 logits; no paths."""
    path, file = own
    model, card = load_checkpoint(path)
    exact = predict(model, tiles)
    made = save_predictions(model, tiles, exact=replace(exact, logits=-exact.logits))
    with np.load(file) as stored:
        facts = json.loads(str(stored["facts"]))
        assert stored["logits"].dtype == np.float32
        assert np.array_equal(stored["logits"], made.logits)
        assert stored["labels"].tolist() == tiles.labels.tolist()
        assert stored["components"].shape == (60, min(60, COMPONENTS))
    assert facts["weights_sha256"] == card.weights_sha256
    assert facts["weights"] == model_key(model)["weights"]
    assert (facts["source"], facts["digest"]) == (tiles.source, tiles.digest)
    assert facts["float16_agrees"] < 0.5
    assert str(path.parent) not in json.dumps(facts)
    with pytest.raises(ValueError, match="same tiles in the same order"):
        save_predictions(model, tiles[:5], exact=exact)
    before = file.read_bytes()
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with pytest.raises(CheckpointError, match="has changed since it was loaded"):
        save_predictions(model, tiles)
    assert file.read_bytes() == before
    model, _ = load_checkpoint(path)
    with pytest.raises(ValueError, match="two tiles share one"):
        save_predictions(model, tiles[[0, 0]])


def test_a_new_checkpoint_of_that_name_has_no_old_predictions(own, tiles):
    """Saving over a checkpoint takes the predictions of the old one away."""
    path, file = own
    torch.manual_seed(1)
    save_checkpoint(create_model("test_resnet", image_size=32), None, path)
    assert not file.exists()
    assert predict(load_checkpoint(path)[0], tiles[:2], cache=True).read_from == ""


def test_components_hold_what_spreads_most():
    """Points of a plane in many dimensions keep their distances in two components."""
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(32, 2)))[0]
    points = rng.normal(size=(50, 2)) @ plane.T + 7
    components, share = principal_components(points, 2)
    assert share == pytest.approx(1)
    apart, found = (
        np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=2)
        for x in (points, components)
    )
    assert np.allclose(apart, found, atol=1e-2)
    again = principal_components(points[:, ::-1], 2)[0]
    assert np.allclose(components, again, atol=1e-2)  # with the same signs
    half = principal_components(np.diag([2.0, 1.0, 1.0, 1.0]), 1)[1]
    assert 0.25 < half < 0.8
    same, share = principal_components(np.ones((3, 4)), 2)
    assert share == 1
    assert not same.any()
    assert principal_components(points[:3], 32)[0].shape == (3, 3)
    large = principal_components(points * 1e6, 2)[0].astype(np.float64)
    assert np.abs(large).max() == np.finfo(np.float16).max
    assert np.allclose(large / large[0], components / components[0].astype(np.float64), rtol=1e-2)


# --- checked -------------------------------------------------------------------------------------


def test_a_sample_tells_right_from_wrong_predictions(model, tiles, monkeypatch):
    """The difference is 0 for what the model says, and what was added to one logit of all tiles."""
    known = predict(model, tiles)
    live, apart = predict_sample(model, known, tiles, count=20, seed=0)
    assert len(live) == 20
    assert apart == pytest.approx(0, abs=1e-5)
    wrong = known.logits.copy()
    wrong[:, 4] += 0.5
    assert predict_sample(model, replace(known, logits=wrong), tiles)[1] == pytest.approx(0.5, 1e-3)
    drawn = {predict_sample(model, known, tiles, count=5)[0].names for _ in range(3)}
    assert len(drawn) > 1, "other tiles each time"


@pytest.mark.eurosat
@pytest.mark.parametrize("name", ["resnet50", "vit"])
def test_shipped_predictions_are_what_the_models_say_now(name, eurosat):
    """128 random test tiles predicted now agree with the file, which holds all 5,400."""
    from lulc_lib.splits import split

    model, test = load_checkpoint(CHECKPOINTS / name)[0], split(eurosat, "seed42").test
    known = predict(model, test, cache=True)
    assert known.read_from == f"{name}.predictions.npz"
    assert predict_sample(model, known, test)[1] < predictions.SAME_LOGITS


@pytest.mark.parametrize("name", names_in(CHECKPOINTS))
def test_shipped_predictions_belong_to_their_checkpoint(name):
    """Without the tiles: the file names the weights, speaks of the test tiles, and is small."""
    file = CHECKPOINTS / f"{name}.predictions.npz"
    card = read_card(CHECKPOINTS / name)
    with np.load(file) as stored:
        facts = json.loads(str(stored["facts"]))
    assert facts["weights_sha256"] == card.weights_sha256
    assert facts["part"] == card.metrics["part"]
    assert facts["spread"] > 0.8
    assert file.stat().st_size < 7e5


def test_reading_needs_no_model(own, tiles):
    """The rows are found from names, pixels and digests alone."""
    path, file = own
    model, card = load_checkpoint(path)
    kept = read_kept(file, card.weights_sha256, tiles[[5, 2]], model_key(model))
    assert kept.file == "small.predictions.npz"
    assert kept.logits.shape == (2, 10)
    assert read_kept(file.with_name("none.npz"), "", tiles, model_key(model)) is None
