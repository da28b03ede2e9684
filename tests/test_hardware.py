"""What computes here is named, with what it means."""

import pytest
import torch

from lulc_lib import hardware
from lulc_lib.hardware import FLAGS, OTHER, describe_hardware, fast_bfloat16, processor

X86 = "processor\t: 0\nmodel name\t: Some {trap}\nflags\t\t: fpu sse4_2 {flags}\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {flags}\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "kind", "fast"),
    [
        (X86.format(trap="", flags="avx2 avx512f avx512_bf16 amx_bf16 amx_tile"), "AMX", True),
        (X86.format(trap="", flags="avx2 avx512f avx512_bf16"), "AVX512-BF16", True),
        (X86.format(trap="", flags="avx avx2 avx512f avx512_vnni"), "AVX512 without BF16", False),
        (X86.format(trap="", flags="avx avx2 fma"), "AVX2 alone", False),
        (X86.format(trap="amx_bf16 processor", flags="avx2"), "AVX2 alone", False),
        (X86.format(trap="", flags="avx"), "of another kind", False),
        (ARM.format(flags="bf16 i8mm"), "ARM with BF16", True),
        (ARM.format(flags="crc32"), "of another kind", False),
        ("", "of another kind", False),
    ],
)
def test_the_kind_is_read_from_the_flags(text: str, kind: str, fast: bool):
    """The best instruction set among the flags counts; words elsewhere do not."""
    assert (processor(text).kind, processor(text).fast_bfloat16) == (kind, fast)


def test_each_kind_says_what_it_means():
    """Each meaning speaks of bfloat16 and of the precision to choose; none advises what is slow."""
    kinds = [*FLAGS.values(), OTHER]
    assert len({one.kind for one in kinds}) == len({one.meaning for one in kinds}) == 6
    for one in kinds:
        assert "bfloat16" in one.meaning
        assert ("keep --precision float32" in one.meaning) == (not one.fast_bfloat16)


def test_without_cpuinfo_torch_is_asked(monkeypatch, tmp_path):
    """On systems without /proc/cpuinfo the instructions that torch uses tell the kind."""
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "none")
    for said, kind in (("AVX2", "AVX2 alone"), ("AVX512", "AVX512 without BF16"), ("NO AVX", "of")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda said=said: said)
        assert processor().kind.startswith(kind)
    assert len(describe_hardware(torch.device("cpu"))) > 5


def test_this_machine_is_named(monkeypatch, tmp_path):
    """The processor's name comes from /proc/cpuinfo, and a kind is found for any machine."""
    assert processor() in {*FLAGS.values(), OTHER}
    file = tmp_path / "cpuinfo"
    file.write_text(X86.format(trap="Processor 9", flags="amx_bf16"))
    monkeypatch.setattr(hardware, "CPUINFO", file)
    assert describe_hardware(torch.device("cpu")).startswith("Some Processor 9, ")
    assert processor().kind == "AMX"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fast_bfloat16()


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_decides_about_bfloat16(monkeypatch, has):
    """Where there is a GPU, bfloat16 is fast if the GPU has it, whatever the processor."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert fast_bfloat16() is has
