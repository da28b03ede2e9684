"""Train a classifier: one loop, readable from top to bottom, that can be killed and resumed."""

import contextlib
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, gather_object, get_int_from_env
from timm.optim import Muon, param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from lulc_lib.attention import PlainAttention
from lulc_lib.augmentation import augment, draw_turns, mix, turns_in_cycle
from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.config import History, RunConfig
from lulc_lib.files import atomic_write, home_expanded, lock_folder, one_line, open_checked, seal
from lulc_lib.hardware import describe_hardware, fast_bfloat16
from lulc_lib.models import TileClassifier
from lulc_lib.predictions import Predictions, predict
from lulc_lib.running import taking_turns
from lulc_lib.storage import digest_arrays
from lulc_lib.tiles import CLASSES, TileSet, share_names


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
    weights of an unbroken one. Other threads, such as a panel's, may ask the model meanwhile: they
    wait for the end of a step, and change nothing. Ctrl-C ends the run early and keeps the best
    weights so far. Any error leaves the best weights of the epochs that ended, or those from
    before; a model that learnt anything knows the tiles.

    A model that was trained before goes on from its weights, and still knows what it learnt then.

    Started by `accelerate launch` or `notebook_launcher`, the processes share each batch: all vary
    the whole of it alike, and each works through its part (docs/scaling.md).

    Args:
        model: the classifier; its weights are changed.
        train: tiles to learn from; those left over after the last full batch wait for the next
            epoch's order.
        val: tiles that choose the best epoch, or None to keep the last epoch.
        config: the settings.
        run_dir: folder for `state.pt`, from which a run can be resumed; None keeps no state. It is
            written to before training starts, and kept to this run while it lasts.
        resume: go on from `run_dir`'s state when there is one.
        progress: show a progress bar.

    Returns:
        The history; `history.best` holds the numbers of the kept epoch.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if there are no tiles, the model has nothing to train or returns no logits, it
            knows tiles of `val`, the state is damaged or belongs to another run, `resume` lacks a
            `run_dir`, the teacher saw tiles that it must not know, fewer processes have met than
            were launched, or loss or weights are not finite.
        FolderLockedError: if another training works in `run_dir`.
        OSError: if `run_dir` cannot be written.
    """
    _check(model, train, val, config, run_dir, resume)
    accelerator = _accelerator(config, run_dir)
    try:
        with (
            _run_folder(run_dir, accelerator) as folder,
            torch.random.fork_rng(),
            torch.inference_mode(False),
            torch.enable_grad(),
            PlainAttention(),
        ):
            _start_tracker(accelerator, config)
            return _run(model, train, val, config, accelerator, folder, resume, progress)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        # The next run may ask for another precision; processes that have met stay together, since
        # they cannot meet twice in one launch.
        AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)


def _run(
    model: TileClassifier,
    train: TileSet,
    val: TileSet | None,
    config: RunConfig,
    accelerator: Accelerator,
    run_dir: Path | None,
    resume: bool,
    progress: bool,
) -> History:
    device = accelerator.device
    before = _Before(model)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    with taking_turns(model):
        model.to(device=device, memory_format=layout)
    images, labels = train.images.to(device), train.labels.to(device)
    teachers = _load_teachers(train, config, device)
    told = progress and accelerator.is_local_main_process
    taught = _ask_once(teachers, train, config, told) if config.teacher_sees == "tile" else None
    batch = min(config.batch_size, len(train))
    steps = len(train) // batch  # steps an epoch
    parts = _parts(batch, config, accelerator)
    state = _State(sums=_no_sums(device))
    averaging = _averaging(model, config)
    average = None if averaging is None else averaging.module
    candidates = [model] if average is None else [model, average]  # the better one is kept
    optimizer = make_optimizer(model, config)
    network, optimizer = accelerator.prepare(model, optimizer)
    if average is not None:
        average.load_state_dict(model.state_dict())  # which are the first process's by now
    state_file = None if run_dir is None else run_dir / "state.pt"
    facts = _facts(model, train, val, config, teachers) if state_file else {}
    bar = tqdm(
        total=config.epochs * steps, unit="step",
        disable=not told,
    )  # fmt: skip
    interrupted, failed = False, True
    try:
        if resume and state_file.exists():
            state.load(state_file, model, optimizer, average, config, facts)
            bar.n = bar.initial = state.step
        if state.step < config.epochs * steps or not state.hardware:
            state.works_on(_hardware(accelerator))
        model.trained_on, model.card = train.provenance().after(model.trained_on), None
        while state.step < config.epochs * steps:
            epoch, position = divmod(state.step, steps)
            began = time.perf_counter()
            order = np.random.default_rng((config.seed, 0, epoch)).permutation(len(train))
            with taking_turns(model):
                _set_size((model, average), config.size_at(epoch))
                network.train()
            while position < steps:
                rng = np.random.default_rng((config.seed, 1, state.step))
                rate = learning_rate_at(state.step, steps, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                numbers = order[position * batch : (position + 1) * batch]
                chosen = torch.from_numpy(numbers).to(device)
                if config.augment == "d4_cycle":
                    turns = turns_in_cycle(numbers, len(train), epoch, config.seed)
                else:
                    turns = draw_turns(batch, config, rng)
                x = augment(images[chosen], turns, config, rng, model.image_size)  # (B, 3, S, S)
                y = labels[chosen]
                if taught is not None:  # both are blended alike
                    y = torch.cat([F.one_hot(y, len(CLASSES)).float(), taught[chosen]], 1)
                elif teachers:
                    y = F.one_hot(y, len(CLASSES)).float()
                x, y = mix(x, y, config, rng)
                if taught is not None:
                    y, said = y.split(len(CLASSES), 1)
                x = x.contiguous(memory_format=layout)
                with taking_turns(model):  # a panel that asks the model waits for the step
                    torch.manual_seed(  # dropout, stochastic depth
                        config.seed + state.step + 1_000_003 * accelerator.process_index
                    )
                    for part in parts:
                        alone = accelerator.no_sync(network) if part is not parts[-1] else _NOTHING
                        with alone:
                            logits = network(x[part])  # (B / parts of all processes, 10)
                            _check_logits(logits, len(y[part]), model.name)
                            target = y[part]
                            if taught is not None:
                                target = target.lerp(said[part], config.distill)
                            elif teachers:
                                with accelerator.autocast():
                                    target = target.lerp(_asked(teachers, x[part]), config.distill)
                            loss = F.cross_entropy(
                                logits, target, label_smoothing=config.label_smoothing
                            )
                            share = len(logits) / batch * accelerator.num_processes  # DDP averages
                            accelerator.backward(loss * share)
                        state.count(loss, logits, y[part])
                    if config.clip_norm:
                        accelerator.clip_grad_norm_(network.parameters(), config.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    if averaging is not None:
                        # The decay is (1 + step) / (10 + step) at first: timm counts from 2.
                        averaging.update(model, step=state.step + 2)
                state.step, position = state.step + 1, position + 1
                bar.update()
                if position % 10 == 0 or position == steps:
                    state.gather(accelerator)
                    state.check_finite()
                    speed = batch * position / max(1e-9, state.epoch_seconds + _since(began))
                    bar.set_postfix_str(
                        f"epoch {epoch + 1}/{config.epochs}, loss {state.loss:.3f}, "
                        f"F1 {state.macro_f1:.3f}, {speed:.0f} images/s"
                    )
                if state_file and state.step % config.save_every == 0 and position < steps:
                    state.gather(accelerator)
                    state.epoch_seconds += _since(began)
                    began = time.perf_counter()
                    state.save(state_file, model, optimizer, average, config, facts, accelerator)
            state.epoch_seconds += _since(began)
            tried = candidates if config.is_last_size(epoch) else [model]
            state.end_epoch(tried, val, config, rate, batch * steps, epoch, accelerator)
            accelerator.log({k: v for k, v in state.epochs[-1].items() if v == v}, step=epoch)
            if state_file:
                state.save(state_file, model, optimizer, average, config, facts, accelerator)
        failed = False
    except KeyboardInterrupt:
        interrupted, failed = True, False
    finally:
        bar.close()
        with taking_turns(model):
            accelerator.unwrap_model(network, keep_fp32_wrapper=False)
            # accelerate puts its wrapper, then ours, on the instance, and would leave a model that
            # it knows as it is: a second `fit` of it would train in float32.
            for left in ("forward", "_original_forward", "_is_accelerate_prepared"):
                vars(model).pop(left, None)
            model.zero_grad(set_to_none=True)
            if state.best is not None:
                model.load_state_dict(state.best)
                _set_size((model,), config.sizes[-1][1] if config.sizes else None)
            elif failed:
                before.restore(model)
            else:
                model.load_state_dict(candidates[-1].state_dict())
            model.to(memory_format=torch.contiguous_format).eval()
    return History(
        tuple(state.epochs), state.best_epoch, state.seconds, "; ".join(state.hardware), interrupted
    )


def _hardware(accelerator: Accelerator) -> str:
    """Return what trains, in words: each process, and how many there are."""
    many = accelerator.num_processes
    return describe_hardware(accelerator.device) + (f", {many} processes" if many > 1 else "")


class _Before:
    """A model as it was before a training that may fail."""

    def __init__(self, model: TileClassifier) -> None:
        self._weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        self._facts = (model.trained_on, model.card, model.image_size)

    def restore(self, model: TileClassifier) -> None:
        """Put the weights back, then forget the tiles that they never saw."""
        model.load_state_dict(self._weights)
        trained_on, card, size = self._facts
        _set_size((model,), size)
        model.trained_on, model.card = trained_on, card


@contextlib.contextmanager
def _run_folder(run_dir: str | Path | None, accelerator: Accelerator) -> Iterator[Path | None]:
    """Yield a run's folder, kept to this run and tried out: it can be written.

    The first process does so for all.
    """
    folder = None if run_dir is None else home_expanded(run_dir).absolute()
    if folder is None or not accelerator.is_main_process:
        yield folder
        return
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock_folder(folder))
            with atomic_write(folder / ".written") as temporary:
                temporary.write_bytes(b"a run can write here")
            (folder / ".written").unlink()
            lock = stack.pop_all()
    except OSError as error:
        raise OSError(
            f"the run folder {folder} cannot be written ({one_line(error.strerror or error)}); "
            "free space, or give another run folder"
        ) from error
    with lock:
        yield folder


_NOTHING = contextlib.nullcontext()
_NOT_VALIDATED = {"val_loss": math.nan, "val_macro_f1": math.nan, "val_accuracy": math.nan}


@dataclass
class _State:
    """What a run must remember to go on: counters, running sums, the best weights so far."""

    step: int = 0
    best_epoch: int = -1
    best_value: float = -math.inf
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    hardware: list[str] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    sums: Tensor = field(default_factory=lambda: _no_sums("cpu"))  # loss, then confusion's rows
    own: Tensor | None = None  # of this process alone, since the last gathering

    def count(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a part of a batch, without waiting for the device."""
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        if self.own is None:
            self.own = torch.zeros_like(self.sums)
        pairs = 1 + labels * len(CLASSES) + logits.detach().argmax(1)
        self.own[0] += loss.detach() * len(labels)
        self.own.scatter_add_(0, pairs, torch.ones_like(pairs, dtype=self.own.dtype))

    def works_on(self, hardware: str) -> None:
        """Note what trains from here on; a run that is resumed may go on elsewhere."""
        self.hardware += [hardware] if hardware not in self.hardware else []

    def gather(self, accelerator: Accelerator) -> None:
        """Add what all processes counted."""
        if self.own is not None:
            self.sums += accelerator.reduce(self.own, "sum")
            self.own = None

    @property
    def loss(self) -> float:
        return float(self.sums[0]) / max(1.0, float(self.sums[1:].sum()))

    @property
    def macro_f1(self) -> float:
        return macro_f1(self.sums[1:].view(len(CLASSES), len(CLASSES)).cpu())

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
        accelerator: Accelerator,
    ) -> None:
        """Validate, write the epoch down, keep the weights if they are the best so far.

        With averaged weights, both they and the last ones are validated and the better ones count:
        an average over a short run lags behind. Where sizes change, only epochs at the last size
        can be the best, and the average waits for them.
        """
        self.check_finite()
        began = time.perf_counter()
        kept, figures, value = candidates[-1], _NOT_VALIDATED, float(epoch)
        if val is not None:
            tried = [validate(model, val, config.precision, accelerator) for model in candidates]
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
        if config.is_last_size(epoch) and value > self.best_value:
            _check_finite_weights(kept)
            self.best_value, self.best_epoch = value, epoch
            self.best = {k: v.detach().cpu().clone() for k, v in kept.state_dict().items()}
        self.epoch_seconds, self.sums = 0.0, torch.zeros_like(self.sums)

    def save(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Any,
        average: nn.Module | None,
        config: RunConfig,
        facts: dict[str, str],
        accelerator: Accelerator,
    ) -> None:
        """Write everything to one file, whole or not at all; the first process does it for all."""
        if not accelerator.is_main_process:
            return
        counters = {k: v for k, v in vars(self).items() if k not in ("best", "sums", "own")}
        contents = {
            "config": config.to_json(),
            **facts,
            "counters": counters,
            "sums": self.sums,
            "best": self.best,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
        }
        with atomic_write(path) as temporary:
            torch.save(contents, temporary)
            seal(temporary)

    def load(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Any,
        average: nn.Module | None,
        config: RunConfig,
        facts: dict[str, str],
    ) -> None:
        """Take everything from a file written by `save`, if it belongs to the same run."""
        contents = _read_state(path)
        stored = contents["config"]
        same = {"teacher"} if _TAUGHT_BY in contents else set()  # wherever its files lie
        differing = [
            k for k in vars(config) if getattr(stored, k) != getattr(config, k) and k not in same
        ]
        for what, value in facts.items():
            if contents.get(what, value) != value:  # earlier versions wrote the tiles alone
                raise ValueError(
                    f"{path} belongs to a run with other {what} ({one_line(contents[what])}, not "
                    f"{value}); resume with the same {what}, or give another run folder"
                )
        if differing:
            name = differing[0]
            raise ValueError(
                f"{path} belongs to a run with {name}={getattr(stored, name)!r}, not "
                f"{getattr(config, name)!r}; resume with the same settings, or give another folder"
            )
        try:
            model.load_state_dict(contents["model"])
            optimizer.load_state_dict(contents["optimizer"])
            if average is not None:
                average.load_state_dict(contents["average"])
            if contents["best"] is not None and set(contents["best"]) != set(contents["model"]):
                raise ValueError("the best weights are those of another model")
            self.sums = contents["sums"].to(self.sums.device).view_as(self.sums)
        except Exception as error:
            raise _no_state(path, f"it does not fit {model.name}: {error}") from error
        vars(self).update(contents["counters"])
        self.best = contents["best"]


