"""The attacker: a network from the latent of a packet to the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.progress import Progress

#: Largest deviation of an element of the latent that the attacker sees, in standard deviations of its channel.
_LARGEST = 10.0


class Attacker(nn.Module):
    """(B, C, h, w) latents to (B, 3, H, W) images: the mean image, to which the layers add what the latent tells.

    Residual blocks at the size of the latent, then a block after each doubling by pixel shuffle
    (Shi et al. 2016, arXiv:1609.05158), as in inversion attacks on features (Dosovitskiy and Brox
    2016, arXiv:1506.02753).

    Args:
        channels: C of the latent.
        latent: (h, w).
        size: (H, W) of the image.
        width: channels of the blocks; halved with each doubling, down to 16.
        blocks: residual blocks at the size of the latent.
    """

    mean: Tensor
    std: Tensor
    mean_image: Tensor

    def __init__(
        self, channels: int, latent: tuple[int, int], size: tuple[int, int], *, width: int = 96, blocks: int = 4
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.register_buffer("mean_image", torch.full((1, 3, *size), 0.5))
        doublings = 0
        while latent[0] * 2**doublings < size[0] or latent[1] * 2**doublings < size[1]:
            doublings += 1
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1), *(_Block(width) for _ in range(blocks))]
        for _ in range(doublings):
            after = max(16, width // 2)
            layers += [nn.Conv2d(width, 4 * after, 3, 1, 1), nn.PixelShuffle(2), _Block(after)]
            width = after
        last = nn.Conv2d(width, 3, 3, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers, last)

    @property
    def parameters_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, latent: Tensor) -> Tensor:
        """Return the reconstructed images; within 0 to 1 in evaluation mode."""
        seen = ((latent - self.mean) / self.std).clamp(-_LARGEST, _LARGEST)
        image: Tensor = self.mean_image + self.layers(seen)[..., : self.size[0], : self.size[1]]
        return image if self.training else image.clamp(0, 1)

    def fit(self, latents: Tensor, images: Tensor, *, steps: int, batch_size: int, progress: bool = False) -> float:
        """Train on pairs.

        Args:
            latents: (N, C, h, w) of packets.
            images: (N, 3, H, W) uint8, the inputs of the network.
            steps: number of updates.
            batch_size: pairs per update.
            progress: show a bar on stderr.

        Returns:
            The mean absolute error of the last tenth of the updates, in 0 to 1.
        """
        self.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
        self.std.copy_(latents.std((0, 2, 3), keepdim=True).clamp(min=1e-6))
        total = torch.zeros_like(self.mean_image)
        for image in images:
            total += image
        self.mean_image.copy_(total / (255 * len(images)))
        optimizer = torch.optim.AdamW(self.train().parameters(), lr=2e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=max(2, steps))
        losses = []
        for _ in Progress(progress).track(range(steps), steps, "training the attacker"):
            rows = torch.randint(len(latents), (min(batch_size, len(latents)),))
            target = images[rows].float() / 255
            guess = self(latents[rows])
            loss = functional.l1_loss(guess, target) + functional.mse_loss(guess, target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(functional.l1_loss(guess.detach(), target)))
        self.eval()
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's output to its input."""
        change: Tensor = self.layers(x)
        return x + change
