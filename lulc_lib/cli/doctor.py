"""Say what is here, what is missing, and what that prevents: `lulc doctor`."""

import argparse
import contextlib
import importlib
import os
import platform
import shutil
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from lulc_lib import __version__
from lulc_lib.cli import common

DETAILS = """\
Changes nothing and needs no network (tiles found for the first time are decoded, which takes some
seconds). Exit code 1 when something that is needed is missing or broken."""
EXAMPLES = """\
examples:
  lulc doctor
  LULC_EUROSAT=EuroSAT_RGB.zip lulc doctor
"""

# Package on the index: what its absence prevents. The first group is needed, the second optional.
NEEDED = {
    "torch": "everything",
    "torchvision": "explanations",
    "timm": "models",
    "numpy": "everything",
    "pandas": "evaluation and tables",
    "scikit-learn": "the colour baseline, concepts, doubted labels and kept predictions",
    "pillow": "reading and writing pictures",
    "safetensors": "loading and saving checkpoints",
    "huggingface_hub": "downloading EuroSAT",
    "accelerate": "training",
    "grad-cam": "explanations",
    "captum": "explanations of pixels",
    "matplotlib": "figures and galleries",
    "platformdirs": "the cache",
    "tqdm": "progress bars",
}
OPTIONAL = {
    "jupyterlab": ("the notebooks and `make lab`", "notebooks"),
    "ipywidgets": ("the explorer and figures with controls", "notebooks"),
    "anywidget": ("the explorer and lulc.Live", "notebooks"),
    "voila": ("make app", "notebooks"),
    "tensorboard": ("lulc train --tracker tensorboard", "trackers"),
    "wandb": ("lulc train --tracker wandb", "trackers"),
}
GIB = 2**30
MEMORY_WISHED = 4 * GIB  # training ResNet50 at 64 px, or evaluating all tiles, and some to spare
DISK_WISHED = 1 * GIB  # EuroSAT's zip and its decoded tiles take 0.43


class Finding(NamedTuple):
    """One thing looked at.

    Attributes:
        state: "ok", "note" (works without), or "BAD" (needed, and missing or broken).
        text: what was found, and what its absence prevents.
    """

    state: str
    text: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    """Print the findings; return 1 when a needed thing is missing or broken."""
    checks = {
        "versions": versions,
        "device": device,
        "data": data,
        "checkpoints": checkpoints,
        "memory and disk": space,
    }
    bad = 0
    for title, check in checks.items():
        common.say(f"\n{title}")
        for finding in check():
            bad += finding.state == "BAD"
            common.say(_wrapped(finding))
    common.say(f"\n{bad} of these must be mended" if bad else "\nall that is needed is here")
    return 1 if bad else 0


def _wrapped(finding: Finding) -> str:
    words = textwrap.wrap(finding.text, 92, break_long_words=False, break_on_hyphens=False)
    return "\n".join(
        [f"  {finding.state:<4}  {words[0]}", *(f"        {line}" for line in words[1:])]
    )


