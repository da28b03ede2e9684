"""Save and load checkpoints: weights as safetensors, and a JSON card that says what they are.

Loading runs no code from the files and needs no network.
"""

import contextlib
import hashlib
import os
import platform
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from lulc_lib import __version__
from lulc_lib.cards import (
    Card,
    CheckpointError,
    card_beside,
    card_text,
    check_card,
    check_name,
    jsonable,
    names_in,
    pack_names,
    parse_card,
    waiting_card,
)
from lulc_lib.config import History, RunConfig
from lulc_lib.evidence import report_file
from lulc_lib.files import atomic_write, home_expanded, one_line, open_regular, sync_folder
from lulc_lib.kept import write_kept
from lulc_lib.metrics import Report
from lulc_lib.models import TileClassifier, create_model, from_spec
from lulc_lib.predictions import Predictions, model_key, predict, structure, structure_digest
from lulc_lib.storage import sha256_file
from lulc_lib.tiles import CLASSES, TileSet, TrainedOn
from lulc_lib.weights import (
    PICKLES,
    WeightsError,
    is_pickle,
    parse_weights,
    read_shapes,
    write_weights,
)

_PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
_OWN_FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"  # of the checkout
# Arguments with which timm would fetch or read other files than the checkpoint.
_FORBIDDEN = {"pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg"}
_FORBIDDEN |= {"pretrained_cfg_overlay", "pretrained_strict", "features_only"}


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

    Weights and card are replaced as one: killed at any moment, the old or the new checkpoint
    loads. Predictions and a report card that lie beside an earlier checkpoint of that name are
    deleted, unless network and weights are the same.

    The card names no folder of this machine: a home folder becomes ~, and of a teacher's absolute
    path its name is kept.

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
        CheckpointError: if the name or precision is not usable, the card could not be loaded,
            the model has modules that its card would not build, or a weight is NaN, infinite or
            too large for float16.
    """
    for value, kind, what in (
        (model, TileClassifier, "model must be a TileClassifier (see create_model)"),
        (config, RunConfig | None, "config must be a RunConfig or None"),
        (report, Report | None, "report must be a Report (see evaluate) or None"),
        (report_tta, Report | None, "report_tta must be a Report (see evaluate) or None"),
        (history, History | None, "history must be a History (see fit) or None"),
        (notes, str, "notes must be a text ('' for none)"),
        *((stage, RunConfig, "earlier must hold RunConfigs") for stage in earlier),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{what}, got {type(value).__name__}")
    for name, value, expected in (("report", report, False), ("report_tta", report_tta, True)):
        if value is not None and value.tta != expected:
            views = "eight averaged views" if value.tta else "a single view"
            raise CheckpointError(f"{name} holds figures of {views}; swap report and report_tta")
    if precision not in _PRECISIONS:
        raise CheckpointError(f"precision must be float16 or float32, got {precision!r}")
    weights, place = _pair(path)
    check_name(place.name.removesuffix(".json"), str(path))
    if place.name.removesuffix(".json").lower().endswith(PICKLES):
        raise CheckpointError(
            f"{str(path)!r} ends like a pickle; the weights become NAME.safetensors: "
            "give folder/NAME without an ending"
        )
    tensors = _stored_tensors(model, _PRECISIONS[precision])
    _check_description(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    card = Card(
        name=place.name.removesuffix(".json"),
        model=_description(model),
        classes=list(CLASSES),
        weights_sha256="",
        precision=precision,
        config=_settings(config) if config else {},
        earlier=[_settings(stage) for stage in earlier],
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
    check_card(jsonable(asdict(card)), place)  # before anything is replaced
    before = _known_network(weights)
    with atomic_write(weights) as temporary:
        write_weights(temporary, tensors)
        digest = sha256_file(temporary)
        values = jsonable(asdict(replace(card, weights_sha256=digest)))
        # The card waits beside the weights until they are replaced; see card_beside.
        with atomic_write(waiting_card(weights)) as waiting:
            waiting.write_text(card_text(_without_home(values)), encoding="utf-8")
    waiting_card(weights).replace(place)
    sync_folder(weights.parent)
    if (digest, values["model"]) != before:
        for file in (_predictions_file(weights), report_file(weights)):
            file.unlink(missing_ok=True)
    return weights


def _known_network(weights: Path) -> tuple[str, Any]:
    """Return digest of the weights and description of the checkpoint that lies in a place."""
    with contextlib.suppress(OSError, ValueError):
        card = parse_card(card_beside(weights))
        return card.weights_sha256, card.model
    return "", None


def _check_description(model: TileClassifier, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a network that its description, all that a card keeps of it, would not build again."""
    if model.spec is None:
        return
    wrap = (
        f"create_model(model.network, image_size={model.image_size}, mean=model.mean, "
        "std=model.std) makes a model that can be saved, and loaded with model="
    )
    found = _too_large(model.spec["arguments"], shapes)
    if found is not None:
        raise CheckpointError(
            f"{model.name} was made with {one_line(repr(found[0]), 40)}, and a card's numbers may "
            f"be {found[1]:,} at most; {wrap}"
        )
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                described = from_spec(model.spec)
        except Exception:  # not every network can be built without memory
            described = from_spec(model.spec)
    own, told = structure(model.network), structure(described.network)
    for name in own | told:
        if own.get(name) != told.get(name):
            what, kept = (one_line(kinds.get(name, "nothing"), 120) for kinds in (own, told))
            raise CheckpointError(
                f"{name or 'network'} is {what}, where the checkpoint would load {kept}: modules "
                f"were changed after create_model, which no card tells; {wrap}"
            )


