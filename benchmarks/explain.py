"""Measure what explanations cost, as ratios taken in one run, pytorch-grad-cam beside them.

    python benchmarks/explain.py            # a quarter of an hour on two cores
    python benchmarks/explain.py --only vit_base    # one model, the other's figures kept
    python benchmarks/explain.py --quick    # tiny sizes: does it run at all, nothing written

All ways see the same tiles and take turns; the fastest round of each counts, since other work on
the machine can only slow one down. Each model has a process of its own: how torn the memory is that
another one left decides about a tenth of the time. ResNet50 and ViT-B/16 at 224 px, batches of 16:

(a) one gradient CAM, and eight CAMs together, beside a plain forward pass of the same precision;
(b) maps/s beside pytorch-grad-cam called tile by tile, the usual way;
(c) ablationcam beside pytorch-grad-cam's, in channels/s (there on an eighth of the channels);
(d) scorecam beside the masked passes that it consists of.

ResNet50 and the ViT of averaged tokens at 64 px, batches of 64:

(e) each method with held gates or several layers beside a plain forward pass: three passes at most.
"""

import argparse
import functools
import json
import math
import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from pytorch_grad_cam import AblationCAM, GradCAM
from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from lulc_lib.anatomies import anatomy, channel_axis, to_grid
from lulc_lib.explanations import explain
from lulc_lib.models import TileClassifier, create_model

RESULTS = Path(__file__).parent / "results" / "explain.json"
MODELS = {"resnet50": {}, "vit_base": {}}
QUICK = {"resnet50": {}, "vit_base": {"embed_dim": 48, "depth": 3, "num_heads": 3}}
EIGHT = (
    "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam",
    "eigengradcam",
)  # fmt: skip
WANTED = {
    "one_cam": 0.85,
    "eight_cams": 0.6,
    "tile_by_tile float32 resnet50": 4.0,
    "tile_by_tile float32 vit_base": 3.3,  # a plain forward pass itself is only about 3.8 times
    "tile_by_tile bfloat16": 6.0,
    "ablation resnet50": 10.0,
    "ablation vit_base": 6.0,
    "scorecam": 0.85,
    **dict.fromkeys(("libragrad", "contributions", "competition", "refinecam"), 0.33),
}
THREE_PASSES = ("gradcam", "libragrad", "contributions", "competition", "refinecam")
AVERAGED = {"resnet50": "resnet50", "vit_base": "vit"}  # a class token is no sum of cells
SCORED_LAYER = {"resnet50": "network.layer1"}  # 256 channels; the last layer has 2,048