_TAUGHT_BY = "weights of the teachers"


def _facts(
    model: TileClassifier,
    train: TileSet,
    val: TileSet | None,
    config: RunConfig,
    teachers: list[TileClassifier],
) -> dict[str, str]:
    """Return what else must be the same where a run goes on, for the state and its errors."""
    size = "" if config.sizes else f" at {model.image_size} px"
    return {
        "tiles": f"{train.digest} {train.part} {len(train)}",
        "validation tiles": "none" if val is None else f"{val.digest} {val.part} {len(val)}",
        "choice, labels or pixels of the tiles": _content(train),
        "choice, labels or pixels of the validation tiles": _content(val),
        "model settings": f"{model.name}{size}, mean {model.mean}, std {model.std}",
        _TAUGHT_BY: ", ".join(teacher.card.weights_sha256 for teacher in teachers) or "none",
    }


def _content(tiles: TileSet | None) -> str:
    """Return what tells two sets of one part apart, and a set from itself with other labels."""
    if tiles is None:
        return "none"
    arrays = np.array(tiles.names), tiles.labels.cpu().numpy(), tiles.images.cpu().numpy()
    return f"SHA-256 {digest_arrays(*arrays)[:12]}"


_CONTENTS = {
    "config": str, "tiles": str, "counters": dict, "sums": Tensor, "best": dict | None,
    "model": dict, "optimizer": dict, "average": dict | None,
}  # fmt: skip


