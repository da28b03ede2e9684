"""How a model is run: where, in which mode, and by one thread at a time."""

import contextlib
import copy
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module's parameters are on; a module without any runs on the CPU."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def check_explainable(model: nn.Module) -> None:
    """Refuse a model whose passes cannot be watched.

    Raises:
        ValueError: if part of it runs on several devices at once, in threads of its own.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise ValueError(
                f"{name} spreads tiles over {len(module.device_ids)} devices by nn.DataParallel, "
                "where its layers cannot be watched; wrap the module inside it: "
                "create_model(parallel.module, ...)"
            )


_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextlib.contextmanager
def taking_turns(model: nn.Module) -> Iterator[None]:
    """Run a block while no other thread runs the model; blocks of one thread may nest.

    Modes and hooks belong to the modules, and a panel may ask a model in the background. So threads
    also take turns where two models share a module.
    """
    with contextlib.ExitStack() as stack:
        for lock in _locks(model):
            stack.enter_context(lock)
        yield


def copied(model: nn.Module) -> Any:
    """Return a deep copy, made between other threads' blocks: it takes over none of their hooks."""
    with taking_turns(model):
        return copy.deepcopy(model)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode without gradients; each module gets its own mode back.

    Threads take turns, see `taking_turns`. timm's gradient checkpointing is off meanwhile: it saves
    memory in training alone, and would run layers a second time.

    Raises:
        ValueError: if the block fails and the model's parameters are of a kind that explains it.
    """
    with taking_turns(model):
        modes = {module: module.training for module in model.modules()}
        checkpointed = [m for m in modes if vars(m).get("grad_checkpointing")]
        if any(modes.values()):
            model.eval()
        for module in checkpointed:
            module.grad_checkpointing = False
        try:
            with torch.no_grad():
                yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = _unusual(model)
            if reason is None:
                raise
            raise ValueError(f"{reason}; PyTorch says: {str(error).splitlines()[0]}") from error
        finally:
            for module in checkpointed:
                module.grad_checkpointing = True
            for module, mode in modes.items():
                if module.training != mode:  # to set one takes longer than to look
                    module.training = mode


def _locks(model: nn.Module) -> list[Any]:
    """Return the locks of a model's modules, one where they were first run together, in order.

    A module keeps its lock for good. A model of new modules gets one lock for all of them; one
    that shares modules with others gets theirs. All threads take several locks in the same order.
    """
    modules = list(model.modules())
    with _LOCKS_LOCK:
        locks = [_LOCKS.get(module) for module in modules]
        known = {id(lock): lock for lock in locks if lock is not None}
        first = known[min(known)] if known else threading.RLock()
        for module, lock in zip(modules, locks, strict=True):
            if lock is None:  # to set one takes as long as to look
                _LOCKS[module] = first
    return [known[number] for number in sorted(known)] or [first]


def _unusual(model: nn.Module) -> str | None:
    """Say what about a model's parameters stops it from being run or explained, and what to do."""
    name = getattr(model, "name", type(model).__name__)
    small = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    small &= {"float16", "bfloat16"}
    if small:
        return (
            f"{name} has parameters of {' and '.join(sorted(small))}, tiles are float32; call "
            "model.float(), and pass precision='bfloat16' where speed counts"
        )
    if any(p.is_inference() for p in model.parameters()):
        return (
            f"{name} was made under torch.inference_mode, which forbids gradients; make it or load "
            "it outside"
        )
    return None
