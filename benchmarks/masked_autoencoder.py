"""Pretrain a ViT on tiles without their labels: rebuild what is hidden from what is seen.

A masked autoencoder (He et al. 2022, arXiv 2111.06377): three quarters of the patches are hidden,
the ViT sees the others alone, and a small decoder, thrown away afterwards, paints the hidden ones.
Used by experiments.py.
"""

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lulc_lib.augmentation import augment, draw_turns
from lulc_lib.config import RunConfig
from lulc_lib.models import PlainAttention, TileClassifier, anatomy
from lulc_lib.training import learning_rate_at, make_optimizer

SEEN = 0.25  # share of the patches that the ViT sees


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

    def forward(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the mean squared error of hidden patches, each brought to mean 0, deviation 1."""
        prepared = self.model.prepare(images)
        vit = self.model.network
        tokens = vit.patch_embed(prepared) + vit.pos_embed  # (B, T, D)
        count, width = len(tokens), tokens.shape[-1]
        order = torch.from_numpy(rng.random(tokens.shape[:2])).argsort(1)  # (B, T)
        seen, hidden = order.tensor_split([int(SEEN * order.shape[1])], dim=1)
        x = tokens.gather(1, seen[..., None].expand(-1, -1, width))
        x = vit.norm(vit.blocks(x))
        whole = self.hidden.to(x.dtype).expand(count, tokens.shape[1], width)
        whole = whole.scatter(1, seen[..., None].expand(-1, -1, width), x)
        painted = self.decoder(whole + self.places)  # (B, T, 3 * patch * patch)
        target = F.unfold(prepared, self.patch, stride=self.patch).mT  # the same shape
        target = (target - target.mean(-1, keepdim=True)) / (target.std(-1, keepdim=True) + 1e-3)
        errors = (painted.float() - target).square().mean(-1)  # (B, T)
        return errors.gather(1, hidden).mean()


def pretrain(model: TileClassifier, images: Tensor, config: RunConfig) -> float:
    """Pretrain a ViT in place on images uint8 (N, 3, 64, 64); return the last epoch's loss."""
    autoencoder = MaskedAutoencoder(model).train()
    optimizer = make_optimizer(autoencoder, config)
    steps = len(images) // config.batch_size
    losses: list[float] = []
    for step in range(config.epochs * steps):
        rng = np.random.default_rng((config.seed, 2, step))
        if step % steps == 0:
            order = torch.from_numpy(rng.permutation(len(images)))
            losses.clear()
        chosen = order[step % steps * config.batch_size :][: config.batch_size]
        turns = draw_turns(len(chosen), config, rng)
        x = augment(images[chosen], turns, config, rng, model.image_size)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, config)
        with PlainAttention(), torch.autocast("cpu", torch.bfloat16):
            loss = autoencoder(x, rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)
