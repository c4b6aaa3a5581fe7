"""Heads that come late: a new head for a finished model, while every byte on the wire stays what it was.

Each image is encoded once; the head then trains on what the server restores from the cached packets. Source: the frozen
bitstream with heads added afterwards of Matsubara et al. (Ladon).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from splitreg.coding import Packet, VariableModel
from splitreg.data.loading import Batch, Source
from splitreg.data.transforms import Augment
from splitreg.errors import RecipeError, TrainingError, suggest
from splitreg.evaluation.packets import spread
from splitreg.recipe import Recipe
from splitreg.registry import Registry, discover
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg.training.data import DataLoaders, augmentation, open_datasets
from splitreg.training.options import TrainOptions
from splitreg.training.run import Run, TrainResult
from splitreg.training.teacher import weights_digest

if TYPE_CHECKING:
    from splitreg.assembly import ModelOutput, SplitModel

#: Multiples of it, less their whole part, spread evenly over 0 to 1 wherever they end.
_GOLDEN = (5**0.5 - 1) / 2
#: Packets that are written again and compared after training.
COMPARED = 32


@dataclass(kw_only=True)
class LateResult(TrainResult):
    """What ``train_late_head`` gives; ``model`` has one head more.

    Args:
        packets_compared: so many images were encoded before and after, to the same bytes.
        edge_digest: SHA-256 of the edge half's weights and tables, the same before and after.
    """

    packets_compared: int
    edge_digest: str


def train_late_head(
    model: SplitModel,
    recipe: Recipe,
    head: str,
    output: str | Path,
    *,
    options: TrainOptions | None = None,
    registry: Registry | None = None,
) -> LateResult:
    """Train one more head on a finished model. Nothing else of the model changes.

    Images are not augmented, except for flips where the recipe's ``augment`` has them: images and mirrored images are
    encoded once each.

    Args:
        model: with frozen tables; it shares all its modules with the model that is returned.
        recipe: has the head, its data and the stages to train it with; what a stage trains beside the head is ignored,
            and so is the rate.
        head: name of the head in the recipe.
        output: the run's folder.
        options: see ``train``.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: no such head in the recipe, or the model has one of that name; or the recipe has a teacher.
        PlanError: the head does not fit the model.
        TrainingError: as ``train``; or a packet changed, which must never happen.
        BundleError: the model has no tables yet.
    """
    options, registry = options or TrainOptions(), registry or discover()
    grown, resolved = grow(model, recipe, head, registry)
    datasets = options.datasets or open_datasets(resolved, registry)
    before = edge_digest(grown)
    if augmentation(recipe.augment).flip > 0:
        datasets = dataclasses.replace(datasets, train=_Mirrored(datasets.train))
    training = _Packets(grown, datasets.train, rates=True)
    validation = None if datasets.val is None else _Packets(grown, datasets.val)

    def latents(batch: Batch, is_training: bool) -> Batch:
        packets = training if is_training or validation is None else validation
        return dataclasses.replace(batch, images=packets.latents(batch.indexes))

    loaders = DataLoaders(
        recipe=resolved, datasets=datasets, preprocess=grown.plan.preprocess, workers=options.workers,
        augmented=False, change=latents,
    )  # fmt: skip
    home = next((parameter.device for parameter in model.parameters()), None)
    with _frozen(model):
        late: Any = LateModel(grown, head)
        run = Run(
            model=late, recipe=resolved, folder=Path(output), loaders=loaders, registry=registry,
            base=weights_digest(model.state_dict()),
        )  # fmt: skip
        result = run.execute(options)
    grown.to(home).eval()
    compared = spread(len(datasets.train), COMPARED)
    for index in compared:
        if training.encode(index) != training.packets[index]:
            raise TrainingError(f"the packet of image {index} changed while head {head!r} was trained; this is a bug")
    if edge_digest(grown) != before:
        raise TrainingError(f"the edge half changed while head {head!r} was trained; this is a bug")
    return LateResult(
        model=grown, output=result.output, history=result.history, warnings=result.warnings, steps=result.steps,
        resumed_from=result.resumed_from, packets_compared=len(compared), edge_digest=before,
    )  # fmt: skip


def grow(model: SplitModel, recipe: Recipe, head: str, registry: Registry) -> tuple[SplitModel, Recipe]:
    """Return the model with one more, untrained head, and the resolved recipe that trains it.

    Raises:
        RecipeError: no such head in the recipe, or the model has one of that name.
        PlanError: the head does not fit the model, or the data do not give its target.
        BundleError: the model has no tables yet.
    """
    from splitreg.assembly import SplitModel, plan
    from splitreg.assembly.allocation import Parts

    names = [part.name for part in recipe.heads]
    if head not in names:
        raise RecipeError(f"the recipe has no head {head!r}.{suggest(head, names)} It has: {', '.join(names)}")
    if head in model.heads:
        raise RecipeError(f"the model has a head {head!r} already; give the new one another name: {{ as = ... }}")
    model.coding.tables  # noqa: B018  (raises BundleError where there are none)
    if recipe.teacher is not None:
        raise RecipeError("a late head learns from packets, which a teacher cannot read; leave teacher out")
    wanted = recipe.heads[names.index(head)]
    one = dataclasses.replace(model.recipe, heads=(wanted,), data=recipe.data, stages=(), teacher=None)
    alone = plan(one, registry=registry).recipe
    # planned without data: the old heads' targets need not be in the new head's dataset
    together = dataclasses.replace(model.recipe, heads=(*model.recipe.heads, *alone.heads), data=(), seed=recipe.seed)
    planned = plan(together, registry=registry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        branch = planned.heads[-1].create()
    kept = dataclasses.replace(planned.recipe, data=model.recipe.data, seed=model.recipe.seed)
    parts = Parts(
        prefix=model.prefix, bottleneck=model.bottleneck, body=model.body,
        branches={**dict(model.branches.items()), head: branch},  # type: ignore[arg-type]
    )  # fmt: skip
    grown = SplitModel(dataclasses.replace(planned, recipe=kept), parts)
    grown.trained = model.trained
    grown.coding = model.coding
    stages = tuple(
        dataclasses.replace(stage, train=(f"heads.{head}",), freeze=(), rate_lambda=0.0) for stage in recipe.stages
    )
    return grown, dataclasses.replace(alone, stages=stages, augment=recipe.augment, seed=recipe.seed)


class LateModel(nn.Module):
    """What the loop sees of a model whose one new head learns: latents in, that head's output out."""

    def __init__(self, grown: SplitModel, head: str) -> None:
        super().__init__()
        self.branch = grown.branches[head]
        self.heads = (head,)
        self._grown = (grown,)  # in a tuple: what is frozen is no part of this module, nor of its checkpoints
        self._placed: torch.device | None = None

    @property
    def plan(self) -> Any:
        """The grown model's."""
        return self._grown[0].plan

    @property
    def bottleneck(self) -> Any:
        """The grown model's; none of it learns."""
        return self._grown[0].bottleneck

    def head(self, name: str) -> Any:
        """Return the head."""
        return self.branch.head

    def parts(self) -> dict[str, nn.Module]:
        """The only part that learns."""
        return {f"heads.{self.heads[0]}": self.branch}

    def forward(self, latents: Tensor, select: Mapping[str, Tensor | None] | None = None) -> ModelOutput:
        """(B, C, h, w) latents, as packets give them, to features and the head's output."""
        from splitreg.assembly import ModelOutput

        grown = self._grown[0]
        if self._placed != latents.device:
            grown.to(latents.device)
            self._placed = latents.device
        size = grown.plan.preprocess.size
        features = grown.server.features(latents, size)
        wanted = dict.fromkeys(self.heads) if select is None else select
        return ModelOutput(
            features=features, rate=latents.new_zeros(len(latents)), outputs=grown.run_heads(features, size, wanted)
        )

    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Sequence[Target]]) -> dict[str, dict[str, Tensor]]:
        """Return head -> part -> scalar."""
        return self._grown[0].loss(outputs, targets)


