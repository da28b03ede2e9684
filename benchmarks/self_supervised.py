"""Pretrain a ViT on tiles without their labels, in one of three ways, for experiments.py.

- `MaskedAutoencoder` (He et al. 2022, arXiv 2111.06377): three quarters of the patches are hidden,
  the ViT sees the others alone, and a small decoder paints the hidden ones.
- `Contrast` (SimCLR, Chen et al. 2020, arXiv 2002.05709): of all views in a batch, find the other
  view of the same tile.
- `SelfDistillation` (DINO, Caron et al. 2021, arXiv 2104.14294, without its small crops): say of
  one view what a slowly following copy says of the other.

What each one adds to the ViT is thrown away afterwards.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lulc_lib.anatomies import anatomy
from lulc_lib.attention import PlainAttention
from lulc_lib.augmentation import augment, draw_turns
from lulc_lib.config import RunConfig
from lulc_lib.models import TileClassifier
from lulc_lib.training import learning_rate_at, make_optimizer

SEEN = 0.25  # share of the patches that the masked autoencoder's ViT sees
SMALLEST = 0.4  # share of a tile's area that a view shows at least
GAIN = 0.2  # a view's channels are made brighter or darker by up to this share, each by itself


class MaskedAutoencoder(nn.Module):
    """A ViT without prefix tokens, and a decoder of two blocks for its hidden patches."""

    def __init__(self, model: TileClassifier):
        super().__init__()
        self.model, vit = model, model.network
        found = anatomy(model)
        if found.family != "vit" or found.prefix_tokens:
            raise ValueError(f"{model.name} is not a ViT of patch tokens alone")
        self.patch = model.image_size // found.grid[0]
        heads = vit.blocks[0].attn.num_heads
        self.hidden = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))
        self.places = nn.Parameter(torch.randn_like(vit.pos_embed) * 0.02)
        self.decoder = nn.Sequential(
            *(Block(vit.embed_dim, heads) for _ in range(2)),
            nn.LayerNorm(vit.embed_dim),
            nn.Linear(vit.embed_dim, 3 * self.patch**2),
        )

    def forward(self, images: Tensor, config: RunConfig, rng: np.random.Generator) -> Tensor:
        """Return the mean squared error of hidden patches, each brought to mean 0, deviation 1."""
        turns = draw_turns(len(images), config, rng)
        prepared = self.model.prepare(augment(images, turns, config, rng, self.model.image_size))
        vit = self.model.network
        tokens = vit.patch_embed(prepared) + vit.pos_embed  # (B, T, D)
        count, width = len(tokens), tokens.shape[-1]
        order = torch.from_numpy(rng.random(tokens.shape[:2])).argsort(1)  # (B, T)
        seen, hidden = order.tensor_split([int(SEEN * order.shape[1])], dim=1)
        x = tokens.gather(1, seen[..., None].expand(-1, -1, width))
        x = vit.norm(vit.blocks(x))  # no norm at all where timm has it behind the pooling
        whole = self.hidden.to(x.dtype).expand(count, tokens.shape[1], width)
        whole = whole.scatter(1, seen[..., None].expand(-1, -1, width), x)
        painted = self.decoder(whole + self.places)  # (B, T, 3 * patch * patch)
        target = F.unfold(prepared, self.patch, stride=self.patch).mT  # the same shape
        target = (target - target.mean(-1, keepdim=True)) / (target.std(-1, keepdim=True) + 1e-3)
        errors = (painted.float() - target).square().mean(-1)  # (B, T)
        return errors.gather(1, hidden).mean()


class Contrast(nn.Module):
    """A model and a projection in which views of one tile lie close, those of others apart."""

    def __init__(self, model: TileClassifier, width: int = 128, temperature: float = 0.2):
        super().__init__()
        self.model, self.temperature = model, temperature
        seen = model.network.num_features
        self.project = nn.Sequential(nn.Linear(seen, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, images: Tensor, config: RunConfig, rng: np.random.Generator) -> Tensor:
        """Return the cross-entropy of finding each view's other one among all of the batch."""
        both = torch.cat([view(images, config, rng, self.model.image_size) for _ in range(2)])
        z = F.normalize(self.project(features(self.model, both)).float())  # (2 B, width)
        alike = (z @ z.T).float().div(self.temperature).fill_diagonal_(-torch.inf)
        return F.cross_entropy(alike, torch.arange(len(z)).roll(len(images)))


