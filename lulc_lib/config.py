"""Settings of a training run and its history, as plain data that checks itself."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lulc_lib.files import one_line, read_json
from lulc_lib.wording import did_you_mean

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("constant", "cosine", "onecycle")
AUGMENTATIONS = ("none", "flip", "d4", "d4_cycle")
PRECISIONS = ("float32", "bfloat16")
CRITERIA = ("loss", "macro_f1")
TEACHER_SEES = ("tile", "view")
TRACKERS = ("none", "tensorboard", "wandb")
MOST_LIVE_TILES = 400  # on a live page; kept here, where the command line can ask without torch


def check_precision(precision: Any) -> None:
    """Refuse a precision to compute in that there is not.

    Raises:
        ValueError: if it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(PRECISIONS)}, got {precision!r}")


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run; checked when made, JSON in and out.

    Raises:
        TypeError: if a field is unknown or has the wrong type; the message names it.
        ValueError: if a value is out of range; the message names the field and the value.
    """

    model: str = "resnet50"  # any timm name or an alias: what to train
    epochs: int = 10  # passes over the training tiles
    batch_size: int = 128  # tiles a step, over all processes together
    optimizer: str = "adamw"  # muon: orthogonalised steps for matrices, AdamW for the rest
    learning_rate: float = 1e-3  # peak of the schedule
    weight_decay: float = 0.05  # decoupled, as AdamW's; norms and biases are spared
    decay_everything: bool = False  # also norms and biases, as plain AdamW(model.parameters()) does
    schedule: str = "cosine"  # how the rate moves after warm-up: constant, cosine, onecycle
    warmup_epochs: float = 0.5  # linear rise from 0: AdamW's first moments are noise
    label_smoothing: float = 0.05  # softens one-hot targets: EuroSAT has wrong labels
    mixup: float = 0.0  # Beta(a, a) of blended pairs, 0 = off: more views from few tiles
    cutmix: float = 0.0  # Beta(a, a) of patches put in from another tile, 0 = off
    # checkpoint whose probabilities are learned too, or several as "a, b", whose mean is learned:
    # small models learn better
    teacher: str = ""
    distill: float = 0.0  # their weight in the targets, the labels have the rest
    # tile: each tile once, as it is; view: what the student sees, at every step, which costs more
    teacher_sees: str = "tile"
    # d4: the 8 flips and quarter turns, true for a view from above, drawn each time; d4_cycle: each
    # tile meets them in turn, from a start of its own
    augment: str = "d4"
    shift: int = 0  # up to so many pixels each way, edges reflected: position carries no label
    crop_scale: float = 1.0  # smallest area of a random resized crop, 1 = no crop
    colour: float = 0.0  # brightness, contrast, saturation move by up to this share: as haze does
    erase: float = 0.0  # chance that a rectangle is blanked, 0 = off: no single spot decides
    precision: str = "float32"  # bfloat16: autocast, twice the speed where the processor has it
    channels_last: bool = False  # memory order that convolutions on CPU and GPU prefer
    ema: float = (
        0.0  # decay of averaged weights, 0 = off: smoother; kept where they validate better
    )
    clip_norm: float = 0.0  # largest gradient norm, 0 = off: keeps a ViT's early steps finite
    accumulate: int = 1  # parts a batch is worked through in: large batches in little memory
    sizes: tuple[tuple[int, int], ...] = ()  # (first epoch, size inside): cheap small epochs first
    best_by: str = "loss"  # validation criterion that picks the kept weights
    seed: int = 42  # order of tiles, augmentation, initial weights when the caller seeds with it
    save_every: int = 200  # steps between saved states, besides one at each epoch's end
    tracker: str = "none"  # tensorboard or wandb: curves outside the notebook

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", _checked_sizes(self.sizes))
        for spec in fields(self):
            _check_type(spec.name, spec.type, getattr(self, spec.name))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN too
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {_shown(value)}")
        if not 0 < self.learning_rate <= _LARGEST:
            raise ValueError(
                f"learning_rate must be finite and positive, got {_shown(self.learning_rate)}"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs must not exceed epochs ({self.epochs}), got {self.warmup_epochs!r}"
            )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {_shown(getattr(self, name))}"
                )
        if bool(self.teacher) != bool(self.distill):
            raise ValueError(
                "teacher and distill go together: a checkpoint, and its weight in the targets; "
                f"got teacher={self.teacher!r}, distill={self.distill!r}"
            )
        if self.teacher_sees != "tile" and not self.teacher:
            raise ValueError(
                f"teacher_sees={self.teacher_sees!r} needs a teacher; name a checkpoint, or leave "
                "it out"
            )
        if self.teacher and not all(self.teachers):
            raise ValueError(
                f"teacher must be names with commas between, got {_shown(self.teacher)}"
            )
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"teacher names a checkpoint twice, got {_shown(self.teacher)}")
        if not self.model:
            raise ValueError("model must be a name, got ''")
        if self.sizes and self.sizes[-1][0] >= self.epochs:
            raise ValueError(
                f"sizes must all begin before the last of {self.epochs} epochs, got "
                f"{_shown(self.sizes)}"
            )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The checkpoints that `teacher` names."""
        return tuple(map(str.strip, self.teacher.split(","))) if self.teacher else ()

    def size_at(self, epoch: int) -> int | None:
        """Return the size inside the model at an epoch, None when the model's own is kept."""
        sizes = [size for first, size in self.sizes if first <= epoch]
        return sizes[-1] if sizes else None

    def is_last_size(self, epoch: int) -> bool:
        """Return whether an epoch works at the last of `sizes`: only such epochs can be kept."""
        return not self.sizes or self.size_at(epoch) == self.sizes[-1][1]

    def to_json(self) -> str:
        """Return the settings as JSON text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Make settings from a dictionary; an unknown field is an error with the nearest name."""
        known = [spec.name for spec in fields(cls)]
        if not isinstance(values, dict):
            raise TypeError(f"settings must be fields of RunConfig, got {_shown(values)}")
        for name in values:
            if name not in known:
                hint = did_you_mean(str(name)[:80], known)
                raise TypeError(f"RunConfig has no field {_shown(name)}{hint}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Make settings from JSON text, read within bounds."""
        return cls.from_dict(read_json(text, "the text of a RunConfig", most_bytes=2**20))

    @classmethod
    def preset(cls, name: str, model: str = "resnet50", **changes: Any) -> "RunConfig":
        """Return the settings of a named recipe, with changes on top.

        "seed" is the earlier project's recipe (iamKateryna/EuroSAT-ImageClassification): AdamW
        with lr 1e-5 and weight decay 2, batch 16, best checkpoint by validation loss, ImageNet
        weights. ResNet50 saw random resized crops and horizontal flips for 10 epochs, ViT-B/16 no
        augmentation for 20.

        "quick" is for a first look: a few epochs at the tile's own size.
        """
        if name == "quick":
            return cls(**{"model": model, "epochs": 3, "precision": "float32"} | changes)
        if name != "seed":
            raise ValueError(f"preset must be one of seed, quick, got {name!r}")
        recipe: dict[str, Any] = {
            "model": model,
            "learning_rate": 1e-5,
            "weight_decay": 2.0,
            "decay_everything": True,
            "batch_size": 16,
            "schedule": "constant",
            "warmup_epochs": 0.0,
            "label_smoothing": 0.0,
            "best_by": "loss",
            "seed": 42,
        }
        if "vit" in model:
            recipe |= {"epochs": 20, "augment": "none"}
        else:
            recipe |= {"epochs": 10, "augment": "flip", "crop_scale": 0.08}
        return cls(**recipe | changes)


_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "weight_decay": (0, 100),
    "warmup_epochs": (0, 100_000),
    "label_smoothing": (0, 0.99),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "distill": (0, 1),
    "colour": (0, 1),
    "erase": (0, 1),
    "shift": (0, 32),
    "crop_scale": (0.01, 1),
    "ema": (0, 0.999999),
    "clip_norm": (0, 1e6),
    "accumulate": (1, 10_000),
    "seed": (0, 2**31 - 1),
    "save_every": (1, 1_000_000_000),
}
_LARGEST = 1e38  # what float32 holds
_MOST_LETTERS = 4096  # of a name: the longest path that systems take
_MOST_SIZES = 1000
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "precision": PRECISIONS,
    "best_by": CRITERIA,
    "teacher_sees": TEACHER_SEES,
    "tracker": TRACKERS,
}


