"""The head ``keypoints``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.interfaces import FeatureSpec, Head
from splitreg_keypoints.points import TASK, Keypoints, KeypointTarget, perfect

if TYPE_CHECKING:
    from splitreg_keypoints.metric import CorrectKeypoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmaps:
    """The head's raw output.

    Args:
        logits: (B, K, h, w); the softmax over h x w is the distribution of a point's position.
        stride: pixels per cell.
    """

    logits: Tensor
    stride: int

    def shares(self) -> Tensor:
        """(B, K, h * w), sums to 1."""
        return self.logits.flatten(2).softmax(dim=2)

    def centres(self) -> Tensor:
        """(h * w, 2) x, y of the cells' centres in pixels."""
        height, width = self.logits.shape[-2:]
        x = (torch.arange(width, device=self.logits.device) + 0.5) * self.stride
        y = (torch.arange(height, device=self.logits.device) + 0.5) * self.stride
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


class KeypointHead(Head):
    """One heatmap per point, computed from the finest feature.

    Args:
        features: one stride.
        labels: K names of the points.
        hidden: channels of the two hidden layers.
        decode: ``"soft"``: mean position of the heatmap (soft-argmax); ``"hard"``: centre of its best cell.

    Raises:
        RecipeError: an option is out of range, or there are no names.

    Source: integral regression of Sun et al. 2018, arXiv:1711.08229.
    """

    task = TASK
    primary = "pck"

    def __init__(
        self, features: Mapping[int, FeatureSpec], labels: tuple[str, ...], *, hidden: int = 32, decode: str = "soft"
    ) -> None:
        super().__init__()
        if not labels:
            raise RecipeError("head keypoints needs the names of its points: give it labels, or a dataset")
        if hidden < 1 or decode not in ("soft", "hard"):
            raise RecipeError(f"hidden must be 1 or more, decode 'soft' or 'hard'; got {hidden} and {decode!r}")
        (stride,) = features
        self.needs = (stride,)
        self.labels, self.decode = tuple(labels), decode
        self.layers = nn.Sequential(
            nn.Conv2d(features[stride].channels, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2),  # wide: corners differ in their surroundings
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, len(labels), 1),
        )

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Return the finest stride that the body provides."""
        return (min(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Heatmaps:
        """Return one heatmap per point."""
        (stride,) = self.needs
        return Heatmaps(logits=self.layers(features[stride]).float(), stride=stride)

    def loss(self, output: Heatmaps, targets: Sequence[KeypointTarget]) -> dict[str, Tensor]:
        """Return ``heat``, the cross-entropy of the cell, and ``place``, the distance in cells."""
        device = output.logits.device
        truth = torch.stack([target.points.as_subclass(Tensor) for target in targets]).to(device, torch.float32)
        seen = torch.stack([target.seen() for target in targets]).to(device)
        truth = torch.where(seen[..., None], truth, truth.new_zeros(()))  # unknown points may be NaN
        height, width = output.logits.shape[-2:]
        column = (truth[..., 0] / output.stride).long().clamp(0, width - 1)
        row = (truth[..., 1] / output.stride).long().clamp(0, height - 1)
        cell = row * width + column  # (B, K)
        heat = F.cross_entropy(output.logits.flatten(2).transpose(1, 2), cell, reduction="none")  # (B, K)
        off = (_mean_place(output) - truth) / output.stride
        place = F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none").sum(dim=2)
        count = seen.sum().clamp(min=1)
        return {
            "heat": (heat * seen).sum() / count,
            "place": 0.1 * (place * seen).sum() / count,  # large distances must not dominate the heatmap's loss
        }

    def predict(self, output: Heatmaps) -> list[Keypoints]:
        """Return the points of each image, in pixels of the network's input."""
        shares, best = output.shares().max(dim=2)
        points = _mean_place(output) if self.decode == "soft" else output.centres()[best]
        # under autocast they have 16 bits
        arrays = (values.detach().float().cpu().numpy() for values in (points, shares))
        return [Keypoints(points=p, scores=s, names=self.labels) for p, s in zip(*arrays, strict=True)]

    def truth(self, target: KeypointTarget) -> Keypoints:
        """Return the target as a prediction."""
        return perfect(target, self.labels)

    def metric(self) -> CorrectKeypoints:
        """Return ``pck`` and ``error``."""
        # Imported here: torchmetrics takes seconds to import, and a server never needs it.
        from splitreg_keypoints.metric import CorrectKeypoints

        return CorrectKeypoints()


def _mean_place(output: Heatmaps) -> Tensor:
    """(B, K, 2): the soft-argmax."""
    return output.shares() @ output.centres()
