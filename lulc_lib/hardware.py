"""What computes here: the processor's kind, and what it means for how long things take."""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")  # Linux; elsewhere torch is asked


@dataclass(frozen=True)
class Processor:
    """A kind of processor.

    Attributes:
        kind: its name, e.g. "AMX" or "AVX2".
        fast_bfloat16: whether it multiplies bfloat16 in hardware.
        meaning: what that means for speed, in plain words.
    """

    kind: str
    fast_bfloat16: bool
    meaning: str


# The figures of AMX and AVX2 were measured on two cores each: benchmarks/results, and the tiles per
# second of the shipped ResNet50 at 128 px.
AMX = Processor(
    "AMX",
    True,
    "bfloat16 is multiplied in hardware: --precision bfloat16 is two to three times as fast as "
    "float32, and the minutes of the model cards were measured on two cores of such a processor",
)
AVX512_BF16 = Processor(
    "AVX512-BF16",
    True,
    "bfloat16 is multiplied in hardware: --precision bfloat16 should be up to twice as fast as "
    "float32 (not measured here); the minutes of the model cards are AMX's, expect somewhat more",
)
ARM_BF16 = Processor(
    "ARM with BF16",
    True,
    "bfloat16 is multiplied in hardware: --precision bfloat16 may be faster than float32 (not "
    "measured here, so compare the two)",
)
AVX512 = Processor(
    "AVX512 without BF16",
    False,
    "bfloat16 is emulated and slower than float32: keep --precision float32; expect two to five "
    "times the minutes of the model cards, which are AMX's (not measured here)",
)
AVX2 = Processor(
    "AVX2 alone",
    False,
    "bfloat16 is emulated and slower than float32: keep --precision float32; on two cores the "
    "shipped ResNet50 predicts about 14 to 23 tiles/s, and training takes four to five times the "
    "minutes of the model cards, which are AMX's",
)
OTHER = Processor(
    "of another kind",
    False,
    "no fast bfloat16 is known of: keep --precision float32; the minutes of the model cards "
    "are AMX's, and how many it takes here was not measured",
)
# The best first: a processor with AMX has all of the following as well.
FLAGS = {
    "amx_bf16": AMX,
    "avx512_bf16": AVX512_BF16,
    "bf16": ARM_BF16,
    "avx512f": AVX512,
    "avx2": AVX2,
}
CAPABILITIES = {"AVX2": AVX2, "AVX512": AVX512}  # as torch names them


def processor(cpuinfo: str | None = None) -> Processor:
    """Return the kind of this machine's processor.

    Args:
        cpuinfo: text in the form of Linux's /proc/cpuinfo; default: this machine's. Where the
            system has none, torch says which instructions it uses, and bfloat16 counts as slow.
    """
    if cpuinfo is None:
        if not CPUINFO.is_file():
            return CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), OTHER)
        cpuinfo = CPUINFO.read_text(encoding="utf-8", errors="replace")
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    words = {
        word
        for name, _, value in lines
        if name.strip() in ("flags", "Features")  # as x86 and ARM call them
        for word in value.split()
    }
    return next((kind for flag, kind in FLAGS.items() if flag in words), OTHER)


def fast_bfloat16() -> bool:
    """Tell whether this machine, its GPU where there is one, multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return processor().fast_bfloat16


def describe_hardware(device: torch.device) -> str:
    """Return the accelerator's or processor's name in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if CPUINFO.is_file():
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"
