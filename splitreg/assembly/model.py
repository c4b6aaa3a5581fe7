"""``SplitModel``: the whole model for training, with its halves ``edge`` and ``server``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from splitreg.assembly.adapter import select_images
from splitreg.assembly.allocation import Parts
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.server import ServerModel, crop
from splitreg.assembly.states import edge_state, wire_id
from splitreg.assembly.trainable import ModelOutput, Trainable
from splitreg.coding import LatentCoding
from splitreg.interfaces import Head
from splitreg.recipe import Recipe
from splitreg.tasks import Target


class SplitModel(Trainable):
    """A split model in one process.

    Attributes:
        edge: image to packet, with this model's weights.
        server: packets to predictions, with this model's weights.
        plan: the plan that it was built from.
        trained: whether the weights were trained; stored in bundles.
    """

    def __init__(self, plan: Plan, parts: Parts) -> None:
        super().__init__()
        self.plan = plan
        self.prefix = parts.prefix
        self.bottleneck = parts.bottleneck
        self.body = parts.body
        self.branches = nn.ModuleDict(parts.branches)
        self.trained = False
        coding = plan.coding()
        self.edge = EdgeModel(parts.prefix, parts.bottleneck, coding)
        self.server = ServerModel(parts.bottleneck, parts.body, dict(parts.branches), coding, plan.skeleton.shapes)

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
        children = dict(self.bottleneck.named_children())
        others = [child for name, child in children.items() if name not in ("encoder", "decoder", "context")]
        loose = list(self.bottleneck.parameters(recurse=False))  # of the bottleneck itself
        others += [nn.ParameterList(loose)] if loose else []
        prefix: dict[str, nn.Module] = {} if self.prefix is None else {"prefix": self.prefix}
        context = {"context": children["context"]} if "context" in children else {}
        return {
            **prefix, "encoder": self.bottleneck.encoder, "decoder": self.bottleneck.decoder,
            "prior": nn.ModuleList(others), **context, "body": self.body,
            **{f"heads.{name}": branch for name, branch in self.branches.items()},
        }  # fmt: skip

    def freeze_tables(self) -> None:
        """Freeze the integer tables of the current weights in both halves, and set the model id."""
        tables = self.bottleneck.freeze()
        model_id = wire_id(self.recipe, tables.digest(), edge_state(self.prefix, self.bottleneck))
        self.coding = replace(self.coding, frozen=tables, model_id=model_id)
