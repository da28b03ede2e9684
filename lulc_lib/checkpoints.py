"""Save and load checkpoints: weights as safetensors, and a JSON card that says what they are.

Loading runs no code from the files and needs no network.
"""

import base64
import hashlib
import json
import math
import os
import platform
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lulc_lib import __version__
from lulc_lib.config import History, RunConfig
from lulc_lib.kept import write_kept
from lulc_lib.metrics import Predictions, Report, model_key, predict
from lulc_lib.models import ALIASES, EUROSAT_MEAN, TileClassifier, create_model, from_spec
from lulc_lib.storage import atomic_write, sha256_file
from lulc_lib.tiles import CLASSES, TileSet, TrainedOn

CARD_FORMAT = 1  # raised when a card can no longer be read by older code
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")
_PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
_OWN_FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"  # of the checkout
_MOST_NAMES = 2**26  # bytes of training names at most: a card cannot swell up in memory
# Arguments with which timm would fetch or read other files than the checkpoint.
_FORBIDDEN = {"pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg"}
_FORBIDDEN |= {"pretrained_cfg_overlay", "pretrained_strict", "features_only"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be saved or loaded; the message names the file and the remedy."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint is, where it came from and how well it does; the JSON beside the weights.

    Attributes:
        name: file name without its ending.
        model: data to build the model again; `architecture` is None for a wrapped module.
        classes: names of the ten classes, in the order of the logits.
        weights_sha256: digest of the safetensors file.
        precision: how parameters are stored, "float16" or "float32".
        config: settings of the training run (`RunConfig`), empty if not known.
        earlier: settings of the runs before it, first to last, whose weights it went on from.
        data: source, digest, part and count of the training tiles, empty if not known.
        training_names: names of the training tiles, sorted, one a line, zlib, base64.
        metrics: `Report.to_dict()`, with intervals, empty if not evaluated.
        metrics_tta: the same for predictions averaged over flips and turns, empty if not made.
        history: `History.to_dict()`, empty if not known.
        versions: of this library, Python and the packages that made the weights.
        seconds: time spent training.
        hardware: what it was trained on, in words.
        created: date and time of saving, ISO 8601, UTC.
        notes: free text, such as known limits.
        format: version of this layout.
    """

    name: str
    model: dict[str, Any]
    classes: list[str]
    weights_sha256: str
    precision: str = "float16"
    config: dict[str, Any] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    training_names: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    metrics_tta: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    hardware: str = ""
    created: str = ""
    notes: str = ""
    format: int = CARD_FORMAT

    def __repr__(self) -> str:
        return f"Card({self.summary()!r})"

    def summary(self) -> str:
        """Return one line: model, training tiles and figures."""
        size = self.model.get("image_size", "?")
        words = [f"{self.name}: {self.model.get('name', '?')} at {size} px"]
        if self.data:
            count, part = self.data.get("count", 0), self.data.get("part", "?")
            words.append(f"trained on {count:,} tiles ({self.data.get('source', '?')}, {part})")
        for key, title in _TITLES.items():
            if key in self.metrics and key != "ece":
                words.append(f"{title} {_interval_text(self.metrics[key])}")
        return ", ".join(words)

    def trained_on(self) -> TrainedOn | None:
        """Return the training tiles by name, None where the card names none."""
        if not self.data:
            return None
        names = _unpack(self.training_names)
        if len(names) != self.data["count"]:
            raise CheckpointError(
                f"the card of {self.name} speaks of {self.data['count']} training tiles and "
                f"names {len(names)}: it was changed or cut short; save or copy it again"
            )
        return TrainedOn(self.data["source"], self.data["digest"], self.data["part"], names)

    def run_config(self) -> RunConfig | None:
        """Return the settings of the training run, None where the card has none.

        Where several runs followed each other, they are those of the last one; see `stages`.
        """
        return RunConfig.from_dict(self.config) if self.config else None

    def stages(self) -> list[RunConfig]:
        """Return the settings of all training runs that made these weights, first to last."""
        runs = [*self.earlier, self.config] if self.config else []
        return [RunConfig.from_dict(values) for values in runs]

    def command(self) -> str:
        """Return the `lulc train` lines, one a stage, that repeat the recipe; "" if none can.

        None can where the card has no settings, or the model was made with arguments of its own.
        """
        stages = self.stages()
        names = [f"{self.name}-{number}" for number in range(1, len(stages))] + [self.name]
        lines = []
        for number, config in enumerate(stages):
            line = self._line(config, names[number - 1] if number else "")
            if not line:
                return ""
            lines.append(line if len(stages) == 1 else f"{line} --name {names[number]}")
        return "\n".join(lines)

    def _line(self, config: RunConfig, before: str) -> str:
        name = self.model.get("name", "")
        _, usual_size, usual = ALIASES.get(name, (name, None, {}))
        if self.model.get("arguments") != usual:
            return ""
        words = ["lulc train --model", name]
        if before:
            words.append(f"--start runs/{before}/{before}")
        elif list(self.model["mean"]) != list(EUROSAT_MEAN):
            words.append("--pretrained")
        if not (before or config.sizes) and self.model["image_size"] != usual_size:
            words.append(f"--image-size {self.model['image_size']}")
        part = self.data.get("part", "").partition("/")[0]
        if part not in ("", "seed42"):
            words.append(f"--split {part}")
        for key, value in vars(config).items():
            if value == getattr(RunConfig, key) or key in ("model", "save_every", "tracker"):
                continue
            pairs = ",".join(f"{first}:{size}" for first, size in config.sizes)
            text = pairs if key == "sizes" else f"{value}"
            words.append(f"--set {key}={text.lower() if isinstance(value, bool) else text}")
        return " ".join(words)


_TITLES = {
    "macro_f1": "macro-F1",
    "macro_auprc": "AUPRC",
    "accuracy": "accuracy",
    "ece": "ECE",
}


# --- saving --------------------------------------------------------------------------------------


def save_checkpoint(
    model: TileClassifier,
    config: RunConfig | None,
    path: str | Path,
    report: Report | None = None,
    history: History | None = None,
    notes: str = "",
    precision: str = "float16",
    report_tta: Report | None = None,
    earlier: Sequence[RunConfig] = (),
) -> Path:
    """Write NAME.safetensors and NAME.json; return the path of the weights.

    Each file appears whole or not at all. The card comes last and names the digest of its
    weights, so that a pair torn by a kill between the two is recognised on loading. Predictions
    that an earlier checkpoint of that name had beside it are deleted.

    Args:
        model: the model; its `trained_on` goes into the card.
        config: settings of the training run, None if there was none.
        path: "folder/NAME"; the folder is made.
        report: figures on test tiles.
        history: of the training run.
        notes: free text, such as known limits.
        precision: of the parameters: "float16" halves the file, "float32" keeps every bit.
            Buffers, such as BatchNorm's statistics, keep their own dtype.
        report_tta: figures of `predict(..., tta=True)`, told apart from those of a single view.
        earlier: settings of the runs whose weights this one went on from, first to last.

    Raises:
        TypeError: if an argument has the wrong type.
        CheckpointError: if the name or precision is not usable, or a weight is NaN, infinite or
            too large for float16.
    """
    for value, kind, what in (
        (model, TileClassifier, "model must be a TileClassifier (see create_model)"),
        (config, RunConfig | None, "config must be a RunConfig or None"),
        (report, Report | None, "report must be a Report (see evaluate) or None"),
        (report_tta, Report | None, "report_tta must be a Report (see evaluate) or None"),
        (history, History | None, "history must be a History (see fit) or None"),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{what}, got {type(value).__name__}")
    for name, value, expected in (("report", report, False), ("report_tta", report_tta, True)):
        if value is not None and value.tta != expected:
            views = "eight averaged views" if value.tta else "a single view"
            raise CheckpointError(f"{name} holds figures of {views}; swap report and report_tta")
    if precision not in _PRECISIONS:
        raise CheckpointError(f"precision must be float16 or float32, got {precision!r}")
    weights, card_path = _pair(path)
    if card_path.name.removesuffix(".json").lower().endswith(_PICKLES):
        raise CheckpointError(
            f"{str(path)!r} ends like a pickle; the weights become NAME.safetensors: "
            "give folder/NAME without an ending"
        )
    tensors = _stored_tensors(model, _PRECISIONS[precision])
    with atomic_write(weights) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt"})
        sha256 = sha256_file(temporary)
    card = Card(
        name=card_path.name.removesuffix(".json"),
        model=_description(model),
        classes=list(CLASSES),
        weights_sha256=sha256,
        precision=precision,
        config=asdict(config) if config else {},
        earlier=[asdict(stage) for stage in earlier],
        metrics=report.to_dict() if report else {},
        metrics_tta=report_tta.to_dict() if report_tta else {},
        history=history.to_dict() if history else {},
        versions=_versions(),
        seconds=history.seconds if history else 0.0,
        hardware=history.hardware if history else "",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes,
        **_training_data(model.trained_on),
    )
    text = json.dumps(_jsonable(asdict(card)), indent=1, allow_nan=False)
    with atomic_write(card_path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    _predictions_file(weights).unlink(missing_ok=True)
    return weights


def save_predictions(
    model: TileClassifier,
    tiles: TileSet,
    exact: Predictions | None = None,
    progress: bool = False,
) -> Predictions:
    """Predict tiles and write NAME.predictions.npz beside the model's checkpoint.

    `predict(..., cache=True)` then reads these logits wherever model, weights, settings and tiles
    are the same. The file holds the logits (float32), the first principal components of the
    features (float16), labels and names, and a hash of each tile's pixels.

    Args:
        model: as `load_checkpoint` gave it.
        tiles: test tiles, each with a name of its own.
        exact: predictions of the weights before they were rounded to float16: on how many tiles
            the answers agree is kept as well.
        progress: show a bar.

    Returns:
        The predictions, with features.

    Raises:
        CheckpointError: if the model was not loaded from a checkpoint, has changed since, or is a
            wrapped module.
        ValueError: if two tiles share a name, or `exact` is of other tiles.
    """
    if model.predictions_file is None or model.spec is None:
        raise CheckpointError(
            f"{model.name} {'is a wrapped module' if model.spec is None else 'has no checkpoint'}: "
            "predictions are kept for a model that load_checkpoint has built"
        )
    stored, _ = load_checkpoint(model.predictions_file.with_name(
        model.predictions_file.name.removesuffix(".predictions.npz")
    ))  # fmt: skip
    if model_key(model) != model_key(stored):
        raise CheckpointError(
            f"{model.name} has changed since it was loaded, so that its predictions do not belong "
            "beside its checkpoint; save the model first, and load it again"
        )
    if exact is not None and exact.names != tiles.names:
        raise ValueError("exact must hold predictions of the same tiles in the same order")
    made = predict(model, tiles, features=True, progress=progress)
    facts = {"weights_sha256": model.card.weights_sha256, "torch": torch.__version__}
    if exact is not None:
        facts["float16_agrees"] = float((made.predicted == exact.predicted).mean())
    key = model_key(model)
    write_kept(model.predictions_file, tiles, made.logits, made.features, key, facts)
    return made


def _predictions_file(weights: Path) -> Path:
    return weights.with_name(f"{weights.name.removesuffix('.safetensors')}.predictions.npz")


def _stored_tensors(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{name} holds NaN or infinite values: the training diverged; nothing was saved. "
                "Lower learning_rate, set clip_norm=1.0, or save the best epoch instead"
            )
        if name in parameters and value.is_floating_point():
            largest = float(value.abs().max()) if value.numel() else 0.0
            value = value.to(dtype)
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(
                    f"{name} has a value of {largest:.4g}, beyond float16's 65504; nothing was "
                    "saved. Save with precision='float32'"
                )
        tensors[name] = value.clone(memory_format=torch.contiguous_format)
    return tensors


def _description(model: TileClassifier) -> dict[str, Any]:
    """Return what builds the model again; a wrapped module needs its own code for that."""
    if model.spec is not None:
        return model.spec
    seen = {"name": model.name, "image_size": model.image_size}
    return {**seen, "architecture": None, "mean": list(model.mean), "std": list(model.std)}


def _training_data(trained_on: TrainedOn | None) -> dict[str, Any]:
    if trained_on is None:
        return {}
    data = {"source": trained_on.source, "digest": trained_on.digest, "part": trained_on.part}
    data["count"] = len(trained_on.names)
    return {"data": data, "training_names": _pack(trained_on.names)}


def _pack(names: tuple[str, ...]) -> str:
    for name in names:
        if "\n" in name:
            raise CheckpointError(f"the name of a training tile has a line break: {name!r}")
    return base64.b64encode(zlib.compress("\n".join(sorted(names)).encode(), 9)).decode()


def _unpack(packed: str) -> tuple[str, ...]:
    if not packed:
        return ()
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), _MOST_NAMES)
        return tuple(text.decode().split("\n")) if text else ()
    except (ValueError, zlib.error) as error:
        raise CheckpointError(f"the card's training_names cannot be read: {error}") from error


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "numpy")
    own = {"lulc_lib": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in packages}


def _jsonable(value: Any) -> Any:
    """Make data JSON-able: NaN and infinities, which JSON has no word for, become None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- finding -------------------------------------------------------------------------------------


def available_checkpoints() -> list[str]:
    """Return the names that `load_checkpoint` finds, sorted."""
    return sorted({name for folder in _folders() for name in _names_in(folder)})


def find_checkpoint(name: str | Path) -> Path:
    """Return the path of a checkpoint's weights.

    Args:
        name: a bare name, looked up in `$LULC_CHECKPOINTS` and then in the checkout's
            `checkpoints/`; or a path "folder/NAME", with or without .safetensors or .json.

    Raises:
        FileNotFoundError: if weights or card are missing; the message says what there is.
        CheckpointError: if the file is a pickle.
    """
    weights, card = _pair(name)
    if weights.name.removesuffix(".safetensors").lower().endswith(_PICKLES):
        raise CheckpointError(_pickle_text(Path(name)))
    if _is_path(name):
        _refuse_pickle_beside(weights, card)
        _need_both(weights, card)
        return weights
    folders = _folders()
    for folder in folders:
        weights, card = _pair(folder / name)
        if weights.is_file() or card.is_file():
            _need_both(weights, card)
            return weights
    for folder in folders:
        _refuse_pickle_beside(*_pair(folder / name))
    places = " or ".join(str(folder) for folder in folders) or "any folder (none is set)"
    raise FileNotFoundError(
        f"there is no checkpoint {name!r} in {places}; there is "
        f"{', '.join(available_checkpoints()) or 'none'}. Give one of these names, the path "
        "folder/NAME of another, or set LULC_CHECKPOINTS to a folder of checkpoints"
    )


def read_card(name: str | Path) -> Card:
    """Read the card of a checkpoint without its weights.

    Args:
        name: as in `find_checkpoint`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        CheckpointError: if the card is malformed or speaks of other classes.
    """
    return _parse_card(_pair(find_checkpoint(name))[1])


def _folders() -> list[Path]:
    chosen = os.environ.get("LULC_CHECKPOINTS")
    if chosen and not Path(chosen).is_dir():
        raise FileNotFoundError(
            f"LULC_CHECKPOINTS names {chosen!r}, which is not a folder; correct or unset it"
        )
    own = [_OWN_FOLDER] if _OWN_FOLDER.is_dir() else []
    return [Path(chosen).absolute(), *own] if chosen else own


def _names_in(folder: Path) -> list[str]:
    names = (path.name.removesuffix(".safetensors") for path in folder.glob("*.safetensors"))
    return sorted(name for name in names if (folder / f"{name}.json").is_file())


def _is_path(name: str | Path) -> bool:
    text = str(name)
    has_folder = "/" in text or os.sep in text
    return isinstance(name, Path) or has_folder or text.endswith((".safetensors", ".json"))


def _pair(path: str | Path) -> tuple[Path, Path]:
    """Return the paths of weights and card; a dot inside the name stays part of the name."""
    text = str(path)
    name = Path(text).name.removesuffix(".safetensors").removesuffix(".json")
    if text.endswith(("/", os.sep)) or name in ("", ".", ".."):
        raise CheckpointError(f"{text!r} names a folder; give folder/NAME")
    folder = Path(text).expanduser().absolute().parent
    return folder / f"{name}.safetensors", folder / f"{name}.json"


def _need_both(weights: Path, card: Path) -> None:
    missing = [path for path in (weights, card) if not path.is_file()]
    if not missing:
        return
    if len(missing) == 2:
        there = ", ".join(_names_in(weights.parent)) or "none"
        raise FileNotFoundError(
            f"there is no checkpoint {str(weights).removesuffix('.safetensors')!r}: neither "
            f"{weights.name} nor {card.name}; in that folder there is {there}"
        )
    raise FileNotFoundError(
        f"the checkpoint lacks {missing[0]}: weights (.safetensors) and card (.json) belong "
        "together; copy both, or save it again with save_checkpoint"
    )


def _refuse_pickle_beside(weights: Path, card: Path) -> None:
    stem = card.name.removesuffix(".json")
    pickles = (card.with_name(stem + ending) for ending in _PICKLES)
    found = next((path for path in pickles if path.is_file()), None)
    if found and not weights.exists():
        raise CheckpointError(_pickle_text(found))


def _pickle_text(path: Path) -> str:
    return (
        f"{path} is a pickle, and loading a pickle runs whatever code is inside: refused. Where "
        "you trust it, read it with torch.load(path, weights_only=True), put it into a model with "
        "load_state_dict, and write it with save_checkpoint"
    )


# --- loading -------------------------------------------------------------------------------------


def load_checkpoint(
    name: str | Path, model: nn.Module | None = None
) -> tuple[TileClassifier, Card]:
    """Load a model with its card: on the CPU, float32, eval mode; `model=` stays on its device.

    The model gets `.card`, and `.trained_on` from the card, so that its own training tiles are
    recognised. It knows where predictions may lie beside its weights, for
    `predict(..., cache=True)`.

    Args:
        name: a name or a path, as in `find_checkpoint`.
        model: a module to load into; needed where the card describes a wrapped module, whose code
            no checkpoint holds. A plain module is wrapped as the card says.

    Raises:
        FileNotFoundError: if weights or card are missing.
        CheckpointError: if the card is malformed, does not fit its weights or this library, or
            the file is a pickle.
    """
    path = find_checkpoint(name)
    card = _parse_card(_pair(path)[1])
    tensors = _read_weights(path, card)
    classifier = _built(card, path, model)
    _load_state(classifier, tensors, path)
    classifier.card = card
    classifier.trained_on = card.trained_on()
    classifier.predictions_file = _predictions_file(path)
    return classifier.eval(), card


def _parse_card(path: Path) -> Card:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"the card {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"the card {path} must hold an object, got {type(values).__name__}")
    if values.get("format") != CARD_FORMAT:
        raise CheckpointError(
            f"the card {path} has format {values.get('format')!r}, this library reads "
            f"{CARD_FORMAT}; take the lulc_lib that wrote it, or save the model again"
        )
    own = {spec.name: spec for spec in fields(Card)}
    lacking = [n for n in ("name", "model", "classes", "weights_sha256") if n not in values]
    if lacking:
        raise CheckpointError(f"the card {path} lacks {', '.join(lacking)}")
    for key in set(values) & set(own):
        expected = _kind(own[key].type)
        if not isinstance(values[key], expected) or isinstance(values[key], bool):
            wanted = getattr(expected, "__name__", expected)
            raise CheckpointError(
                f"{key} in the card {path} must be {wanted}, got {repr(values[key])[:80]}"
            )
    if values["classes"] != list(CLASSES):
        raise CheckpointError(
            f"the card {path} speaks of other classes: {values['classes']}; "
            f"this library's are {list(CLASSES)}"
        )
    if values.get("data") and not {"source", "digest", "part", "count"} <= set(values["data"]):
        raise CheckpointError(f"data in the card {path} must name source, digest, part and count")
    return Card(**{key: value for key, value in values.items() if key in own})


def _kind(annotation: Any) -> Any:
    kind = getattr(annotation, "__origin__", annotation)
    return int | float if kind is float else kind


def _read_weights(path: Path, card: Card) -> dict[str, Tensor]:
    """Read the weights once: what is hashed is what is loaded."""
    content = path.read_bytes()
    zipped_or_pickled = content.startswith((b"PK\x03\x04", b"\x80"))
    if zipped_or_pickled and content[8:9] != b"{":  # there a safetensors header begins
        raise CheckpointError(_pickle_text(path))
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.weights_sha256:
        raise CheckpointError(
            f"the card does not fit its weights: {path} has sha256 {digest[:12]}..., the card "
            f"names {card.weights_sha256[:12]}...; one of the two is from another save (cut "
            "short?) or damaged: save or copy both again"
        )
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _built(card: Card, path: Path, model: nn.Module | None) -> TileClassifier:
    try:
        if model is None:
            return _from_card(card, path)
        if isinstance(model, TileClassifier):
            _check_same_preparation(card, model)
            return model
        return create_model(model, **{k: card.model[k] for k in ("image_size", "mean", "std")})
    except CheckpointError:
        raise
    except Exception as error:  # a card from elsewhere may make timm fail in any way
        raise CheckpointError(
            f"the model of {path} cannot be built from its card: {type(error).__name__} {error}"
        ) from error


def _from_card(card: Card, path: Path) -> TileClassifier:
    if card.model.get("architecture") is None:
        raise CheckpointError(
            f"{path} holds the weights of a wrapped module ({card.model.get('name')!r}), whose "
            "code no checkpoint holds: build the module and pass it, "
            "load_checkpoint(path, model=module)"
        )
    forbidden = sorted(_FORBIDDEN & set(card.model.get("arguments", {})))
    if forbidden:
        raise CheckpointError(
            f"the card of {path} asks for {', '.join(forbidden)}, with which other files would be "
            "read; a checkpoint stands alone: take these out of the card"
        )
    return from_spec(card.model)


def _check_same_preparation(card: Card, model: TileClassifier) -> None:
    for key in ("image_size", "mean", "std"):
        wanted, own = card.model[key], getattr(model, key)
        if not np.allclose(wanted, own, rtol=0, atol=1e-5):
            raise CheckpointError(
                f"the model passed has {key} {own}, the card says {wanted}; "
                f"make it with create_model(module, {key}={wanted})"
            )


def _load_state(model: TileClassifier, tensors: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    wrong = [f"lacks {name}" for name in own if name not in tensors]
    wrong += [f"has {name}, unknown to the model" for name in tensors if name not in own]
    wrong += [
        f"has {name} of shape {tuple(tensors[name].shape)}, the model {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"the weights {path} do not fit {model.name} at {model.image_size} px: the file "
            f"{'; '.join(wrong[:3])}{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}"
        )
    model.load_state_dict(tensors)  # copies, and turns float16 into the model's float32


# --- describing ----------------------------------------------------------------------------------


def describe_cards(folder: str | Path) -> str:
    """Return the page of model cards, as Markdown, from the JSON cards of a folder.

    Raises:
        FileNotFoundError: if the folder is missing.
        CheckpointError: if a card is malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of checkpoints {folder}")
    cards = [_parse_card(folder / f"{name}.json") for name in _names_in(folder)]
    if not cards:
        return f"{_PAGE_HEAD}\nThere are no checkpoints here yet.\n"
    rows = [_overview_row(card, folder) for card in cards]
    overview = _table(["checkpoint", "size inside", *_TITLES.values(), "file"], rows)
    sections = [_section(card) for card in cards]
    return "\n".join([_PAGE_HEAD, overview, *sections, _PAGE_FOOT])


_PAGE_HEAD = """# Model cards

Written by `lulc cards` from the JSON cards in this folder: change those, not this page. Figures
are followed by their 95 % bootstrap interval over test tiles; training once more would move them
too. `lulc.load_checkpoint("NAME")` loads a model; the weights are safetensors and run no code. What
it says of the test tiles lies in `NAME.predictions.npz`; `lulc.predict(..., cache=True)` reads it.
"""

_PAGE_FOOT = """## For all of them

**Use.** Learning what a land-cover classifier looks at on EuroSAT. Not for mapping: EuroSAT's
tiles were picked so that one class fills each, over Europe, in clear weather; other places,
seasons, sensors and mixed tiles were never seen. Tiles that lie beside training tiles make test
figures of a random split look better than figures on new ground. A probability is not the chance
of being right unless the ECE is small.

**Data and credit.** EuroSAT (RGB), MIT licence, (c) Patrick Helber: Helber, Bischke, Dengel and
Borth 2019, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
Classification", IEEE JSTARS, doi 10.1109/JSTARS.2019.2918242. Contains modified Copernicus
Sentinel data. The weights are under the licence of this project (MIT).
"""


def _overview_row(card: Card, folder: Path) -> list[str]:
    megabytes = (folder / f"{card.name}.safetensors").stat().st_size / 1e6
    figures = [_interval_text(card.metrics.get(key)) for key in _TITLES]
    size = f"{card.model.get('image_size', '?')} px"
    return [f"`{card.name}`", size, *figures, f"{megabytes:.1f} MB, {card.precision}"]


def _section(card: Card) -> str:
    metrics, data = card.metrics, card.data
    architecture = card.model.get("architecture") or f"{card.model.get('name')} (wrapped)"
    architecture = architecture.partition(".")[0]  # the tag names weights, not a network
    arguments = (card.model.get("arguments") or {}).items()
    words = [architecture, *(f"{key.replace('_', ' ')} {value}" for key, value in arguments)]
    lines = [f"## {card.name}", "", f"- **Model**: {', '.join(words)}"]
    first = card.model.get("pretrained")
    lines[-1] += f", {card.model.get('image_size', '?')} px inside, first weights "
    lines[-1] += f"from {first}" if first else "random"
    if data:
        lines.append(
            f"- **Trained on**: {data['count']:,} tiles of {data['source']}, {data['part']} "
            f"(data set digest `{data['digest'][:12]}`)"
        )
    if metrics:
        lines.append(f"- **Tested on**: {_tested_on(metrics)}")
    if card.metrics_tta:
        figures = [f"{t} {_interval_text(card.metrics_tta.get(k))}" for k, t in _TITLES.items()]
        lines.append(f"- **Averaged over eight flips and turns**: {', '.join(figures)}")
    if card.config:
        stages = [*card.earlier, card.config]
        recipes = [_recipe(stages[0])] + [_changes(*pair) for pair in pairwise(stages)]
        lines.append(f"- **Recipe**: {'; then, from its best weights, '.join(recipes)}")
    if card.seconds or card.hardware:
        lines.append(f"- **Cost**: {card.seconds / 60:.0f} minutes, {card.hardware or 'unknown'}")
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    lines.append(f"- **Made**: {card.created[:10] or 'unknown'} with {versions or 'unknown'}")
    lines.append(f"- **Limits**: {card.notes or 'see the end of this page'}")
    return "\n".join([*lines, "", _class_table(metrics)])


def _tested_on(metrics: dict[str, Any]) -> str:
    text = f"{metrics['n']:,} tiles of {metrics['source']}, {metrics['part']}"
    if metrics.get("training_tiles"):
        text += f" (**{metrics['training_tiles']:,} of them training tiles**)"
    return text


def _recipe(config: dict[str, Any]) -> str:
    silent = ("model", "save_every", "tracker")
    kept = {key: value for key, value in config.items() if key not in silent and value}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in kept.items())


def _changes(before: dict[str, Any], config: dict[str, Any]) -> str:
    """Return what a run's settings change of those before it, in words."""
    known = {"epochs": config["epochs"]}
    known |= {key: value for key, value in config.items() if value != before.get(key)}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())


def _class_table(metrics: dict[str, Any]) -> str:
    if not metrics.get("per_class"):
        return ""
    columns = {
        "producers_accuracy": "producer's accuracy",
        "users_accuracy": "user's accuracy",
        "f1": "F1",
        "ap": "AP",
    }
    rows = [
        [name, *(_cell(row[key]) for key in columns), f"{row['support']:,}"]
        for name, row in metrics["per_class"].items()
    ]
    return _table(["class", *columns.values(), "tiles"], rows)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _interval_text(figure: dict[str, float] | None) -> str:
    if not figure:
        return "-"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
