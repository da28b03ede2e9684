"""The words of the suite, each with one meaning: for the notebooks, the panel and docs/glossary.md.

`python -m lulc_lib.glossary` prints the page docs/glossary.md.
"""

from typing import NamedTuple


class Term(NamedTuple):
    """A word and its meaning.

    Attributes:
        word: as the glossary lists it.
        notebook: number of the notebook that introduces it, such as "04"; "" where none does.
        meaning: one or two plain sentences.
    """

    word: str
    notebook: str
    meaning: str


TERMS = tuple(
    Term(*row)
    for row in (
        ("accuracy", "00", "The share of tiles whose predicted class is the label."),
        ("activation", "05",
         "What a layer computes from a tile: one number for each channel and cell."),
        ("AdamW", "02",
         "A rule for training steps that moves each weight by about the learning rate or less, "
         "whatever the size of its derivative, and shrinks weights a little each time."),
        ("adapted copy", "08",
         "A copy of a model that has learnt from tiles without a patch, so that a missing "
         "patch is nothing new to it."),
        ("agreement", "07",
         "The correlation of two maps of one tile, averaged over tiles: 1 if they rise and "
         "fall together, 0 if they have nothing in common."),
        ("attention", "03",
         "The part of a ViT in which each token collects from all others, in shares that "
         "depend on what the tile shows."),
        ("augmentation", "02",
         "Showing a training tile in ways that do not change its class: turned, mirrored, "
         "shifted."),
        ("AUPRC", "04",
         "The area under the curve of precision against recall when tiles are ranked by a "
         "class's probability; here the mean over the classes."),
        ("AURC", "12",
         "The area under the curve of the error rate against coverage: the mean error rate "
         "over all coverages."),
        ("backward", "02",
         "The third part of a training step, after the loss: the derivative of the loss with "
         "respect to every weight."),
        ("batch", "02", "The tiles that one training step uses."),
        ("batch norm", "02",
         "A layer that brings each channel of a batch to mean 0 and deviation 1, then "
         "scales and shifts it. In evaluation mode the mean and the deviation are not the batch's "
         "but running ones, kept from training."),
        ("block", "03",
         "A unit that a network repeats. In a ViT it is attention followed by an MLP, each "
         "added to the tokens that enter it."),
        ("bootstrap interval", "04",
         "The middle 95 % of a figure's values when tiles are drawn from the test tiles "
         "again and again, with replacement."),
        ("calibration", "04",
         "The agreement between the probability that a model claims and the share of such "
         "tiles that it gets right."),
        ("CAM", "00",
         "A class activation map: the channels of one layer, weighted for a class and "
         "added up cell by cell."),
        ("card", "02",
         "What lies beside a model's weights and says what it learnt from, by which "
         "settings, and how well it does."),
        ("cascade", "08",
         "Drawing a network's weights anew block by block, from the logits down, to see "
         "which of them a map depends on."),
        ("cell", "05", "The finest part that a map can tell apart: one place of a layer's grid."),
        ("channel", "05", "One of the numbers by which a layer describes a cell."),
        ("checkpoint", "12", "The weights of a model in a file, with its card beside them."),
        ("class token", "05",
         "A token that stands for no patch and from which some ViTs read the answer. The "
         "shipped ViT averages its tokens instead."),
        ("class-blind", "07",
         "Said of a method that draws the same map whichever class is asked for."),
        ("Clever Hans", "09",
         "A model that is right for a wrong reason, such as a mark in the pictures that "
         "goes with the class."),
        ("clipped", "03",
         "Cut off at a limit. A value beyond the end of a colour scale is drawn as its end, and "
         "a gradient is shortened to a given length."),
        ("competition", "00",
         "A method for networks whose logits are sums over cells: each cell's contribution "
         "times the probability that the cell alone would give the class, and 0 where that "
         "is no more than chance."),
        ("concept", "07",
         "A direction in the activations of a layer, found by factorisation, of which the "
         "cells are sums. The names that people give it are their own."),
        ("confidence", "06", "The probability that a model gives to the class it predicts."),
        ("confident joint", "12",
         "The table that counts tiles by label (row) and by the class that confident "
         "learning finds for them (column)."),
        ("confident learning", "12",
         "A search for wrong labels: a label is in doubt where the model gives another "
         "class at least the probability that is usual for tiles of that class."),
        ("confusion matrix", "04",
         "The table that counts tiles by label (row) and predicted class (column)."),
        ("convolution", "02",
         "A layer that multiplies each neighbourhood of pixels by the same weights."),
        ("correlation", "05",
         "How far two lists of numbers rise and fall together, from −1 to 1. Scale and "
         "offset do not matter."),
        ("cosine similarity", "03",
         "The cosine of the angle between two vectors: 1 for the same direction, 0 for a right "
         "angle, below 0 for opposed ones."),
        ("coverage", "12",
         "The share of tiles that a model answers when it leaves out those that it is "
         "least sure of."),
        ("cut", "05",
         "A layer that every path from a patch to the logits passes. A CAM of another "
         "layer misses what goes round it."),
        ("deletion curve", "08",
         "The target's probability while a tile's pixels are taken away in a map's order, "
         "highest first. A small area below it speaks for the map."),
        ("distillation", "03",
         "Training a network to give the probabilities of another one, its teacher, "
         "besides the labels."),
        ("drawn tile", "01",
         "A tile painted by `lulc.synthetic()`, of which we know where the evidence lies."),
        ("ECE", "04",
         "The expected calibration error: the mean distance between claimed probability "
         "and share of right answers, over bins of tiles of similar probability."),
        ("epoch", "02", "One pass over all training tiles."),
        ("faithful", "05",
         "Said of a map that shows what the model's answer really rests on, whether or not "
         "it looks plausible."),
        ("family", "07",
         "Methods that read the same things of a network, such as a layer's activations, "
         "attention, or the answers to covered tiles."),
        ("features", "06",
         "The numbers by which a network describes a tile before its last linear layer."),
        ("filling", "06",
         "What stands in for pixels that are taken away: a blur of those that stay, their "
         "mean colour, a texture, or what lies between the neighbours."),
        ("Finer-CAM", "07", "A CAM of the lead of one logit over another."),
        ("forward", "02", "The first part of a training step: from tiles to logits."),
        ("gate", "",
         "A part of a network that lets a signal through by a factor that itself depends "
         "on the tile: attention shares, a norm's deviation, an activation function. The "
         "method `libragrad` holds such factors constant."),
        ("Grad-CAM", "00",
         "The CAM whose weights are the mean gradient of the target's logit over the cells "
         "of each channel."),
        ("gradient", "05",
         "The derivative of a number, such as a logit, with respect to many others, such "
         "as activations or pixels."),
        ("grid", "00",
         "The cells in which a layer describes a tile, such as 8 x 8: the layer's own "
         "resolution."),
        ("head", "03",
         "One of several attentions that work side by side in a block, each in a slice of "
         "the width."),
        ("heat map", "00",
         "A value for each pixel of a tile that says how much the place counts for the "
         "target or against it: the grid brought to the size of the tile."),
        ("HiResCAM", "05",
         "The CAM that multiplies gradient and activation cell by cell. Where one linear "
         "layer follows the mean over cells, its cells are the terms of the logit."),
        ("insertion", "08",
         "The opposite of the deletion curve: the target's probability while pixels come back "
         "in a map's order, highest first. A large area below it speaks for the map."),
        ("label", "00", "The class that people gave a tile; the ground truth, errors included."),
        ("label smoothing", "02",
         "Asking a network for a little less than certainty, by spreading a share of the "
         "target over all classes."),
        ("layer", "05",
         "One step of a network's computation. The layer of a CAM is the one whose "
         "activations are weighted."),
        ("layer norm", "05",
         "A layer that brings the numbers of a token, or of their average, to mean 0 and "
         "deviation 1, then scales and shifts them."),
        ("lead", "07",
         "The difference between two logits or two scores: of two models or, on a report card, "
         "of a method and a null on the same tiles."),
        ("leak", "01",
         "A model is scored on tiles that it was trained on, so that the score is too high."),
        ("learning rate", "02", "The length of a training step."),
        ("LeGrad", "08",
         "A method for ViTs that adds up, over all blocks, the positive part of the gradient of "
         "the target's logit with respect to the attention."),
        ("libragrad", "07",
         "A method that multiplies activation and gradient, with factors such as attention "
         "shares held constant."),
        ("logits", "00", "A model's outputs before the softmax, one for each class."),
        ("loss", "02",
         "How wrong a model is, in one number. Here: the cross-entropy, minus the "
         "logarithm of the label's probability, averaged over tiles."),
        ("macro-F1", "01",
         "The plain mean over classes of F1, which is the hits of a class over the mean of "
         "tiles that are it and tiles called it."),
        ("McNemar's test", "04",
         "A test whether two models are equally good that uses only the tiles which one of "
         "them gets right alone."),
        ("mean rank", "00",
         "An explanation's place among those tried, 1 is best, on average over the three tests "
         "that recommend. A place counts how many others are better, each by the probability that "
         "it would be on other tiles."),
        ("mixup", "02", "Blending two training tiles and asking for both labels in proportion."),
        ("MLP", "03",
         "A small network of two linear layers. In a ViT's block it works on each token by "
         "itself."),
        ("mosaic", "05",
         "Four tiles of different classes in one picture. The test asks how much of the "
         "positive part of the map for one class lies on its own quarter; chance gives a "
         "quarter."),
        ("muon", "03",
         "A rule for training steps that moves all directions of a weight matrix alike."),
        ("near-copy", "12",
         "A training tile so near to a test tile that few tiles of different classes are "
         "as near."),
        ("null", "07",
         "An explanation that looks at no model: random, cells, centre, edge, blur. What a "
         "null passes is no evidence."),
        ("occlusion", "07",
         "A method that covers parts of a tile one after the other and notes what the "
         "answer loses."),
        ("patch", "03",
         "A square part of a tile: what a ViT turns into a token, or what a test takes "
         "away."),
        ("pointing game", "08",
         "A test on mosaics. It asks whether the highest value of the map lies on the right "
         "quarter."),
        ("position code", "03",
         "A vector that is added to a token and says where in the tile its patch lies."),
        ("predicted", "00", "The class with the largest logit, and so the highest probability."),
        ("producer's accuracy", "01", "Recall: of the tiles that are a class, the part found."),
        ("RefineCAM", "08",
         "A method that multiplies the class activation maps of several layers, so that a cell "
         "counts where all of them are high."),
        ("relevance", "07",
         "What a method counts a place for. Also the method that weighs each block's "
         "attention by its gradient for the class."),
        ("ReLU", "02",
         "Setting negative values to 0."),
        ("removal", "08",
         "A test that takes away the top quarter of a map's pixels, then the bottom "
         "quarter, and compares what the target's probability loses."),
        ("report card", "08",
         "The tests of a model's explanations, beside nulls, with intervals; it recommends "
         "one explanation if any has passed."),
        ("residual connection", "05",
         "The path on which what enters a block passes it unchanged, to be added to what "
         "the block computes."),
        ("rollout", "07",
         "A method that multiplies the attention of all blocks. It draws one map for all "
         "classes."),
        ("schedule", "02",
         "How the learning rate changes in the course of a training."),
        ("seed", "02",
         "The number from which random weights, the order of tiles and other draws follow. Another "
         "seed is another training of the same recipe."),
        ("seed42", "01",
         "The split of most figures: one shuffle by NumPy's seed 42, cut at 60 % and 80 %."),
        ("single deletion", "08",
         "A test that takes away one patch at a time, each from the whole tile, and "
         "correlates what the target's logit loses with the sums of the map."),
        ("softmax", "00", "Exponentials divided by their sum: it turns logits into probabilities."),
        ("spatial split", "01",
         "A split whose test tiles lie elsewhere than the training tiles, by longitude."),
        ("split", "01",
         "A fixed, named division of tiles: the model learns from `train`, choices are "
         "made on `val`, figures come from `test`."),
        ("stability", "08",
         "How alike a map stays, by rank correlation, under noise that leaves the answer, or when "
         "the tile is turned and its map turned back."),
        ("stage", "02",
         "A run of a ResNet's blocks that work on one grid. A ResNet50 has four, and each but "
         "the first usually halves the grid's side."),
        ("standard error", "08",
         "How far a mean over tiles strays by the choice of tiles: their deviation over the root "
         "of their number. Two of them to either side make about a 95 % interval."),
        ("survival", "",
         "The test of random weights: the rank correlation between the maps of the trained "
         "network and of one whose weights were drawn anew. A map that survives is not "
         "about the model."),
        ("target", "05", "The class that is being explained."),
        ("teacher", "03", "The network whose probabilities another one learns to give."),
        ("temperature", "04",
         "A number by which all logits are divided before the softmax. It changes "
         "probabilities and no prediction."),
        ("tile", "00", "One square picture of 64 x 64 pixels, in EuroSAT 640 m across."),
        ("token", "03",
         "A patch of the tile as a vector, which a ViT's blocks change step by step."),
        ("told apart", "08",
         "Said of an explanation that passed: its lead over every null has an interval "
         "above 0, on mosaics and in single deletion. Of two figures: the interval of their "
         "difference leaves out 0."),
        ("twin", "09",
         "A network trained like another one, but for the one thing that is being studied."),
        ("unproven", "05",
         "Said of a map that no test has told apart from maps that look at no model."),
        ("update", "02",
         "The last part of a training step: every weight moves a little, in the direction "
         "that lowers the loss."),
        ("user's accuracy", "04",
         "Precision: of the tiles called a class, the part that is. It depends on how "
         "common the classes are."),
        ("ViT", "03",
         "A Vision Transformer: a network that cuts a tile into patches and lets each of "
         "them look at all others."),
        ("warm-up", "02",
         "The first part of a schedule, in which the learning rate rises."),
        ("weight", "02",
         "A number in a network that training sets. Of a CAM: the factor of a channel."),
    )
)  # fmt: skip

_MEANING = {term.word: term.meaning for term in TERMS}


def meaning(word: str) -> str:
    """Return the meaning of a word.

    Raises:
        KeyError: if the glossary does not have it.
    """
    if word not in _MEANING:
        raise KeyError(f"the glossary has no {word!r}; there are {', '.join(_MEANING)}")
    return _MEANING[word]


def page() -> str:
    """Return the whole glossary as Markdown, in alphabetical order."""
    rows = (f"| {word} | {said} | {notebook or '–'} |" for word, notebook, said in TERMS)
    return "\n".join(
        [
            "# Glossary",
            "",
            "Each word of the notebooks, the explorer and the library has one meaning. The last",
            "column names the notebook that introduces it. The meanings stand in",
            "`lulc_lib/glossary.py`; `python -m lulc_lib.glossary` prints this page.",
            "",
            "| Word | Meaning | Notebook |",
            "|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    print(page())
