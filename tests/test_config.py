"""Settings check themselves when made, and survive a trip through JSON."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from lulc_lib.config import History, RunConfig


def test_defaults_are_valid_and_frozen():
    """The defaults pass their own checks, and nothing can change them afterwards."""
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.epochs = 3


def test_limits_are_allowed():
    """Values on the border of a range belong to it."""
    config = RunConfig(
        epochs=1, batch_size=1, weight_decay=0, label_smoothing=0, ema=0, seed=0, warmup_epochs=1
    )
    assert config.epochs == 1
    assert RunConfig(seed=2**31 - 1, shift=32, crop_scale=0.01).shift == 32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("warmup_epochs", -1.0),
        ("warmup_epochs", 11.0),
        ("label_smoothing", 1.0),
        ("mixup", -0.1),
        ("shift", -1),
        ("shift", 33),
        ("crop_scale", 0.0),
        ("colour", 1.1),
        ("crop_scale", 1.1),
        ("ema", 1.0),
        ("clip_norm", -1.0),
        ("accumulate", 0),
        ("seed", -1),
        ("save_every", 0),
        ("schedule", "step"),
        ("augment", "colour"),
        ("precision", "float16"),
        ("best_by", "accuracy"),
        ("tracker", "mlflow"),
        ("model", ""),
        ("sizes", ((1, 64),)),
        ("sizes", ((0, 64), (0, 96))),
        ("sizes", ((0, 64), (2, 96), (1, 128))),
        ("sizes", ((0, 8),)),
    ],
)
def test_value_out_of_range_is_named(name: str, value: object):
    """A value that cannot be meant is refused when the settings are made, by field and value."""
    with pytest.raises(ValueError, match=name) as caught:
        RunConfig(**{name: value})
    shown = repr(value)[1:-1] if name == "sizes" else repr(value)
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 2.0),
        ("epochs", "2"),
        ("epochs", True),
        ("learning_rate", "1e-3"),
        ("learning_rate", None),
        ("weight_decay", False),
        ("decay_everything", 1),
        ("channels_last", "yes"),
        ("model", 50),
        ("schedule", None),
        ("seed", 4.2),
        ("sizes", 64),
        ("sizes", ("ab", "cd")),
    ],
)
def test_wrong_type_is_named(name: str, value: object):
    """A value of another type is refused by field and value, also a bool where a number belongs."""
    with pytest.raises(TypeError, match=name) as caught:
        RunConfig(**{name: value})
    assert repr(value) in str(caught.value)


def test_numbers_may_be_whole():
    """An int stands for a float, as in the RunConfig(weight_decay=2) a person writes."""
    assert RunConfig(weight_decay=2, learning_rate=1).weight_decay == 2


def test_every_field_is_checked():
    """No field accepts just anything: an object of no known type is refused by all of them."""
    for field in fields(RunConfig):
        with pytest.raises((TypeError, ValueError), match=field.name):
            RunConfig(**{field.name: object()})


def test_json_round_trip():
    """Settings come back from JSON equal, pairs as pairs."""
    config = RunConfig(model="vit", sizes=((0, 64), (3, 96)), mixup=0.2, channels_last=True)
    text = config.to_json()
    assert RunConfig.from_json(text) == config
    assert RunConfig.from_dict(json.loads(text)) == config


def test_unknown_field_suggests_the_nearest():
    """A misspelt field is an error that names the field meant."""
    with pytest.raises(TypeError, match=r"no field 'learningrate'; did you mean 'learning_rate'\?"):
        RunConfig.from_dict({"learningrate": 1e-3})
    with pytest.raises(TypeError, match=r"no field 'zzz'$"):
        RunConfig.from_json('{"zzz": 1}')


def test_size_at_follows_the_plan():
    """The size inside is that of the latest entry begun, and the model's own without a plan."""
    planned = RunConfig(sizes=((0, 64), (3, 96)))
    assert [planned.size_at(epoch) for epoch in range(5)] == [64, 64, 64, 96, 96]
    assert RunConfig().size_at(0) is None