def edge_digest(model: SplitModel) -> str:
    """SHA-256 of the edge half: its weights, its tables and the model id."""
    from splitreg.assembly.states import edge_state

    start = model.coding.tables.digest() + model.coding.model_id.to_bytes(4, "little")
    return weights_digest(edge_state(model.prefix, model.bottleneck), start)


class _Packets:
    """Every image of a dataset as the packet that crosses the link, encoded once.

    With ``rates``, those of a model with several rates are spread over them, each image at one of its own.
    """

    def __init__(self, model: SplitModel, source: Source, *, rates: bool = False) -> None:
        self._edge, self._server, self._source = model.edge, model.server, source
        self._rates = rates and isinstance(model.coding.tables, VariableModel)
        self.packets = [self.encode(index) for index in range(len(source))]

    def encode(self, index: int) -> bytes:
        """Return an image's packet."""
        rate = index * _GOLDEN % 1 if self._rates else None
        return self._edge.encode(self._source[index].array(), rate=rate)[0]

    def latents(self, indexes: Sequence[int]) -> Tensor:
        """(B, C, h, w) latents, as the server decodes them."""
        return torch.from_numpy(np.stack([self._server.decode(Packet.parse(self.packets[i])) for i in indexes]))


class _Mirrored:
    """A dataset twice: as it is, then with every picture mirrored."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._mirror = Augment(flip=1.0, scale=(1, 1), colour=0.0)

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        return self._source.targets

    def __len__(self) -> int:
        return 2 * len(self._source)

    def __getitem__(self, index: int) -> Sample:
        mirrored, index = divmod(index, len(self._source))
        sample = self._source[index]
        return self._mirror(sample) if mirrored else sample


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Close all of a model's parameters to gradients for a while."""
    opened = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in opened:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in opened:
            parameter.requires_grad_(True)