def _check_type(name: str, expected: Any, value: Any) -> None:
    allowed = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}.get(expected)
    if allowed is None:
        return
    wrong_bool = isinstance(value, bool) and expected is not bool
    if wrong_bool or not isinstance(value, allowed):
        raise TypeError(
            f"{name} must be {expected.__name__}, got {type(value).__name__} {_shown(value)}"
        )
    if isinstance(value, str) and (len(value) > _MOST_LETTERS or not value.isprintable()):
        raise ValueError(
            f"{name} must be at most {_MOST_LETTERS} printable letters, got {_shown(value)}"
        )


def _shown(value: Any) -> str:
    """Return a value for a message: one line, cut where it is too long."""
    if isinstance(value, int) and abs(value) > 10**40:
        return f"a whole number of {value.bit_length()} bits"
    return one_line(repr(value), 80)


def _checked_sizes(sizes: Any) -> tuple[tuple[int, int], ...]:
    try:
        if len(sizes) > _MOST_SIZES:
            raise ValueError("too many")
        pairs = tuple((int(first), int(size)) for first, size in sizes)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"sizes must be at most {_MOST_SIZES} pairs (first epoch, size inside in pixels), got "
            f"{_shown(sizes)}"
        ) from None
    firsts = [first for first, _ in pairs]
    if pairs and (firsts[0] != 0 or firsts != sorted(set(firsts))):
        raise ValueError(f"sizes must start at epoch 0 and rise, got {_shown(pairs)}")
    if any(not 16 <= size <= 1024 for _, size in pairs):
        raise ValueError(f"sizes must be 16 to 1024 pixels, got {_shown(pairs)}")
    return pairs


