"""How a model is run: where, in which mode, and by one thread at a time."""

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module's parameters are on; a module without any runs on the CPU."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode without gradients; each module gets its own mode back.

    Threads take turns: modes and hooks belong to the model, and a panel may ask it in the
    background.
    """
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
