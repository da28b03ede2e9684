"""Draw what a model looks at in one picture: `lulc explain NAME image.jpg`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lulc_lib.cli import common, parsing

if TYPE_CHECKING:
    import numpy as np

    from lulc_lib.explanations import Explanation

DETAILS = """\
Any picture will do; the models learned from EuroSAT tiles, 64 x 64 pixels of 10 m. A larger
picture is cropped (its centre, at its own resolution) or resized (its largest centred square),
and the ground size that follows is stated. Numbers of more than 8 bits, such as reflectances, need
--scale; what is decided about bands and values is said in a warning. Writes a PNG with the picture
and the map beside it."""
EXAMPLES = """\
examples:
  lulc explain resnet50 photo.jpg
  lulc explain vit photo.jpg --fit resize --method layercam
  lulc explain resnet50 River_12.jpg --target Highway --out maps/river.png
  lulc explain resnet50 River_12.jpg --method finercam --contrast Highway
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="a checkpoint: its name or its path")
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="a picture (JPEG, PNG, TIFF, WebP, GIF or BMP)"
    )
    parser.add_argument(
        "--method",
        help="a name in lulc.methods(), such as layercam or finercam, for a ViT also relevance "
        "(default: what the model's report card recommends, else gradcam)",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="class to explain, such as River (default: the predicted one)",
    )
    parser.add_argument(
        "--contrast",
        metavar="CLASS",
        help="why the target, not this class? For finercam (default: the three nearest)",
    )
    parser.add_argument(
        "--layer",
        default="auto",
        help="a dotted module name, or the number of a stage, -1 the deepest (default: chosen "
        "from the model)",
    )
    parser.add_argument(
        "--fit",
        choices=("crop", "resize"),
        default="crop",
        help="how a larger picture becomes 64 x 64 pixels (default: crop)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="WHITE",
        help="the number that is white, for pictures of more than 8 bits: 10000 for reflectances",
    )
    parsing.add_precision_option(parser)
    parser.add_argument(
        "--out",
        metavar="FILE.png",
        help="where to write (default: outputs/IMAGE_NAME_METHOD.png)",
    )


def run(options: argparse.Namespace) -> None:
    """Fit the picture, explain it, draw it."""
    from lulc_lib.explanations import explain, recommended
    from lulc_lib.images import SENTINEL_METRES, SIDE, open_picture, printable
    from lulc_lib.plots import describe_grid, plot_gallery, save_figure

    ((name, model),) = common.get_models([options.name]).items()
    method = options.method or recommended(model).method
    asked = Path("outputs", f"{options.image.stem}_{Path(options.name).name}_{method}.png")
    out = common.output_file(options.out or asked, (".png",), spare=[options.image])
    picture = open_picture(options.image, options.fit, options.scale)
    images = picture.image[None]
    maps = explain(
        model,
        images,
        options.method,
        _number_or_word(options.target),
        _number_or_word(options.layer),
        _number_or_word(options.contrast),
        precision=options.precision,
    )
    ground = SENTINEL_METRES * SIDE * picture.scale
    shown = printable(options.image.name)
    common.say(f"{shown}: {picture.fitted}")
    common.say(f"{'shows':<9} {picture.ground}")
    common.say(f"{name:<9} {_likeliest(maps.logits[0])}")
    common.say(f"{'map':<9} {_about(maps)}; {describe_grid(maps.grid, ground)}")
    common.say(f"{'method':<9} {maps.ground}")
    for warning, sentence in maps.warned(0).items():
        common.say(f"{'warning':<9} {warning}: {sentence}")
    figure = plot_gallery(images, {name: maps}, names=[shown], ground=ground)
    common.say(f"{'wrote':<9} {printable(str(save_figure(figure, out, dpi=150)))}")


def _number_or_word(text: str | None) -> int | str | None:
    is_number = text is not None and text.removeprefix("-").isdigit()
    return int(text) if is_number else text


def _likeliest(logits: "np.ndarray") -> str:
    """Name the three likeliest classes with their probabilities."""
    from lulc_lib.arrays import softmax
    from lulc_lib.plots import describe_probability
    from lulc_lib.tiles import CLASSES

    probabilities = softmax(logits)
    likeliest = (-probabilities).argsort(kind="stable")[:3]
    return ", ".join(
        f"{CLASSES[i]} {describe_probability(float(probabilities[i]))}" for i in likeliest
    )


def _about(maps: "Explanation") -> str:
    """Say which method explains which class where."""
    from lulc_lib.tiles import CLASSES

    target, predicted = int(maps.target[0]), int(maps.predicted[0])
    which = f"{CLASSES[target]}, {'the predicted class' if target == predicted else 'as asked'}"
    return f"{maps.method} for {which}" + (f", at {maps.layer}" if maps.layer else "")