def _settings(config: RunConfig) -> dict[str, Any]:
    teachers = (Path(name).name if Path(name).is_absolute() else name for name in config.teachers)
    return asdict(config) | {"teacher": ", ".join(teachers)}


def _without_home(value: Any) -> Any:
    """Return data in whose texts the user's home folder is ~."""
    if isinstance(value, Mapping):
        packed = ("training_names",)  # whose letters mean nothing
        return {k: v if k in packed else _without_home(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_home(item) for item in value]
    home = str(Path.home())
    if isinstance(value, str) and len(home) > 1:
        return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
    return value


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
    key = model_key(model)
    if key is None or key != model_key(stored):
        raise CheckpointError(
            f"{model.name} has changed since it was loaded, or holds modules or hooks of your own, "
            "so that its predictions do not belong beside its checkpoint; save the model first, "
            "and load it again"
        )
    if exact is not None and exact.names != tiles.names:
        raise ValueError("exact must hold predictions of the same tiles in the same order")
    made = predict(model, tiles, features=True, progress=progress)
    facts = {"weights_sha256": model.card.weights_sha256, "torch": torch.__version__}
    if exact is not None:
        facts["float16_agrees"] = float((made.predicted == exact.predicted).mean())
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
    return {"data": data, "training_names": pack_names(trained_on.names)}


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "numpy")
    own = {"lulc_lib": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in packages}


def available_checkpoints() -> list[str]:
    """Return the names that `load_checkpoint` finds, sorted."""
    return sorted({name for folder in _folders() for name in names_in(folder)})


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
    if weights.name.removesuffix(".safetensors").lower().endswith(PICKLES):
        raise CheckpointError(_pickle_text(Path(name)))
    if _is_path(name):
        _refuse_pickle_beside(weights, card)
        _need_both(weights, card)
        return weights
    folders = _folders()
    for folder in folders:
        weights, card = _pair(folder / name)
        if weights.exists() or card.exists():
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
    return parse_card(card_beside(find_checkpoint(name)))


def _folders() -> list[Path]:
    chosen = os.environ.get("LULC_CHECKPOINTS")
    folder = home_expanded(chosen) if chosen else None
    if folder and not folder.is_dir():
        raise FileNotFoundError(
            f"LULC_CHECKPOINTS names {chosen!r}, which is not a folder; correct or unset it"
        )
    own = [_OWN_FOLDER] if _OWN_FOLDER.is_dir() else []
    return [folder.absolute(), *own] if folder else own


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
    folder = home_expanded(text).absolute().parent
    return folder / f"{name}.safetensors", folder / f"{name}.json"


def _need_both(weights: Path, card: Path) -> None:
    for path in (weights, card):
        if path.exists() and not path.is_file():
            raise CheckpointError(
                f"{path} is not a regular file: a checkpoint is weights (.safetensors) and a card "
                "(.json); remove it, and copy or save the checkpoint again"
            )
    missing = [path for path in (weights, card) if not path.is_file()]
    if missing == [card] and card_beside(weights) != card:
        return
    if not missing:
        return
    if len(missing) == 2:
        there = ", ".join(names_in(weights.parent)) or "none"
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
    pickles = (card.with_name(stem + ending) for ending in PICKLES)
    found = next((path for path in pickles if path.is_file()), None)
    if found and not weights.exists():
        raise CheckpointError(_pickle_text(found))


