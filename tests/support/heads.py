"""Features, targets and a training loop for tests of heads."""

import torch
from torchvision import tv_tensors

from splitreg.specs import FeatureSpec
from splitreg.tasks import BoxTarget

SIZE = (64, 96)
CHANNELS = 12


def specs(*strides):
    return {s: FeatureSpec(channels=CHANNELS, stride=s) for s in strides}


def maps(strides, batch=2, size=SIZE):
    """Random features of an image of a size, always the same."""
    generator = torch.Generator().manual_seed(0)
    shapes = {s: (batch, CHANNELS, -(-size[0] // s), -(-size[1] // s)) for s in strides}
    return {s: torch.randn(shape, generator=generator) for s, shape in shapes.items()}


def boxes(corners, labels, crowd=None, size=SIZE):
    corners = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [False] * len(labels), dtype=torch.bool),
    )


def fit(head, features, targets, steps, rate):
    """Train on one batch; returns the losses."""
    optimizer = torch.optim.Adam(head.train().parameters(), rate)
    history = []
    for _ in range(steps):
        loss = sum(head.loss(head(features, SIZE), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    return history