def _read_state(path: Path) -> dict[str, Any]:
    """Return what `_State.save` wrote, unchanged since then; its settings as `RunConfig`."""
    try:
        with open_checked(path) as file:
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OSError(f"{path} cannot be read: {one_line(error.strerror or error)}") from error
    except Exception as error:
        raise _no_state(path, error) from error
    counters = {k for k in vars(_State()) if k not in ("best", "sums", "own")}
    lacking = [k for k, kind in _CONTENTS.items() if not isinstance(contents.get(k, ...), kind)]
    if lacking or {*contents["counters"], "hardware"} != counters:  # earlier versions have none
        raise _no_state(path, f"{(lacking or ['counters'])[0]} is missing or of another type")
    try:
        contents["config"] = RunConfig.from_json(contents["config"])
    except (TypeError, ValueError) as error:
        raise _no_state(path, f"its settings are {error}") from error
    return contents


def _no_state(path: Path, why: object) -> ValueError:
    return ValueError(
        f"{path} is not a saved state of a run ({one_line(why)}); start anew in another "
        "run folder, or resume a state of an earlier version with that version"
    )


# --- the parts of a step, each of its own ---------------------------------------------------------


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Make AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) as timm has it.

    Norms, biases and position codes do not decay. Muon's momentum is made orthogonal, which is for
    matrices and convolutions; its steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv
    2502.16982), which takes care of all else, so that both take the same rates.
    """
    if config.decay_everything:
        groups = [{"params": [p for p in model.parameters() if p.requires_grad],
                   "weight_decay": 1.0}]  # fmt: skip
    else:
        groups = param_groups_weight_decay(model, 1.0, no_weight_decay_list=_undecayed(model))
    for group in groups:
        if config.optimizer == "muon" and not group["weight_decay"]:
            group |= {"use_fallback": True, "nesterov": False}
        group["weight_decay"] *= config.weight_decay
    if config.optimizer == "muon":
        kind = Muon if fast_bfloat16() else Float32Muon
        return kind(groups, lr=config.learning_rate, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _undecayed(model: nn.Module) -> set[str]:
    """Return patterns for the names of weights that do not decay although they are matrices.

    timm's networks name theirs; in others, position codes and tokens are known by their names.
    """
    names = {"*pos_embed", "*pos_embedding", "*token", "*tokens"}
    for prefix, module in model.named_modules():
        if callable(getattr(module, "no_weight_decay", None)):
            names |= {f"{prefix}.{name}".removeprefix(".") for name in module.no_weight_decay()}
    return names


class Float32Muon(Muon):
    """timm's Muon, its matrices made orthogonal in float32 instead of bfloat16.

    Where bfloat16 is emulated, the iteration took nearly twice the time of the rest of a step.
    """

    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        with _NoBfloat16():
            return super().step(closure)


class _NoBfloat16(TorchFunctionMode):
    """Tensors that would be converted to bfloat16 become float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.bfloat16:
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


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