class SelfDistillation(nn.Module):
    """A student that learns to say of one view what its teacher says of the other."""

    def __init__(self, model: TileClassifier, words: int = 1024):
        super().__init__()
        self.model = model
        seen = model.network.num_features
        self.project = nn.Sequential(nn.Linear(seen, 256), nn.GELU(), nn.Linear(256, 64))
        self.words = nn.Linear(64, words, bias=False)
        self.teacher = copy.deepcopy(nn.ModuleList([model, self.project, self.words]))
        self.teacher.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(words))

    def forward(self, images: Tensor, config: RunConfig, rng: np.random.Generator) -> Tensor:
        """Return the cross-entropy between the teacher's words for a view and the student's."""
        both = torch.cat([view(images, config, rng, self.model.image_size) for _ in range(2)])
        student = self.say(both, self.model, self.project, self.words)
        with torch.no_grad():
            self.follow()
            teacher = self.say(both, *self.teacher)
            target = ((teacher - self.centre) / 0.04).softmax(-1).roll(len(images), 0)
            self.centre.lerp_(teacher.mean(0), 0.1)
        return F.cross_entropy(student / 0.1, target)

    @staticmethod
    def say(x: Tensor, model: TileClassifier, project: nn.Module, words: nn.Linear) -> Tensor:
        """Return the likeness of each view to each word, (B, words)."""
        z = F.normalize(project(features(model, x)).float())
        return (z @ F.normalize(words.weight).T).float()

    def follow(self) -> None:
        """Move the teacher's weights by a hundredth towards the student's."""
        student = [*self.model.parameters(), *self.project.parameters(), *self.words.parameters()]
        for kept, new in zip(self.teacher.parameters(), student, strict=True):
            kept.lerp_(new, 0.01)


WAYS = {"masked": MaskedAutoencoder, "contrast": Contrast, "distillation": SelfDistillation}


def features(model: TileClassifier, images: Tensor) -> Tensor:
    """Return what a model's last linear layer sees, (B, D)."""
    return model.forward_with_features(images)[1]


def view(images: Tensor, config: RunConfig, rng: np.random.Generator, size: int) -> Tensor:
    """Return another random part of each tile, turned, in other light: float32 (B, 3, size, size).

    Args:
        images: uint8 (B, 3, 64, 64).
        config: settings; of these, `augment` says which turns there are.
        rng: source of all draws.
        size: size inside the model.
    """
    config = replace(config, crop_scale=SMALLEST, shift=0, erase=0.0)
    x = augment(images, draw_turns(len(images), config, rng), config, rng, size)
    gain = rng.uniform(1 - GAIN, 1 + GAIN, (len(x), 3, 1, 1)).astype(np.float32)
    return (x * torch.from_numpy(gain)).clamp_(0, 1)


def pretrain(way: str, model: TileClassifier, images: Tensor, config: RunConfig) -> float:
    """Pretrain a ViT in place on images uint8 (N, 3, 64, 64); return the last epoch's loss."""
    objective = WAYS[way](model).train()
    optimizer = make_optimizer(objective, config)
    steps = len(images) // config.batch_size
    losses: list[float] = []
    reduced = config.precision == "bfloat16"  # emulated, and slow, where the processor lacks it
    for step in range(config.epochs * steps):
        rng = np.random.default_rng((config.seed, 2, step))
        if step % steps == 0:
            order = torch.from_numpy(rng.permutation(len(images)))
            losses.clear()
        chosen = order[step % steps * config.batch_size :][: config.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, config)
        with PlainAttention(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss = objective(images[chosen], config, rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)