def versions() -> Iterator[Finding]:
    """Look for packages, and whether torch and torchvision fit together."""
    yield Finding(
        "ok", f"lulc_lib {__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    found = {name: _version(name) for name in NEEDED}
    yield Finding("ok", ", ".join(f"{name} {v}" for name, v in found.items() if v))
    for name, version in found.items():
        if not version:
            remedy = f"`pip install {name}`"
            yield Finding("BAD", f"{name} is missing, which prevents {NEEDED[name]}: {remedy}")
    for name in ("torch", "torchvision"):
        if found[name]:
            try:
                importlib.import_module(name)
            except Exception as error:
                yield Finding(
                    "BAD",
                    f"{name} {found[name]} cannot be imported, which prevents {NEEDED[name]}: "
                    f"{_first_line(error)} (do torch and torchvision match? `make demo` installs "
                    "the pair in requirements.lock)",
                )
    for name, (purpose, extra) in OPTIONAL.items():
        version = _version(name)
        if version:
            yield Finding("ok", f"{name} {version}")
        else:
            remedy = f"`pip install 'lulc-lib[{extra}]'`"
            yield Finding("note", f"{name} is missing, which prevents {purpose}: {remedy}")


def device() -> Iterator[Finding]:
    """Look for accelerators, and name the processor's kind and what it means."""
    try:
        import torch

        from lulc_lib import hardware
    except Exception as error:
        yield Finding("BAD", f"no device without torch: {_first_line(error)}")
        return
    processor = hardware.processor()
    state = "ok" if processor.fast_bfloat16 else "note"
    yield Finding("ok", f"CPU: {hardware.describe_hardware(torch.device('cpu'))}")
    yield Finding(state, f"processor {processor.kind}: {processor.meaning}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / GIB
            yield Finding("ok", f"GPU: {torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
        fast = hardware.fast_bfloat16()
        advice = "has bfloat16: use" if fast else "has no bfloat16: do not use"
        yield Finding(
            "ok" if fast else "note",
            f"GPU {advice} --precision bfloat16 in lulc train; a loaded checkpoint computes on the "
            "processor until it is moved (model.cuda())",
        )
    elif torch.backends.mps.is_available():
        yield Finding("ok", "GPU: Apple (mps)")
    else:
        yield Finding("note", "no GPU: training ResNet50 takes minutes an epoch, not seconds")


def data() -> Iterator[Finding]:
    """Look for EuroSAT without downloading it."""
    try:
        from lulc_lib.eurosat import DataUnavailableError, data_root, load_eurosat
    except Exception as error:
        yield Finding("BAD", f"EuroSAT cannot be read: {_first_line(error)}")
        return
    try:
        tiles = load_eurosat(download=False)
        where = "decoded before, in the cache"
        with contextlib.suppress(DataUnavailableError):
            where = str(data_root())
        state = "ok" if tiles.original else "note"
        yield Finding(state, f"{tiles.source}: {len(tiles):,} tiles, {where}")
        if state == "note":
            yield Finding(
                "note",
                "not the original: figures cannot be compared with others', and the shipped models "
                "were not made for these tiles",
            )
    except DataUnavailableError:
        yield Finding(
            "note",
            "EuroSAT is not here: commands download it (96 MB) when they need it. Without network, "
            "this prevents all but drawn tiles (--drawn). Remedy: put EuroSAT_RGB.zip into data/, "
            "or set LULC_EUROSAT to it",
        )
    except (OSError, ValueError) as error:
        yield Finding("BAD", f"EuroSAT cannot be read: {_first_line(error)}")


def checkpoints() -> Iterator[Finding]:
    """Load every checkpoint that a name finds."""
    try:
        from lulc_lib.checkpoints import available_checkpoints, load_checkpoint

        names = available_checkpoints()
    except Exception as error:
        yield Finding("BAD", f"checkpoints cannot be looked up: {_first_line(error)}")
        return
    for name in names:
        try:
            yield Finding("ok", load_checkpoint(name)[1].summary())
        except (OSError, ValueError) as error:
            yield Finding("BAD", _first_line(error))
    for name in ("resnet50", "vit"):
        if name not in names:
            yield Finding(
                "note",
                f"no checkpoint {name}, which prevents `lulc explain {name}`: `lulc train --model "
                f"{name}` makes one; `lulc demo` trains a small one instead",
            )


def space() -> Iterator[Finding]:
    """Look at free memory and disk."""
    from lulc_lib.storage import free_memory

    memory = free_memory()
    if memory is None:
        yield Finding("note", "free memory is not known on this system; 4 GiB are enough")
    elif memory < MEMORY_WISHED:
        yield Finding(
            "note",
            f"memory: {memory / GIB:.1f} GiB free, below 4 GiB: training and `lulc evaluate --part "
            "all` may be killed; close other programs or notebooks",
        )
    else:
        yield Finding("ok", f"memory: {memory / GIB:.1f} GiB free")
    yield _disk("outputs and runs", Path.cwd())
    try:
        from lulc_lib.storage import cache_dir

        folder = cache_dir()
    except (ImportError, OSError) as error:
        yield Finding(
            "note",
            f"no cache: EuroSAT is decoded and everything computed anew each time: "
            f"{_first_line(error)}",
        )
        return
    yield _disk("cache", folder)


def _disk(purpose: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"disk for {purpose}: {free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("note", f"{text}, which may not be written to")
    if free < DISK_WISHED:
        return Finding("note", f"{text}, below 1 GiB: decoding EuroSAT or saving runs may fail")
    return Finding("ok", text)


def _version(name: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