def _pickle_text(path: Path) -> str:
    return (
        f"{path} is a pickle, and loading a pickle runs whatever code is inside: refused. Where "
        "you trust it, read it with torch.load(path, weights_only=True), put it into a model with "
        "load_state_dict, and write it with save_checkpoint"
    )


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
    card = parse_card(card_beside(path))
    shapes = _read_shapes(path)
    _check_fits(card, path, shapes, model)
    tensors = _read_weights(path, card)
    with torch.random.fork_rng(devices=[]):  # for weights that are replaced
        classifier = _built(card, path, model, shapes)
    _check_shapes(classifier, {name: tuple(t.shape) for name, t in tensors.items()}, path)
    classifier.load_state_dict(tensors)  # copies; float16 becomes the model's float32
    classifier.card = card
    classifier.trained_on = card.trained_on()
    classifier.predictions_file = _predictions_file(path)
    classifier.report_file = report_file(path)
    classifier.structure = structure_digest(classifier)
    return classifier.eval(), card


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if is_pickle(path):
        raise CheckpointError(_pickle_text(path))
    try:
        return read_shapes(path)
    except WeightsError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file as it was written: {error}; copy it again, or save "
            "the model again"
        ) from error


def _read_weights(path: Path, card: Card) -> dict[str, Tensor]:
    """Read the weights once: what is hashed is what is loaded."""
    with open_regular(path) as file:
        content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.weights_sha256:
        raise CheckpointError(
            f"the card does not fit its weights: {path} has sha256 {digest[:12]}..., the card "
            f"names {card.weights_sha256[:12]}...; one of the two is from another save or damaged: "
            "save or copy both again"
        )
    try:
        return parse_weights(content)
    except WeightsError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _check_fits(
    card: Card, path: Path, shapes: dict[str, tuple[int, ...]], model: nn.Module | None
) -> None:
    """Compare a card with its weights' header, before memory is taken for either.

    The network of the card is built without memory, on torch's meta device.
    """
    if model is None:
        _check_numbers(card, path, shapes)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            try:
                model = _built(card, path, None, shapes)
            except _TooLargeError:
                raise
            except CheckpointError:  # what cannot be built so is built, or named, later
                return
    elif not isinstance(model, TileClassifier):
        return
    _check_shapes(model, shapes, path)


def _check_numbers(card: Card, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    found = _too_large(card.model.get("arguments"), shapes)
    if found is not None:
        raise _TooLargeError(
            f"the card of {path} asks for a network with {one_line(repr(found[0]), 40)} of "
            f"something; its weights have {found[1]:,} at most. The card or the weights are "
            "from another save: copy or save both again"
        )


def _too_large(
    arguments: Any, shapes: dict[str, tuple[int, ...]]
) -> tuple[int | float, int] | None:
    """Return a number among arguments that no size in the weights comes near, and the most."""
    largest = max(1024, *(number for shape in shapes.values() for number in shape), len(shapes))
    waiting = [arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple):
            waiting += value[:largest]
        elif isinstance(value, int | float) and not abs(value) <= largest:
            return value, largest
    return None


class _TooLargeError(CheckpointError):
    """A card describes a larger network than its weights."""


@contextlib.contextmanager
def _no_larger_than(shapes: dict[str, tuple[int, ...]], path: Path) -> Iterator[None]:
    """Stop the building of a network, in this thread, that outgrows the weights of a file."""
    most = 2 * sum(int(np.prod(shape, dtype=float)) for shape in shapes.values()) + 10**6
    count, thread = [0], threading.get_ident()

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and threading.get_ident() == thread:
            count[0] += 1 + parameter.numel()
            if count[0] > most:
                raise _TooLargeError(
                    f"the card of {path} describes a network far larger than its weights; one of "
                    "the two is from another save: copy or save both again"
                )

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _built(
    card: Card, path: Path, model: nn.Module | None, shapes: dict[str, tuple[int, ...]]
) -> TileClassifier:
    try:
        if model is None:
            with _no_larger_than(shapes, path):
                return _from_card(card, path)
        if isinstance(model, TileClassifier):
            _check_same_preparation(card, model)
            return model
        return create_model(model, **{k: card.model[k] for k in ("image_size", "mean", "std")})
    except CheckpointError:
        raise
    except Exception as error:  # a card from elsewhere may make timm fail in any way
        raise CheckpointError(
            f"the model of {path} cannot be built from its card: {type(error).__name__} "
            f"{one_line(error)}"
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


def _check_shapes(model: TileClassifier, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [f"lacks {name}" for name in own if name not in shapes]
    wrong += [f"has {one_line(name, 80)}, unknown to the model" for name in shapes.keys() - own]
    wrong += [
        f"has {name} of shape {shapes[name]}, the model {own[name]}"
        for name in own
        if name in shapes and shapes[name] != own[name]
    ]
    if wrong:
        raise CheckpointError(
            f"the weights {path} do not fit {model.name} at {model.image_size} px: the file "
            f"{'; '.join(wrong[:3])}{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}"
        )
