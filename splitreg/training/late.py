"""Late heads: train one more head for a finished model, without changing its packets.

Each image is encoded once; the head then trains on the latents decoded from the cached packets. Source: the
frozen bitstream with heads added later of Matsubara et al. 2025 (Ladon, arXiv:2501.01420).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from splitreg.assembly import ModelOutput, SplitModel, Trainable, plan
from splitreg.assembly.allocation import Parts
from splitreg.assembly.states import edge_state
from splitreg.coding import Packet, VariableModel
from splitreg.data.loading import Batch, Source
from splitreg.data.transforms import Augment
from splitreg.errors import RecipeError, TrainingError
from splitreg.evaluation.packets import spread
from splitreg.interfaces import Head
from splitreg.parsing import check_name
from splitreg.recipe import Recipe
from splitreg.registry import Registry, discover
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg.training.data import DataLoaders, augmentation, open_datasets
from splitreg.training.options import TrainOptions
from splitreg.training.run import TrainResult, execute
from splitreg.training.setup import Run
from splitreg.training.teacher import weights_digest

#: Golden ratio: the fractional parts of its multiples are spread evenly over 0 to 1, for any count.
_GOLDEN_RATIO = (5**0.5 - 1) / 2
#: Number of packets that are encoded again and compared after training.
COMPARED_PACKETS = 32


@dataclass(kw_only=True)
class LateResult(TrainResult):
    """Result of ``train_late_head``; ``model`` has one head more.

    Args:
        packets_compared: number of images that were encoded to the same bytes before and after training.
        edge_digest: SHA-256 of the weights and tables of the edge half, the same before and after.
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
    """Train one more head for a finished model. Nothing else of the model changes.

    Images are not augmented, except for flips if the recipe's ``augment`` has them: each image and its mirror
    image are encoded once.

    Args:
        model: with frozen tables; it shares all its modules with the model that is returned.
        recipe: the head, its data and its stages; ``train``, ``freeze`` and ``rate_lambda`` are ignored.
        head: name of the head in the recipe.
        output: folder of the run.
        options: see ``train``.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: no such head in the recipe, or the model has one of that name; or the recipe has a teacher.
        PlanError: the head does not fit the model.
        TrainingError: see ``train``; or a packet changed, which is a bug.
        BundleError: the model has no tables yet.
    """
    options, registry = options or TrainOptions(), registry or discover()
    extended, resolved = extend(model, recipe, head, registry)
    datasets = options.datasets or open_datasets(resolved, registry)
    digest = edge_digest(extended)
    if augmentation(recipe.augment).flip > 0:
        datasets = dataclasses.replace(datasets, train=_Mirrored(datasets.train))
    training = _Packets(extended, datasets.train, all_rates=True)
    validation = None if datasets.val is None else _Packets(extended, datasets.val)

    def to_latents(batch: Batch, is_training: bool) -> Batch:
        packets = training if is_training or validation is None else validation
        return dataclasses.replace(batch, images=packets.latents(batch.indexes))

    if options.hooks.augment is not None:
        raise RecipeError("a late head is trained on stored packets: Hooks.augment has no effect, leave it out")
    loaders = DataLoaders(
        recipe=resolved, datasets=datasets, preprocess=extended.plan.preprocess, workers=options.workers,
        augmented=False, change=to_latents,
    )  # fmt: skip
    home = next((parameter.device for parameter in model.parameters()), None)
    with _frozen(model):
        run = Run(
            model=LateModel(extended, head), recipe=resolved, folder=Path(output), loaders=loaders, registry=registry,
            base=weights_digest(model.state_dict()), hooks=options.hooks,
        )  # fmt: skip
        record = execute(run, options)
    extended.to(home).eval()
    if edge_digest(extended) != digest:
        raise TrainingError(f"the edge half changed while head {head!r} was trained; this is a bug")
    return LateResult(
        model=extended, output=run.folder, packets_compared=training.check(), edge_digest=digest, **vars(record)
    )  # fmt: skip


