"""Training targets of head ``det``: centre maps, the cells that learn a box, and the focal loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from splitreg.tasks import BoxTarget

# Share of a box, around its centre, whose cells learn the box; 0.54 in TTFNet (arXiv:1909.00700).
_REACH = 0.54


@dataclass(frozen=True, slots=True)
class CentreTargets:
    """The truth of one image on a grid of h x w cells.

    Args:
        heat: (K, h, w), 1 at the centre of an object, decreasing around it.
        ignored: (K, h, w) bool, cells of crowds, where a detection costs nothing.
        boxes: (h * w, 4) the box that each cell learns, in pixels.
        weight: (h * w,) weight of each cell; 0 without a box.
        objects: number of objects.
    """

    heat: Tensor
    ignored: Tensor
    boxes: Tensor
    weight: Tensor
    objects: int


def cell_centres(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Return (h * w, 2) x, y of the centres of the cells, in pixels."""
    y = (torch.arange(height, device=device) + 0.5) * stride
    x = (torch.arange(width, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def centre_targets(target: BoxTarget, shape: torch.Size, stride: int, device: torch.device) -> CentreTargets:
    """Assign the objects of one image to the cells of the grid.

    Args:
        target: boxes in pixels; boxes without an area are left out.
        shape: (K, h, w).
        stride: pixels per cell.
        device: device of the result.
    """
    classes, height, width = shape
    boxes = target.boxes.as_subclass(Tensor).to(device, torch.float32).reshape(-1, 4)
    labels, crowd = target.labels.to(device), target.crowd.to(device)
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    cells = cell_centres(height, width, stride, device)

    group = boxes[solid & crowd]
    covered = ((cells >= group[:, None, :2]) & (cells < group[:, None, 2:])).all(dim=2)  # (crowds, h * w)
    ignored = torch.zeros(classes, height * width, device=device)
    ignored = _combine(ignored, labels[solid & crowd], covered.float()) > 0

    boxes, labels = boxes[solid & ~crowd], labels[solid & ~crowd]
    sides = boxes[:, 2:] - boxes[:, :2]
    order = sides.prod(dim=1).argsort(descending=True)  # small objects last: they get shared cells
    boxes, labels, sides = boxes[order], labels[order], sides[order]
    limit = torch.tensor([width - 1, height - 1], device=device)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = ((middle / stride).floor().clamp(min=0).minimum(limit) + 0.5) * stride
    # The reach is three sigma on either side. For small objects, neighbouring cells get some heat, too.
    sigma = (sides * _REACH / 6).clamp(min=0.3 * stride)
    offset = cells - nearest[:, None]  # (N, h * w, 2)
    inside = (offset.abs() <= sides[:, None] * _REACH / 2).all(dim=2) | (offset == 0).all(dim=2)
    fall = torch.exp(-((offset / sigma[:, None]) ** 2).sum(dim=2) / 2) * inside
    heat = _combine(torch.zeros(classes, height * width, device=device), labels, fall)

    # The weights of an object sum to the logarithm of its area in cells.
    share = fall / fall.sum(dim=1, keepdim=True) * torch.log2(2 + sides.prod(dim=1, keepdim=True) / stride**2)
    rank = torch.arange(1, len(boxes) + 1, device=device)[:, None]
    owner = (inside * rank).amax(dim=0) if len(boxes) else torch.zeros(height * width, dtype=torch.long, device=device)
    # row 0 is for cells without an object
    learn = F.pad(boxes, (0, 0, 1, 0))[owner]
    weight = F.pad(share, (0, 0, 1, 0)).gather(0, owner[None])[0]
    return CentreTargets(heat.view(shape), ignored.view(shape), learn, weight, objects=len(boxes))


def _combine(maps: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Combine (N, cells) rows into (K, cells) maps by their labels; the largest value counts."""
    return maps.scatter_reduce(0, labels[:, None].expand_as(rows), rows, "amax")


def focal_loss(logits: Tensor, heat: Tensor, ignored: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss, summed over cells and classes.

    Args:
        logits: (B, K, h, w).
        heat: (B, K, h, w) in 0 to 1; 1 at a centre.
        ignored: (B, K, h, w) bool: cells where a false positive costs nothing.

    Source: Law & Deng 2018, arXiv:1808.01244, equation 1 with alpha 2 and beta 4.
    """
    centre = heat == 1
    share = logits.sigmoid()
    detected = centre * (1 - share) ** 2 * F.logsigmoid(logits)
    false = ~centre * ~ignored * (1 - heat) ** 4 * share**2 * F.logsigmoid(-logits)
    return -(detected + false).sum()