def fastest(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the seconds of each way: a round to warm up, then the fastest of rounds in turns.

    A way runs twice in its turn, since the first time after another it pays for its memory.
    """
    best = dict.fromkeys(ways, math.inf)
    for turn in range(rounds + 1):
        for name, way in ways.items():
            for _ in range(2 if turn else 1):
                start = time.perf_counter()
                way()
                if turn:
                    best[name] = min(best[name], time.perf_counter() - start)
    return best


def forward(model: TileClassifier, tiles: torch.Tensor, precision: str) -> torch.Tensor:
    enabled = precision == "bfloat16"
    if anatomy(model).family == "cnn":  # the faster order in memory, as `explain` takes
        tiles = tiles.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(tiles.device.type, torch.bfloat16, enabled=enabled):
        return model(tiles)


def library(model: TileClassifier, cls: type, **arguments: object) -> object:
    """Return pytorch-grad-cam's method at our layer, told the grid as it asks for."""
    found = anatomy(model)
    reshape = functools.partial(to_grid, found=found) if found.family == "vit" else None
    return cls(model, [model.get_submodule(found.layer)], reshape_transform=reshape, **arguments)


def compare_cams(model: TileClassifier, tiles: torch.Tensor, rounds: int) -> dict[str, float]:
    """Measure (a) and (b)."""
    some, count = tiles[: max(1, len(tiles) // 4)], len(tiles)

    def tile_by_tile() -> None:
        cam = library(model, GradCAM)
        for tile in some:
            cam(tile[None], [ClassifierOutputTarget(3)])
        cam.activations_and_grads.release()  # its hooks would also slow down the others

    ways: dict[str, Callable[[], object]] = {"tile by tile": tile_by_tile}
    for kind in ("float32", "bfloat16"):
        run = functools.partial(explain, model, tiles, precision=kind)
        ways[f"forward {kind}"] = functools.partial(forward, model, tiles, kind)
        ways[f"gradcam {kind}"] = functools.partial(run, method="gradcam", target=3)
        ways[f"eight {kind}"] = functools.partial(run, method=EIGHT, target=3)
    took = fastest(ways, rounds)
    took["tile by tile"] *= count / len(some)
    ratios = {}
    for kind in ("float32", "bfloat16"):
        ratios[f"one_cam {kind}"] = took[f"forward {kind}"] / took[f"gradcam {kind}"]
        ratios[f"eight_cams {kind}"] = took[f"forward {kind}"] / took[f"eight {kind}"]
        ratios[f"tile_by_tile {kind}"] = took["tile by tile"] / took[f"gradcam {kind}"]
    rates = {f"{way} tiles/s": count / seconds for way, seconds in took.items()}
    return {**ratios, **rates}


def compare_ablation(name: str, model: TileClassifier, tile: torch.Tensor) -> dict[str, float]:
    """Measure (c): channels/s, both in float32."""
    vit = anatomy(model).family == "vit"
    layer = AblationLayerVit() if vit else AblationLayer()
    part = 1 / 16  # of the channels from either end of the library's order
    cam = library(model, AblationCAM, ablation_layer=layer, ratio_channels_to_ablate=part)
    channels = len(model.get_submodule(anatomy(model).head).weight[0])
    took = fastest(
        {
            "library": lambda: cam(tile, [ClassifierOutputTarget(3)]),
            "ours": lambda: explain(model, tile, "ablationcam", target=3),
        },
        rounds=1,
    )
    cam.activations_and_grads.release()
    theirs = 2 * int(channels * part) / took["library"]
    ours = channels / took["ours"]
    rates = {"library channels/s": theirs, "ablationcam channels/s": ours}
    return {f"ablation {name}": ours / theirs, **rates}


def compare_scorecam(
    name: str, model: TileClassifier, tiles: torch.Tensor, precision: str
) -> dict[str, float]:
    """Measure (d): ScoreCAM's passes/s beside plain passes of the same batch."""
    layer = SCORED_LAYER.get(name, "auto")
    tile = tiles[:1]
    where = explain(model, tile, "gradcam", layer=layer).layer
    shapes = []
    module = model.get_submodule(where)
    handle = module.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    forward(model, tile, precision)
    handle.remove()
    channels = shapes[0][channel_axis(shapes[0])]
    run = functools.partial(explain, model, tile, "scorecam", target=3, layer=layer)
    took = fastest(
        {
            "passes": lambda: forward(model, tiles, precision),
            "scorecam": lambda: run(precision=precision, batch_size=len(tiles)),
        },
        rounds=1,
    )
    ratio = (channels / took["scorecam"]) / (len(tiles) / took["passes"])
    return {f"scorecam {precision}": ratio}


def compare_three_passes(name: str, count: int, rounds: int) -> dict[str, float]:
    """Measure (e), on a model whose head averages its cells."""
    torch.manual_seed(0)
    model = create_model(AVERAGED[name], image_size=64).eval()
    tiles = torch.rand(count, 3, 64, 64)
    ways: dict[str, Callable[[], object]] = {
        "passes": lambda: forward(model, tiles, "float32"),
        **{m: functools.partial(explain, model, tiles, m, 3) for m in THREE_PASSES},
    }
    took = fastest(ways, rounds)
    return {f"{m} {AVERAGED[name]}": took["passes"] / took[m] for m in THREE_PASSES}


def measure(name: str, quick: bool) -> dict[str, float]:
    """Return all ratios and rates of one model."""
    torch.manual_seed(0)
    size = 64 if quick else 224
    model = create_model(name, image_size=size, **(QUICK if quick else MODELS)[name]).eval()
    tiles = torch.rand(4 if quick else 16, 3, 64, 64)
    found = compare_cams(model, tiles, rounds=1 if quick else 4)
    found |= compare_ablation(name, model, tiles[:1])
    kinds = ("float32", "bfloat16") if name == "resnet50" else ("bfloat16",)
    for kind in kinds:
        found |= compare_scorecam(name, model, tiles, kind)
    return found | compare_three_passes(name, 4 if quick else 64, rounds=1 if quick else 4)


def wanted(ratio: str, model: str) -> float | None:
    """Return the bar of a ratio, None for what is only shown."""
    full = f"{ratio} {model}"
    return next((bar for name, bar in WANTED.items() if full.startswith(name)), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    parser.add_argument("--only", choices=list(MODELS), help="measure one model")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text())["models"] if RESULTS.is_file() else {}
    for name in [options.only] if options.only else MODELS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            found = alone.submit(measure, name, options.quick).result()
        known[name] = {way: round(value, 3) for way, value in found.items()}
        for ratio, value in known[name].items():
            bar = wanted(ratio, name)
            note = "" if bar is None else f"  (wanted: at least {bar:g})"
            print(f"{name}, {ratio}: {value:.2f}{note}", flush=True)
        if not options.quick:  # after each, so that an end in between loses little
            result = {
                "wanted": WANTED,
                "models": known,
                "image_size": 224,
                "batch": 16,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "machine": platform.machine(),
            }
            RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    bars = [(wanted(ratio, name), value) for name in known for ratio, value in known[name].items()]
    held = all(bar is None or value >= bar for bar, value in bars)
    return 0 if held or options.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
