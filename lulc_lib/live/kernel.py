"""Write the live page's matrix product as WebAssembly text, and assemble it.

`python -m lulc_lib.live.kernel` writes `static/kernels.json` anew; it needs wasmtime, which only
development does. The page falls back on the same product in JavaScript.
"""

import base64
import importlib.resources
import json
from pathlib import Path

ROWS, COLUMNS, UNROLLED = 4, 8, 4  # of a block of sums that stays in registers; steps of its loop
KINDS = {"relaxed": True, "simd": False}  # in the order in which the page tries them
_LOCALS = {
    "i": "i32", "x": "i32", "y": "i32", "end": "i32", "panel": "i32", "here": "i32",
    "b0": "v128", "b1": "v128", "v": "v128",
}  # fmt: skip


def text(fused: bool) -> str:
    """Return a module that multiplies matrices of float32 in an imported memory.

    multiply(a, lda, b, c, ldc, m, k, n) writes c = a b. All are bytes but m, k and n: a has m rows
    that begin lda bytes apart, c likewise. b lies in panels of 8 columns, each k rows of 8 values.
    m and k are multiples of 4, n is one of 8.

    Args:
        fused: multiply and add in one relaxed SIMD instruction; else in two of SIMD.
    """
    sums = [[f"$s{row}{half}" for half in range(2)] for row in range(ROWS)]
    flat = [name for row in sums for name in row]
    names = "".join(f"(local ${name} {kind})" for name, kind in _LOCALS.items())
    names += "".join(f"(local {name} v128)" for name in flat)
    zeros = "\n".join(f"(local.set {name} (v128.const f32x4 0 0 0 0))" for name in flat)
    steps = "\n".join(_step(step, sums, fused) for step in range(UNROLLED))
    stores = "\n".join(_stores(row, sums[row]) for row in range(ROWS))
    return f"""(module
(memory (import "env" "memory") 1)
(func (export "multiply") (param $a i32) (param $lda i32) (param $b i32) (param $c i32)
 (param $ldc i32) (param $m i32) (param $k i32) (param $n i32) {names}
(local.set $panel (i32.shl (local.get $k) (i32.const 5)))
(loop $columns
 (local.set $i (i32.const 0))
 (loop $rows
  (local.set $x (i32.add (local.get $a) (i32.mul (local.get $i) (local.get $lda))))
  (local.set $y (local.get $b))
  (local.set $end (i32.add (local.get $b) (local.get $panel)))
{zeros}
  (loop $sum
{steps}
   (local.set $x (i32.add (local.get $x) (i32.const {4 * UNROLLED})))
   (local.set $y (i32.add (local.get $y) (i32.const {32 * UNROLLED})))
   (br_if $sum (i32.lt_u (local.get $y) (local.get $end))))
  (local.set $here (i32.add (local.get $c) (i32.mul (local.get $i) (local.get $ldc))))
{stores}
  (local.set $i (i32.add (local.get $i) (i32.const {ROWS})))
  (br_if $rows (i32.lt_u (local.get $i) (local.get $m))))
 (local.set $b (local.get $end))
 (local.set $c (i32.add (local.get $c) (i32.const {4 * COLUMNS})))
 (local.set $n (i32.sub (local.get $n) (i32.const {COLUMNS})))
 (br_if $columns (i32.gt_s (local.get $n) (i32.const 0))))))
"""


def _step(step: int, sums: list[list[str]], fused: bool) -> str:
    """Add the products of one column of a and one row of b to all sums."""
    lines = [
        f"(local.set $b{half} (v128.load offset={32 * step + 16 * half} (local.get $y)))"
        for half in range(2)
    ]
    lines.append("(local.set $here (local.get $x))")
    for row, halves in enumerate(sums):
        if row:
            lines.append("(local.set $here (i32.add (local.get $here) (local.get $lda)))")
        lines.append(f"(local.set $v (v128.load32_splat offset={4 * step} (local.get $here)))")
        for half, name in enumerate(halves):
            pair = f"(local.get $v) (local.get $b{half})"
            total = (
                f"(f32x4.relaxed_madd {pair} (local.get {name}))"
                if fused
                else f"(f32x4.add (f32x4.mul {pair}) (local.get {name}))"
            )
            lines.append(f"(local.set {name} {total})")
    return "\n".join(lines)


def _stores(row: int, halves: list[str]) -> str:
    lines = [
        f"(v128.store offset={16 * half} (local.get $here) (local.get {name}))"
        for half, name in enumerate(halves)
    ]
    if row < ROWS - 1:
        lines.append("(local.set $here (i32.add (local.get $here) (local.get $ldc)))")
    return "\n".join(lines)


def assembled() -> dict[str, str]:
    """Return the modules in base64, by kind; needs wasmtime."""
    import wasmtime

    kinds = {kind: wasmtime.wat2wasm(text(fused)) for kind, fused in KINDS.items()}
    return {kind: base64.b64encode(bytes(code)).decode() for kind, code in kinds.items()}


def committed() -> dict[str, str]:
    """Return the modules in base64 as they come with the library, by kind."""
    return json.loads(_file().read_text())


def _file() -> Path:
    return Path(str(importlib.resources.files("lulc_lib") / "static" / "kernels.json"))


if __name__ == "__main__":
    _file().write_text(json.dumps(assembled(), indent=1) + "\n")