def test_seed_preset_is_the_earlier_recipe():
    """The preset `seed` gives each model the earlier project's settings."""
    resnet = RunConfig.preset("seed", model="resnet50")
    vit = RunConfig.preset("seed", model="vit_base")
    for config in (resnet, vit):
        assert (config.learning_rate, config.weight_decay, config.batch_size) == (1e-5, 2, 16)
        assert (config.best_by, config.schedule, config.warmup_epochs) == ("loss", "constant", 0)
        assert (config.label_smoothing, config.mixup, config.ema, config.clip_norm) == (0, 0, 0, 0)
        assert config.decay_everything
    assert (resnet.epochs, resnet.augment, resnet.crop_scale) == (10, "flip", 0.08)
    assert (vit.epochs, vit.augment, vit.crop_scale) == (20, "none", 1)


def test_preset_takes_changes():
    """Changes lie on top of a preset, and are checked like any value."""
    changed = RunConfig.preset("seed", model="resnet50", epochs=2)
    assert changed == replace(RunConfig.preset("seed", model="resnet50"), epochs=2)
    with pytest.raises(ValueError, match="epochs must lie in"):
        RunConfig.preset("quick", epochs=0)


def test_unknown_preset_is_named():
    """A preset that does not exist is refused with the ones that do."""
    with pytest.raises(ValueError, match="preset must be one of seed, quick, got 'best'"):
        RunConfig.preset("best")


def test_history_knows_its_best_epoch():
    """The kept epoch's numbers are there; without one they are empty, not another epoch's."""
    epochs = ({"epoch": 0.0, "val_loss": 0.5}, {"epoch": 1.0, "val_loss": 0.4})
    assert History(epochs=epochs, best_epoch=1).best == epochs[1]
    assert History(epochs=epochs).best == {}
    assert History().best == {}


def test_history_round_trip():
    """A history comes back from JSON equal."""
    history = History(
        epochs=({"epoch": 0.0, "val_loss": 0.5},), best_epoch=0, seconds=1.5, hardware="2 cores"
    )
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_histories_of_two_stages_become_one():
    """Epochs are numbered through, seconds add up, the kept epoch is the second stage's."""
    first = History(({"epoch": 0.0}, {"epoch": 1.0}), 1, 10.0, "A")
    second = History(({"epoch": 0.0}, {"epoch": 1.0}), 0, 5.0, "B")
    both = second.after(first)
    assert [row["epoch"] for row in both.epochs] == [0, 1, 2, 3]
    assert (both.best_epoch, both.seconds, both.hardware) == (2, 15.0, "B")
    assert second.after(History()) == second
    assert History().after(first).best == {}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"epochs": 10**400}, ValueError, "epochs must lie in .* got a whole number of 1329 bits"),
        ({"learning_rate": 10**400}, ValueError, "finite and positive, got a whole number"),
        ({"learning_rate": float("inf")}, ValueError, "finite and positive, got inf"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay must lie in"),
        ({"sizes": [(0, float("inf"))]}, TypeError, "sizes must be at most 1000 pairs"),
        ({"sizes": [(0, 10**9)]}, ValueError, "sizes must be 16 to 1024 pixels"),
        ({"sizes": [(0, 64)] * 10**5}, TypeError, "sizes must be at most 1000 pairs"),
        ({"model": "x" * 10**6}, ValueError, "model must be at most 4096 printable letters"),
        ({"model": "a\nb"}, ValueError, "model must be at most 4096 printable letters"),
        ({"optimizer": "x" * 4000}, ValueError, "optimizer must be one of"),
        ({"x" * 10**6: 1}, TypeError, "RunConfig has no field"),
        ([1], TypeError, "settings must be fields of RunConfig"),
    ],
)
def test_settings_are_bounded(values, error, message):
    """Whatever a file of settings holds, the error names the field in one short line."""
    with pytest.raises(error, match=message) as caught:
        RunConfig.from_dict(values)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"epochs": ' + "9" * 5000 + "}", "{", "\x00"])
def test_text_of_settings_is_read_within_bounds(text):
    """Depth and length end in our error, never in Python's own limits."""
    with pytest.raises(ValueError, match="the text of a RunConfig cannot be read as JSON"):
        RunConfig.from_json(text)