def _parts(batch: int, config: RunConfig, accelerator: Accelerator) -> list[slice]:
    """Return this process's parts of each batch, near-equal, as many as `accumulate` says."""
    count = config.accumulate * accelerator.num_processes
    if count > batch:
        raise ValueError(
            f"a batch of {batch} tiles cannot be divided into {config.accumulate} parts for each "
            f"of {accelerator.num_processes} processes; raise batch_size or lower accumulate"
        )
    edges = np.linspace(0, batch, count + 1).round().astype(int)
    slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    first = config.accumulate * accelerator.process_index
    return slices[first : first + config.accumulate]


def _load_teachers(train: TileSet, config: RunConfig, device: torch.device) -> list[TileClassifier]:
    """Return the teachers; none may know a tile that the student is tested on."""
    teachers = []
    for name in config.teachers:
        teacher, _ = load_checkpoint(name)
        known = teacher.trained_on
        if known is None:
            raise ValueError(
                f"the checkpoint {name} does not say what it was trained on, so that it might know "
                "the test tiles; take a teacher trained with lulc.fit"
            )
        same_part = (known.digest, known.whole_part) == (train.digest, train.whole_part)
        fellow = same_part and train.role == "train"  # of a split's train part, any may be known
        apart = not share_names(known, train)
        strangers = set() if fellow or apart else set(known.names) - set(train.names)
        if strangers:
            raise ValueError(
                f"the teacher {name} was trained on {len(strangers):,} tiles that are not among "
                f"these training tiles, such as {min(strangers)!r}: the student would learn of "
                "tiles it is tested on; take a teacher of the same split"
            )
        teachers.append(teacher.to(device))
    return teachers


