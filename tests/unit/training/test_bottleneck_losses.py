"""Losses that a bottleneck adds itself."""

import pytest
import torch
from support.training import train
from support.training_toys import REGISTRY, ToyBottleneck, toy_recipe
from torch import nn

from splitreg.specs import ComponentSpec


class Committed(ToyBottleneck):
    def __init__(self, source, target, *, weight: float = 1.0):
        super().__init__(source, target)
        self.anchor = nn.Parameter(torch.full((1,), 5.0))
        self.weight = weight
        self._loss = None

    def forward(self, x):
        self._loss = self.weight * (self.anchor - self.analyse(x).mean().detach()).square().sum()
        return super().forward(x)

    def losses(self):
        return {"commitment": self._loss}


SPEC = ComponentSpec(kind="bottleneck", name="committed", api=1, target=f"{__name__}:Committed", summary="A test's.")


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_they_are_trained_logged_and_part_of_the_loss(tmp_path, weight):
    recipe = toy_recipe(
        {"epochs": 2, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.0}},
        bottleneck={"name": "committed", "weight": weight},
    )
    result = train(recipe, tmp_path, registry=REGISTRY.extended(SPEC), tensorboard=False, progress=False, device="cpu")
    first, last = (line["train"] for line in (result.history[0], result.history[-1]))
    assert (result.model.bottleneck.anchor.item() < 5.0) == bool(weight)
    if weight:
        assert last["bottleneck.commitment"] < first["bottleneck.commitment"]
        heads = sum(value for name, value in first.items() if name not in ("loss", "bits", "bottleneck.commitment"))
        assert first["loss"] == pytest.approx(heads + first["bottleneck.commitment"], rel=1e-4)