@dataclass(frozen=True)
class History:
    """What happened in a training run, epoch by epoch, as plain data.

    Attributes:
        epochs: one dict per epoch: epoch, train_loss, train_macro_f1, val_loss, val_macro_f1,
            val_accuracy, averaged (1 where the averaged weights were the better ones),
            learning_rate, size, images_per_second, seconds.
        best_epoch: index of the epoch whose weights were kept, -1 if none.
        seconds: time spent training and validating, over all resumptions.
        hardware: the processor or accelerator, in words; all that a resumed run has met, with
            semicolons between.
    """

    epochs: tuple[dict[str, float], ...] = ()
    best_epoch: int = -1
    seconds: float = 0.0
    hardware: str = ""
    interrupted: bool = field(default=False)

    @property
    def best(self) -> dict[str, float]:
        """Return the numbers of the kept epoch, empty if there is none."""
        return self.epochs[self.best_epoch] if 0 <= self.best_epoch < len(self.epochs) else {}

    def after(self, earlier: "History") -> "History":
        """Return an earlier stage's history and this one as one, its epochs numbered through."""
        shift = len(earlier.epochs)
        own = tuple({**row, "epoch": row["epoch"] + shift} for row in self.epochs)
        return replace(
            self, epochs=earlier.epochs + own, seconds=earlier.seconds + self.seconds,
            best_epoch=self.best_epoch + shift if self.best_epoch >= 0 else -1,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the history as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "History":
        """Make a history from JSON-able data."""
        return cls(**{**values, "epochs": tuple(values.get("epochs", ()))})
