"""``SplitModel``: the whole model for training, with its halves ``edge`` and ``server``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from splitreg.assembly.adapter import Branch, select_images
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.server import ServerModel, crop
from splitreg.coding import LatentCoding
from splitreg.interfaces import Body, Bottleneck, Head
from splitreg.recipe import Recipe
from splitreg.tasks import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """Output of the training path.

    Args:
        features: stride -> (B, C, H/s, W/s), the input of the heads.
        rate: (B,) bits per image.
        outputs: head -> raw output for its selected images.
    """

    features: dict[int, Tensor]
    rate: Tensor
    outputs: dict[str, Any]


class SplitModel(nn.Module):
    """A split model in one process.

    Attributes:
        edge: image to packet, with this model's weights.
        server: packets to predictions, with this model's weights.
        plan: the plan that it was built from.
        trained: whether the weights were trained; stored in bundles.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        prefix: nn.Module | None,
        bottleneck: Bottleneck,
        body: Body,
        branches: Mapping[str, Branch],
    ) -> None:
        super().__init__()
        self.plan = plan
        self.prefix = prefix
        self.bottleneck = bottleneck
        self.body = body
        self.branches = nn.ModuleDict(branches)
        self.trained = False
        coding = plan.coding()
        self.edge = EdgeModel(prefix, bottleneck, coding)
        self.server = ServerModel(bottleneck, body, dict(branches), coding, plan.skeleton.shapes)

    @property
    def coding(self) -> LatentCoding:
        """Preprocessing, tables and codec, shared by both halves."""
        return self.edge.coding

    @coding.setter
    def coding(self, coding: LatentCoding) -> None:
        self.edge.coding = self.server.coding = coding

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.plan.recipe

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(self.branches)

    def head(self, name: str) -> Head:
        """Return a head by name."""
        branch = self.branches[name]
        head: Head = branch.head  # type: ignore[assignment]
        return head

    def forward(self, images: Tensor, select: Mapping[str, Tensor | None] | None = None) -> ModelOutput:
        """Run the differentiable training path.

        Args:
            images: (B, 3, H, W) normalised.
            select: head -> indexes of its images (None: all images; an empty tensor: skip the head);
                None: all heads on all images.
        """
        source = images if self.prefix is None else self.prefix(images)
        restored, rate = self.bottleneck(source)
        size = (images.shape[-2], images.shape[-1])
        shared = self.body(crop(restored, self.plan.skeleton.shapes(size).feature))
        # Views, so that gradients of the heads for a feature are separate from those through later stages.
        features = {stride: feature.view_as(feature) for stride, feature in shared.items()}
        return ModelOutput(features=features, rate=rate, outputs=self.run_heads(features, size, select))

    def run_heads(
        self, features: Mapping[int, Tensor], size: tuple[int, int], select: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Any]:
        """Run heads on features: head -> raw output; see ``forward`` for ``select``."""
        outputs = {}
        for name in self.heads if select is None else select:
            index = None if select is None else select[name]
            if index is None or index.numel():
                outputs[name] = self.branches[name](select_images(features, index), size)
        return outputs

    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Sequence[Target]]) -> dict[str, dict[str, Tensor]]:
        """Return head -> part -> scalar; ``targets[head]`` has one target for each image of the head."""
        return {name: self.head(name).loss(output, targets[name]) for name, output in outputs.items()}

    def parts(self) -> dict[str, nn.Module]:
        """Return name -> trainable part; together they have every weight once."""
        others = [child for name, child in self.bottleneck.named_children() if name not in ("encoder", "decoder")]
        prefix: dict[str, nn.Module] = {} if self.prefix is None else {"prefix": self.prefix}
        return {
            **prefix, "encoder": self.bottleneck.encoder, "decoder": self.bottleneck.decoder,
            "prior": nn.ModuleList(others), "body": self.body,
            **{f"heads.{name}": branch for name, branch in self.branches.items()},
        }  # fmt: skip

    def freeze_tables(self) -> None:
        """Freeze the integer tables of the current weights in both halves, and set the model id."""
        tables = self.bottleneck.freeze()
        model_id = wire_id(self.recipe, tables.digest(), edge_state(self))
        self.coding = replace(self.coding, frozen=tables, model_id=model_id)


def edge_state(model: SplitModel) -> dict[str, Tensor]:
    """Return the device's weights: ``prefix.*`` and ``encoder.*``."""
    prefix = {} if model.prefix is None else state_of(model.prefix, "prefix")
    return {**prefix, **state_of(model.bottleneck.encoder, "encoder")}


def server_state(model: SplitModel) -> dict[str, Tensor]:
    """Return the server's weights without the heads: ``bottleneck.*`` except its encoder, ``body.*``."""
    bottleneck = {
        f"bottleneck.{key}": value
        for key, value in model.bottleneck.state_dict().items()
        if not key.startswith("encoder.")
    }
    return {**bottleneck, **state_of(model.body, "body")}


def state_of(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a module's weights as ``prefix.*``."""
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def wire_id(recipe: Recipe, tables: bytes, state: Mapping[str, Tensor]) -> int:
    """Return the 32-bit model id: a hash of tables, edge weights and everything else that affects packets.

    The tables alone are not enough: all bottlenecks without tables would have one id.
    """
    total = hashlib.sha256(tables)
    wire = {
        "backbone": recipe.backbone.name, "cut": recipe.cut, "bottleneck": recipe.bottleneck.to_mapping(),
        "codec": recipe.codec.to_mapping() if recipe.codec else None, "input": recipe.input.to_mapping(),
    }  # fmt: skip
    total.update(json.dumps(wire, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        total.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(total.digest()[:4], "little")