def _ask_once(
    teachers: list[TileClassifier], train: TileSet, config: RunConfig, progress: bool
) -> Tensor | None:
    """Return the mean of the teachers' probabilities for the tiles as they are, float32 (N, 10).

    They are kept in the cache folder: a run that goes on need not ask again.
    """
    if not teachers:
        return None
    settings = {"precision": config.precision, "cache": True, "progress": progress}
    said = np.mean([predict(one, train, **settings).probabilities for one in teachers], axis=0)
    return torch.from_numpy(said).float().to(next(teachers[0].parameters()).device)


def _asked(teachers: list[TileClassifier], views: Tensor) -> Tensor:
    """Return the mean of the teachers' probabilities for views (B, 3, S, S), float32 (B, 10).

    A student that learns from what its teacher says of the very view learns a function, not a list
    of answers (Beyer et al. 2022, Knowledge distillation: a good teacher is patient and consistent,
    arXiv 2106.05237).
    """
    with torch.no_grad():
        return torch.stack([teacher(views).float().softmax(1) for teacher in teachers]).mean(0)


def _averaging(model: TileClassifier, config: RunConfig) -> ModelEmaV3 | None:
    """Return timm's averaged weights, whose decay rises from 0.1 as (1 + step) / (10 + step)."""
    if not config.ema:
        return None
    with taking_turns(model):  # which is copied
        averaging = ModelEmaV3(
            model, decay=config.ema, use_warmup=True, warmup_gamma=9, warmup_power=1
        )
    averaging.requires_grad_(False)
    return averaging


