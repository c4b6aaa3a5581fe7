"""One stage of training in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from splitreg.errors import RecipeError
from splitreg.parsing import listed, name_list, only, typed
from splitreg.recipe.parts import Part

if TYPE_CHECKING:
    from typing import Self

#: Precisions of training and serving, as in Lightning Fabric; the first is single precision.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
#: Keys that are written only where they are set, so that recipes and bundles of before stay as they were.
_LATER = ("backbone_lr", "layer_decay", "accumulate", "best", "patience", "freeze_to")


def check_precision(value: str, where: str = "") -> None:
    """Check that a value is one of ``PRECISIONS``.

    Raises:
        RecipeError: it is not.
    """
    if value not in PRECISIONS:
        raise RecipeError(f"{where}precision must be one of {', '.join(PRECISIONS)}; got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of training.

    Args:
        name: name of the stage.
        epochs: passes over the data.
        train: parts to train: ``all``, ``edge``, ``server``, ``heads``, ``prefix``, ``encoder``,
            ``decoder``, ``prior``, ``body`` or ``heads.NAME``.
        freeze: parts of ``train`` that are frozen; frozen parts run in eval mode.
        freeze_to: stage of the backbone up to which it is frozen, from the image on; empty: none.
        objectives: how the losses of the heads are combined, and further terms.
        rate_lambda: weight of the rate in bits per pixel of the network's input.
        rate_warmup: epochs over which ``rate_lambda`` rises from 0.
        optimizer: ``adamw``, ``adam`` or ``sgd`` of torch, or another one of timm's, with the options of its class.
        schedule: ``one-cycle``, ``cosine``, ``multistep``, ``poly`` or ``constant``; or ``timm-cosine`` and others.
        batch_size: images per step, over all processes.
        clip: largest norm of the gradient; 0: no clipping.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        average: decay of an exponential moving average of the weights, which replaces them at the
            end; 0: none.
        backbone_lr: learning rate of the backbone (prefix and body), as a factor on the optimiser's.
        layer_decay: further factor on it per block of the backbone, from the last to the first.
        accumulate: batches per step of the optimiser.
        best: metric of the validation whose best weights replace the last ones at the end:
            ``"HEAD.METRIC"``, or ``"auto"`` for the mean of the heads' primary metrics; empty: keep the last.
        patience: epochs without a better metric after which the stage ends; 0: never.
    """

    name: str = "joint"
    epochs: int = 1
    train: tuple[str, ...] = ("all",)
    freeze: tuple[str, ...] = ()
    objectives: tuple[Part, ...] = field(default=(Part(name="sum"),))
    rate_lambda: float = 0.0
    rate_warmup: float = 0.0
    optimizer: Part = field(default=Part(name="adamw", options={"lr": 1e-3}))
    schedule: Part = field(default=Part(name="one-cycle"))
    batch_size: int = 16
    clip: float = 0.0
    precision: str = "32-true"
    average: float = 0.0
    backbone_lr: float = 1.0
    layer_decay: float = 1.0
    accumulate: int = 1
    best: str = ""
    patience: int = 0
    freeze_to: str = ""

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a table."""
        table = only(value, cls.__dataclass_fields__, where)
        values: dict[str, Any] = {}
        for key, item in table.items():
            place = f"{where}: {key}"
            if key in ("train", "freeze"):
                values[key] = name_list(item, place)
            elif key == "objectives":
                values[key] = tuple(Part.parse(i, place) for i in listed(item))
            elif key in ("optimizer", "schedule"):  # a table alone changes options of the default
                default = cls.__dataclass_fields__[key].default.name
                values[key] = Part.parse({"name": default, **item} if isinstance(item, Mapping) else item, place)
            elif key in ("epochs", "batch_size", "accumulate", "patience"):
                values[key] = typed(item, (int,), place)
                least = 0 if key == "patience" else 1
                if values[key] < least:
                    raise RecipeError(f"{place} must be at least {least}, got {item}")
            elif key in ("name", "precision", "best", "freeze_to"):
                values[key] = typed(item, (str,), place)
            else:
                values[key] = float(typed(item, (int, float), place))
                if not 0 <= values[key] < float("inf"):
                    raise RecipeError(f"{place} must be 0 or more, got {item}")
        stage = cls(**values)
        check_precision(stage.precision, f"{where}: ")
        if stage.average >= 1:
            raise RecipeError(f"{where}: average must be below 1, got {stage.average}")
        if stage.layer_decay > 1:
            raise RecipeError(f"{where}: layer_decay must be at most 1, got {stage.layer_decay}")
        if stage.patience and not stage.best:
            raise RecipeError(f'{where}: patience needs a metric to watch, for instance best = "auto"')
        return stage

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        fields = self.__dataclass_fields__
        table: dict[str, Any] = {
            name: getattr(self, name)
            for name in fields
            if name not in _LATER or getattr(self, name) != fields[name].default
        }
        table.update(
            train=list(self.train), freeze=list(self.freeze), objectives=[o.to_mapping() for o in self.objectives],
            optimizer=self.optimizer.to_mapping(), schedule=self.schedule.to_mapping(),
        )  # fmt: skip
        return table
