"""Train a classifier: one loop, readable from top to bottom, that can be killed and resumed."""

import copy
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm.auto import tqdm

from lulc_lib.config import History, RunConfig
from lulc_lib.metrics import predict
from lulc_lib.models import TileClassifier
from lulc_lib.storage import atomic_write
from lulc_lib.tiles import CLASSES, TileSet


def fit(
    model: TileClassifier,
    train: TileSet,
    val: TileSet | None,
    config: RunConfig,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train a model in place and leave the best weights in it, in eval mode.

    Every random draw of a step depends on the seed and the step alone, so that the same seed on
    the same machine gives the same history, and a run that was killed and resumed ends with the
    weights of an unbroken one. Ctrl-C ends the run early and keeps the best weights so far.

    Args:
        model: the classifier; its weights are changed.
        train: tiles to learn from; those left over after the last full batch wait for the next
            epoch's order.
        val: tiles that choose the best epoch, or None to keep the last epoch.
        config: the settings.
        run_dir: folder for `state.pt`, from which a run can be resumed; None keeps no state.
        resume: go on from `run_dir`'s state when there is one.
        progress: show a progress bar.

    Returns:
        The history; `history.best` holds the numbers of the kept epoch.

    Raises:
        ValueError: if there are no tiles, the state belongs to another run, `resume` lacks a
            `run_dir`, or the loss is not finite.
    """
    _check(train, val, config, run_dir, resume)
    accelerator = _accelerator(config, run_dir)
    try:
        with torch.random.fork_rng():
            return _run(model, train, val, config, accelerator, run_dir, resume, progress)
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state()  # else the next run must use the same precision


def _run(
    model: TileClassifier,
    train: TileSet,
    val: TileSet | None,
    config: RunConfig,
    accelerator: Accelerator,
    run_dir: str | Path | None,
    resume: bool,
    progress: bool,
) -> History:
    device = accelerator.device
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)
    average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
    optimizer = make_optimizer(model, config)
    network, optimizer = accelerator.prepare(model, optimizer)
    candidates = [model] if average is None else [model, average]  # the better one is kept
    images, labels = train.images.to(device), train.labels.to(device)
    batch = min(config.batch_size, len(train))
    steps = len(train) // batch  # steps an epoch
    state = _State()
    state_file = None if run_dir is None else Path(run_dir).absolute() / "state.pt"
    if resume and state_file.is_file():
        state.load(state_file, model, optimizer, average, config, train)
    hardware = describe_hardware(device)
    bar = tqdm(
        total=config.epochs * steps, initial=state.step, disable=not progress, unit="step"
    )  # fmt: skip
    interrupted = False
    try:
        while state.step < config.epochs * steps:
            epoch, position = divmod(state.step, steps)
            _set_size((model, average), config.size_at(epoch))
            began = time.perf_counter()
            order = np.random.default_rng((config.seed, 0, epoch)).permutation(len(train))
            network.train()
            while position < steps:
                torch.manual_seed(config.seed + state.step)  # dropout, stochastic depth
                rng = np.random.default_rng((config.seed, 1, state.step))
                rate = learning_rate_at(state.step, steps, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                chosen = torch.from_numpy(order[position * batch : (position + 1) * batch])
                chosen = chosen.to(device)
                x = augment(images[chosen], config, rng, model.image_size)  # (B, 3, S, S)
                x, y = mix(x, labels[chosen], config, rng)
                x = x.contiguous(memory_format=layout)
                for part_x, part_y in zip(
                    x.chunk(config.accumulate), y.chunk(config.accumulate), strict=True
                ):
                    logits = network(part_x)  # (B / accumulate, 10)
                    loss = F.cross_entropy(logits, part_y, label_smoothing=config.label_smoothing)
                    accelerator.backward(loss * (len(part_x) / len(x)))
                    state.count(loss, logits, part_y)
                if config.clip_norm:
                    accelerator.clip_grad_norm_(network.parameters(), config.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    update_average(average, model, config.ema, state.step)
                state.step, position = state.step + 1, position + 1
                bar.update()
                if position % 10 == 0 or position == steps:
                    state.check_finite()
                    speed = batch * position / max(1e-9, state.epoch_seconds + _since(began))
                    bar.set_postfix_str(
                        f"epoch {epoch + 1}/{config.epochs}, loss {state.loss:.3f}, "
                        f"F1 {state.macro_f1:.3f}, {speed:.0f} images/s"
                    )
                if state_file and state.step % config.save_every == 0 and position < steps:
                    state.epoch_seconds += _since(began)
                    began = time.perf_counter()
                    state.save(state_file, model, optimizer, average, config, train)
            state.epoch_seconds += _since(began)
            state.end_epoch(candidates, val, config, rate, batch * steps, epoch)
            accelerator.log({k: v for k, v in state.epochs[-1].items() if v == v}, step=epoch)
            if state_file:
                state.save(state_file, model, optimizer, average, config, train)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
        accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)  # accelerate puts its wrapper, then ours, on the instance
        model.zero_grad(set_to_none=True)
    best = state.best if state.best is not None else candidates[-1].state_dict()
    model.load_state_dict(best)
    model.to(memory_format=torch.contiguous_format).eval()
    model.trained_on = train.provenance()
    model.card = None
    return History(tuple(state.epochs), state.best_epoch, state.seconds, hardware, interrupted)


_NOT_VALIDATED = {"val_loss": math.nan, "val_macro_f1": math.nan, "val_accuracy": math.nan}


@dataclass
class _State:
    """What a run must remember to go on: counters, running sums, the best weights so far."""

    step: int = 0
    best_epoch: int = -1
    best_value: float = -math.inf
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    loss_sum: float | Tensor = 0.0
    confusion: Tensor = field(
        default_factory=lambda: torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)
    )

    def count(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        labels = (targets.argmax(1) if targets.ndim == 2 else targets).cpu()
        self.loss_sum = self.loss_sum + loss.detach().float().cpu() * len(labels)
        pairs = labels * len(CLASSES) + logits.detach().argmax(1).cpu()
        self.confusion += torch.bincount(pairs, minlength=len(CLASSES) ** 2).view_as(self.confusion)

    @property
    def loss(self) -> float:
        return float(self.loss_sum) / max(1, int(self.confusion.sum()))

    @property
    def macro_f1(self) -> float:
        return macro_f1(self.confusion)

    def check_finite(self) -> None:
        if not math.isfinite(self.loss):
            raise ValueError(
                f"the training loss is {self.loss} after {self.step} steps; "
                "lower learning_rate, or set clip_norm=1"
            )

    def end_epoch(
        self,
        candidates: list[TileClassifier],
        val: TileSet | None,
        config: RunConfig,
        rate: float,
        seen: int,
        epoch: int,
    ) -> None:
        """Validate, write the epoch down, keep the weights if they are the best so far.

        With averaged weights, both they and the last ones are validated and the better ones count:
        an average over a short run lags behind. Where sizes change, only epochs at the last size
        can be the best.
        """
        self.check_finite()
        began = time.perf_counter()
        kept, figures, value = candidates[-1], _NOT_VALIDATED, float(epoch)
        if val is not None:
            tried = [validate(model, val, config.precision) for model in candidates]
            values = [-t["val_loss"] if config.best_by == "loss" else t["val_macro_f1"]
                      for t in tried]  # fmt: skip
            best = int(np.argmax(values))
            kept, figures, value = candidates[best], tried[best], values[best]
        spent = self.epoch_seconds + _since(began)
        self.seconds += spent
        self.epochs.append({
            "epoch": epoch,
            "train_loss": self.loss,
            "train_macro_f1": self.macro_f1,
            **figures,
            "averaged": float(kept is not candidates[0]),
            "learning_rate": rate,
            "size": kept.image_size,
            "images_per_second": seen / max(1e-9, self.epoch_seconds),
            "seconds": self.epoch_seconds + _since(began),
        })  # fmt: skip
        final = not config.sizes or config.size_at(epoch) == config.sizes[-1][1]
        if final and value > self.best_value:
            self.best_value, self.best_epoch = value, epoch
            self.best = {k: v.detach().cpu().clone() for k, v in kept.state_dict().items()}
        self.epoch_seconds, self.loss_sum = 0.0, 0.0
        self.confusion = torch.zeros_like(self.confusion)

    def save(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Any,
        average: nn.Module | None,
        config: RunConfig,
        train: TileSet,
    ) -> None:
        """Write everything to one file, whole or not at all."""
        counters = {k: v for k, v in vars(self).items() if k not in ("best", "confusion")}
        counters["loss_sum"] = float(self.loss_sum)
        contents = {
            "config": config.to_json(),
            "tiles": f"{train.digest} {train.part} {len(train)}",
            "counters": counters,
            "confusion": self.confusion,
            "best": self.best,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
        }
        with atomic_write(path) as temporary:
            torch.save(contents, temporary)

    def load(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Any,
        average: nn.Module | None,
        config: RunConfig,
        train: TileSet,
    ) -> None:
        """Take everything from a file written by `save`, if it belongs to the same run."""
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{path} is not a saved state of a run ({str(error).splitlines()[0]}); "
                "delete it, or give another run folder"
            ) from error
        stored = RunConfig.from_json(contents["config"])
        differing = [k for k in vars(config) if getattr(stored, k) != getattr(config, k)]
        tiles = f"{train.digest} {train.part} {len(train)}"
        if contents["tiles"] != tiles:
            raise ValueError(
                f"{path} was trained on other tiles ({contents['tiles']}, not {tiles}); "
                "resume with the same tiles, or give another run folder"
            )
        if differing:
            name = differing[0]
            raise ValueError(
                f"{path} belongs to a run with {name}={getattr(stored, name)!r}, not "
                f"{getattr(config, name)!r}; resume with the same settings, or give another folder"
            )
        model.load_state_dict(contents["model"])
        optimizer.load_state_dict(contents["optimizer"])
        if average is not None:
            average.load_state_dict(contents["average"])
        vars(self).update(contents["counters"])
        self.confusion, self.best = contents["confusion"], contents["best"]


# --- the parts of a step, each of its own ---------------------------------------------------------


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter 2019); norms, biases and position codes do not decay."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim >= 2 and "pos_embed" not in name and "token" not in name
        (decayed if plain or config.decay_everything else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate_at(step: int, steps: int, config: RunConfig) -> float:
    """Return the learning rate of a step.

    constant: a linear warm-up, then the peak. cosine: the same, then half a cosine to 0.
    onecycle: a straight rise over the first 30 % of all steps, then half a cosine to 0.

    Args:
        step: number of steps taken before this one.
        steps: steps in an epoch.
        config: the settings.
    """
    total = config.epochs * steps
    rise = 0.3 * total if config.schedule == "onecycle" else config.warmup_epochs * steps
    if step < rise:
        return config.learning_rate * (step + 1) / (math.ceil(rise) + 1)
    if config.schedule == "constant":
        return config.learning_rate
    passed = (step - rise) / max(1.0, total - rise)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * passed))


def augment(images: Tensor, config: RunConfig, rng: np.random.Generator, size: int) -> Tensor:
    """Return a batch as float32 in [0, 1], varied as the settings say.

    Args:
        images: uint8 (B, 3, 64, 64).
        config: the settings.
        rng: source of all draws.
        size: size inside the model, to which random crops are brought at once.

    Returns:
        float32 (B, 3, 64, 64), or (B, 3, size, size) after a random crop.
    """
    if config.augment == "flip":
        images = _turned(images, rng.integers(0, 2, len(images)) * 4)
    elif config.augment == "d4":
        images = _turned(images, rng.integers(0, 8, len(images)))
    if config.shift:
        images = _shifted(images, config.shift, rng)
    floats = images.to(torch.float32).div_(255)
    return _cropped(floats, config.crop_scale, size, rng) if config.crop_scale < 1 else floats


def mix(
    images: Tensor, labels: Tensor, config: RunConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with another one of the batch (mixup, Zhang et al. 2018).

    Returns:
        images like those given, and labels (B,) as they were, or float32 (B, 10) when mixed.
    """
    if not config.mixup:
        return images, labels
    share = float(rng.beta(config.mixup, config.mixup))
    share = max(share, 1 - share)  # the first image stays the main one
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    targets = F.one_hot(labels, len(CLASSES)).float()
    mixed = images[partner].lerp_(images, share)
    return mixed, targets[partner].lerp_(targets, share)


def _turned(images: Tensor, which: np.ndarray) -> Tensor:
    """Turn each image by `which % 4` quarters and mirror it where `which >= 4`."""
    size = images.shape[-1]
    places = torch.arange(size * size).view(size, size)
    turned = [torch.rot90(places, k) for k in range(4)]
    ways = torch.stack(turned + [way.flip(1) for way in turned]).flatten(1)
    source = ways.to(images.device)[torch.from_numpy(which).to(images.device)]
    source = source[:, None].expand(-1, images.shape[1], -1)  # (B, 3, size * size)
    return images.flatten(2).gather(2, source).view_as(images)


def _shifted(images: Tensor, by: int, rng: np.random.Generator) -> Tensor:
    """Move each image by up to `by` pixels each way; the edges are reflected."""
    size = images.shape[-1]
    for dim in (2, 3):  # torch's own reflection knows no uint8
        first, last = images.narrow(dim, 1, by), images.narrow(dim, size - 1 - by, by)
        images = torch.cat([first.flip(dim), images, last.flip(dim)], dim)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (B, 3, 2 by + 1, 2 by + 1, 64, 64)
    down, right = torch.from_numpy(rng.integers(0, 2 * by + 1, (2, len(images)))).to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def _cropped(images: Tensor, smallest: float, size: int, rng: np.random.Generator) -> Tensor:
    """Crop a random part of each image and bring it to `size`, as torchvision does.

    Areas are uniform in [smallest, 1], sides' ratios log-uniform in [3/4, 4/3].
    """
    count = len(images)
    area = rng.uniform(smallest, 1, count)
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), count))
    width = np.minimum(1, np.sqrt(area * ratio))
    height = np.minimum(1, np.sqrt(area / ratio))
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2] = rng.uniform(-1, 1, count) * (1 - width)
    theta[:, 1, 2] = rng.uniform(-1, 1, count) * (1 - height)
    where = torch.from_numpy(theta).to(images.device)
    grid = F.affine_grid(where, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the model's; the decay rises from 0.1 as steps pass."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, now in zip(
            average.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if kept.is_floating_point():
                kept.lerp_(now, share)
            else:
                kept.copy_(now)


def validate(model: TileClassifier, tiles: TileSet, precision: str) -> dict[str, float]:
    """Return val_loss (mean cross-entropy), val_macro_f1 and val_accuracy of a model on tiles."""
    predictions = predict(model, tiles, precision=precision)
    pairs = predictions.labels * len(CLASSES) + predictions.predicted
    confusion = torch.bincount(torch.from_numpy(pairs), minlength=len(CLASSES) ** 2)
    return {
        "val_loss": float(predictions.losses.mean()),
        "val_macro_f1": macro_f1(confusion.view(len(CLASSES), len(CLASSES))),
        "val_accuracy": float(predictions.correct.mean()),
    }


def macro_f1(confusion: Tensor) -> float:
    """Return the mean F1 over the classes that occur as label or prediction."""
    hits = confusion.diag().double()
    total = (confusion.sum(0) + confusion.sum(1)).double()
    occurs = total > 0
    return float((2 * hits[occurs] / total[occurs]).mean()) if bool(occurs.any()) else 0.0


def describe_hardware(device: torch.device) -> str:
    """Return the accelerator's or processor's name in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def _set_size(models: tuple[TileClassifier | None, ...], size: int | None) -> None:
    for model in models:
        if model is not None and size is not None:
            model.image_size = size


def _since(moment: float) -> float:
    return time.perf_counter() - moment


def _check(
    train: TileSet,
    val: TileSet | None,
    config: RunConfig,
    run_dir: str | Path | None,
    resume: bool,
) -> None:
    if not isinstance(config, RunConfig):
        raise TypeError(f"config must be a RunConfig, got {type(config).__name__}")
    for name, tiles in (("train", train), ("val", val)):
        if tiles is not None and len(tiles) == 0:
            raise ValueError(f"{name} holds no tiles")
    if len(train) < 2:
        raise ValueError(f"train must hold at least 2 tiles, got {len(train)}")
    if val is not None and train.digest == val.digest and set(train.names) & set(val.names):
        raise ValueError("train and val share tiles; split them first, with lulc.split")
    if config.accumulate > min(config.batch_size, len(train)):
        raise ValueError(
            f"accumulate ({config.accumulate}) must not exceed the batch "
            f"({min(config.batch_size, len(train))} tiles)"
        )
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, the folder of the run to go on with")


def _accelerator(config: RunConfig, run_dir: str | Path | None) -> Accelerator:
    mixed = "bf16" if config.precision == "bfloat16" else "no"
    tracker = None if config.tracker == "none" else config.tracker
    project = None if run_dir is None else str(Path(run_dir).absolute())
    if tracker and project is None:
        raise ValueError(f"tracker={tracker!r} needs run_dir, the folder its files go to")
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed, log_with=tracker, project_dir=project)
    if accelerator.num_processes > 1:
        raise ValueError(
            f"fit runs in one process, but {accelerator.num_processes} were launched; "
            "start it without a launcher"
        )
    if tracker:
        settings = {k: v if isinstance(v, int | float | str) else str(v)
                    for k, v in vars(config).items()}  # fmt: skip
        accelerator.init_trackers("lulc", config=settings)
    return accelerator