def validate(
    model: TileClassifier, tiles: TileSet, precision: str, accelerator: Accelerator | None = None
) -> dict[str, float]:
    """Return val_loss (mean cross-entropy), val_macro_f1 and val_accuracy of a model on tiles.

    Several processes share the tiles; all use the first one's buffers, which BatchNorm fills in
    each process from its own part of the batches.
    """
    if accelerator is None or accelerator.num_processes == 1:
        predictions = predict(model, tiles, precision=precision)
    else:
        for buffer in model.buffers():
            broadcast(buffer)
        share = np.arange(
            accelerator.process_index, max(len(tiles), accelerator.num_processes),
            accelerator.num_processes,
        ) % len(tiles)  # fmt: skip
        answers = gather_object([(share, predict(model, tiles[share], precision=precision))])
        logits = np.zeros((len(tiles), len(CLASSES)), dtype=np.float32)
        for chosen, part in answers:
            logits[chosen] = part.logits
        predictions = Predictions(logits, tiles.labels.numpy(), tiles.names)
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


def _no_sums(device: torch.device | str) -> Tensor:
    exact = torch.float32 if torch.device(device).type == "mps" else torch.float64
    return torch.zeros(1 + len(CLASSES) ** 2, dtype=exact, device=device)


def _set_size(models: tuple[TileClassifier | None, ...], size: int | None) -> None:
    for model in models:
        if model is not None and size is not None:
            model.image_size = size


def _since(moment: float) -> float:
    return time.perf_counter() - moment