def extend(model: SplitModel, recipe: Recipe, head: str, registry: Registry) -> tuple[SplitModel, Recipe]:
    """Add a head.

    Returns:
        The model with one more, untrained head, and the resolved recipe that trains it.

    Raises:
        RecipeError: no such head in the recipe, or the model has one of that name.
        PlanError: the head does not fit the model, or the data lack its target.
        BundleError: the model has no tables yet.
    """
    names = [part.name for part in recipe.heads]
    check_name(head, names, "head of the recipe")
    if head in model.heads:
        raise RecipeError(f"the model has a head {head!r} already; give the new one another name: {{ as = ... }}")
    model.coding.tables  # noqa: B018  (raises BundleError if there are none)
    if recipe.teacher is not None:
        raise RecipeError("a late head learns from packets, which a teacher cannot read; remove the teacher")
    part = recipe.heads[names.index(head)]
    alone = dataclasses.replace(model.recipe, heads=(part,), data=recipe.data, stages=(), teacher=None)
    alone = plan(alone, registry=registry).recipe
    # Planned without data: the new head's dataset may lack the targets of the other heads.
    together = dataclasses.replace(model.recipe, heads=(*model.recipe.heads, *alone.heads), data=(), seed=recipe.seed)
    planned = plan(together, registry=registry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        branch = planned.heads[-1].create()
    resolved = dataclasses.replace(planned.recipe, data=model.recipe.data, seed=model.recipe.seed)
    parts = Parts(
        prefix=model.prefix, bottleneck=model.bottleneck, body=model.body,
        branches={**dict(model.branches.items()), head: branch},  # type: ignore[arg-type]
    )  # fmt: skip
    extended = SplitModel(dataclasses.replace(planned, recipe=resolved), parts)
    extended.trained = model.trained
    extended.coding = model.coding
    stages = tuple(
        dataclasses.replace(stage, train=(f"heads.{head}",), freeze=(), rate_lambda=0.0) for stage in recipe.stages
    )
    return extended, dataclasses.replace(alone, stages=stages, augment=recipe.augment, seed=recipe.seed)


class LateModel(Trainable):
    """A model of which one new head learns: latents in, the output of that head out.

    Args:
        model: the extended model.
        head: name of the new head.
    """

    def __init__(self, model: SplitModel, head: str) -> None:
        super().__init__()
        self.plan = model.plan
        self.branch = model.branches[head]
        # Not registered as submodules: frozen weights are no part of this model, nor of its checkpoints.
        self.__dict__.update(bottleneck=model.bottleneck, _model=model)
        self._head, self._device = head, torch.device("meta")

    @property
    def heads(self) -> tuple[str, ...]:
        """Name of the new head."""
        return (self._head,)

    def head(self, name: str) -> Head:
        """Return the new head."""
        return self._whole.head(name)

    def parts(self) -> dict[str, nn.Module]:
        """Return the new head, the only part that learns."""
        return {f"heads.{self._head}": self.branch}

    def forward(self, latents: Tensor, select: Mapping[str, Tensor | None] | None = None) -> ModelOutput:
        """Run the server half on (B, C, h, w) latents, as decoded from packets; see ``Trainable.forward``."""
        model = self._whole
        if self._device != latents.device:
            model.to(latents.device)
            self._device = latents.device
        size = model.plan.preprocess.size
        features = model.server.features(latents, size)
        outputs = model.run_heads(features, size, dict.fromkeys(self.heads) if select is None else select)
        return ModelOutput(features=features, rate=latents.new_zeros(len(latents)), outputs=outputs)

    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Sequence[Target]]) -> dict[str, dict[str, Tensor]]:
        """Return head -> part -> scalar."""
        return self._whole.loss(outputs, targets)

    @property
    def _whole(self) -> SplitModel:
        model: SplitModel = self.__dict__["_model"]
        return model


def edge_digest(model: SplitModel) -> str:
    """Return the SHA-256 of the edge half: its weights, its tables and the model id."""
    start = model.coding.tables.digest() + model.coding.model_id.to_bytes(4, "little")
    return weights_digest(edge_state(model.prefix, model.bottleneck), start)


class _Packets:
    """The packet of each image of a dataset, encoded once.

    With ``all_rates``, the packets of a model with several rates are spread over them.
    """

    def __init__(self, model: SplitModel, source: Source, *, all_rates: bool = False) -> None:
        self._edge, self._server, self._source = model.edge, model.server, source
        self._all_rates = all_rates and isinstance(model.coding.tables, VariableModel)
        self.packets = [self.encode(index) for index in range(len(source))]

    def encode(self, index: int) -> bytes:
        """Return the packet of an image."""
        rate = index * _GOLDEN_RATIO % 1 if self._all_rates else None
        return self._edge.encode(self._source[index].array(), rate=rate)[0]

    def check(self) -> int:
        """Encode some images again, and return how many.

        Raises:
            TrainingError: a packet has changed.
        """
        indexes = spread(len(self._source), COMPARED_PACKETS)
        for index in indexes:
            if self.encode(index) != self.packets[index]:
                raise TrainingError(f"the packet of image {index} changed while a late head was trained; this is a bug")
        return len(indexes)

    def latents(self, indexes: Sequence[int]) -> Tensor:
        """Return (B, C, h, w) latents as the server decodes them."""
        return torch.from_numpy(np.stack([self._server.decode(Packet.parse(self.packets[i])) for i in indexes]))


class _Mirrored:
    """A dataset twice: as it is, then with each image mirrored."""

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
    """Turn off the gradients of all parameters while the context is open."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