def _check(
    model: TileClassifier,
    train: TileSet,
    val: TileSet | None,
    config: RunConfig,
    run_dir: str | Path | None,
    resume: bool,
) -> None:
    if not isinstance(config, RunConfig):
        raise TypeError(f"config must be a RunConfig, got {type(config).__name__}")
    if not isinstance(getattr(model, "_orig_mod", model), TileClassifier):  # compiled, or as it is
        raise TypeError(
            "fit takes a model made by create_model or load_checkpoint, got "
            f"{type(model).__name__}; wrap a module with create_model(module, image_size=...)"
        )
    _check_trainable(model)
    for name, tiles, kind in (("train", train, TileSet), ("val", val, TileSet | None)):
        if not isinstance(tiles, kind):
            raise TypeError(
                f"{name} must be a TileSet, such as split(data, 'seed42').{name}, got "
                f"{type(tiles).__name__}"
            )
        if tiles is not None and len(tiles) == 0:
            raise ValueError(f"{name} holds no tiles")
    if len(train) < 2:
        raise ValueError(f"train must hold at least 2 tiles, got {len(train)}")
    if val is not None and train.provenance().contains(val).any():
        raise ValueError("train and val share tiles; split them first, with lulc.split")
    known = 0 if val is None or model.trained_on is None else model.trained_on.contains(val).sum()
    if known:
        raise ValueError(
            f"val holds {known:,} tiles that this model was trained on before "
            f"({model.trained_on.part}): they cannot choose an epoch; take the same split again"
        )
    if config.accumulate > min(config.batch_size, len(train)):
        raise ValueError(
            f"accumulate ({config.accumulate}) must not exceed the batch "
            f"({min(config.batch_size, len(train))} tiles)"
        )
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, the folder of the run to go on with")


def _check_trainable(model: TileClassifier) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(
            f"{model.name} has nothing to train: none of its parameters requires a gradient; "
            "call model.requires_grad_(True), or freeze fewer of them"
        )
    for name, parameter in trained.items():
        if parameter.is_inference():
            raise ValueError(
                f"{name} of {model.name} was made in torch.inference_mode, and cannot be trained; "
                "make or load the model outside of it"
            )
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"{name} of {model.name} is {parameter.dtype}, and fit trains float32: call "
                'model.float(), and take RunConfig(precision="bfloat16") where that is faster'
            )


def _check_logits(logits: Any, count: int, name: str) -> None:
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
    if shape != (count, len(CLASSES)):
        met = f"a tensor of shape {shape}" if shape is not None else f"a {type(logits).__name__}"
        raise ValueError(
            f"{name} must return logits of shape {(count, len(CLASSES))} when it trains, and "
            f"returned {met}; wrap the module so that forward returns the logits alone"
        )


def _check_finite_weights(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} is NaN or infinite after this epoch; lower learning_rate, or set "
                "clip_norm=1"
            )


# Where launchers say how many processes they started: MPI's ways, then torchrun's and accelerate's.
_WORLD_SIZES = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE"]


def _accelerator(config: RunConfig, run_dir: str | Path | None) -> Accelerator:
    mixed = "bf16" if config.precision == "bfloat16" else "no"
    tracker = None if config.tracker == "none" else config.tracker
    project = None if run_dir is None else str(home_expanded(run_dir).absolute())
    if tracker and project is None:
        raise ValueError(f"tracker={tracker!r} needs run_dir, the folder its files go to")
    AcceleratorState._reset_state()
    launched = get_int_from_env(_WORLD_SIZES, 1)
    unmet = "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ and launched == 1
    if unmet and not any(name in os.environ for name in _WORLD_SIZES):
        raise ValueError(
            "accelerate launch was asked for several processes and started one: without GPUs it "
            "needs --multi_gpu (and no --cpu) to start them; docs/scaling.md has the lines"
        )
    accelerator = Accelerator(
        cpu=launched > 1 and not torch.cuda.is_available(),  # else they train side by side, unmet
        mixed_precision=mixed,
        log_with=tracker,
        project_dir=project,
    )
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but {accelerator.num_processes} met; "
            "docs/scaling.md has the lines that start several"
        )
    return accelerator


def _start_tracker(accelerator: Accelerator, config: RunConfig) -> None:
    if config.tracker != "none":
        settings = {k: v if isinstance(v, int | float | str) else str(v)
                    for k, v in vars(config).items()}  # fmt: skip
        accelerator.init_trackers("lulc", config=settings)
