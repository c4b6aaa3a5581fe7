"""Which parts of a model learn in a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from splitreg.assembly import Trainable
from splitreg.assembly.groups import expand_parts
from splitreg.errors import RecipeError, suggest


def select(parts: Mapping[str, nn.Module], train: Iterable[str], freeze: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of the parts that learn: ``train`` without ``freeze``.

    Args:
        parts: name -> module; heads are ``heads.NAME``.
        train: names of parts or groups.
        freeze: names of parts or groups.

    Raises:
        RecipeError: a name is neither a part nor a group, or nothing learns.
    """
    names = list(parts)
    chosen = set(expand_parts(names, train)) - set(expand_parts(names, freeze))
    learning = tuple(name for name in names if name in chosen and any(True for _ in parts[name].parameters()))
    if not learning:
        raise RecipeError(
            f"nothing learns: train = {list(train)} without freeze = {list(freeze)} leaves no part with weights; "
            f"available: {', '.join(names)}"
        )
    return learning


def check_stage(name: str, stages: Iterable[str], where: str) -> None:
    """Check that ``freeze_to`` names a stage of the backbone.

    Raises:
        RecipeError: it does not.
    """
    stages = tuple(stages)
    if name and name not in stages:
        raise RecipeError(
            f"{where}freeze_to = {name!r} is no stage of the backbone.{suggest(name, stages)} Stages: {', '.join(stages)}"
        )


def backbone_up_to(parts: Mapping[str, nn.Module], stage: str) -> list[nn.Module]:
    """Return the modules of a backbone up to a stage, in the order in which they were registered.

    Args:
        parts: name -> part of the model; ``prefix`` and ``body`` are read.
        stage: name of the stage, e.g. ``"blocks.4"``: part of the dotted names of its weights.

    Returns:
        Modules that together have all weights up to the last one of the stage, and no other.

    Raises:
        RecipeError: no weight has the name of the stage.
    """
    backbone = [parts[name] for name in ("prefix", "body") if name in parts]
    rows = [(name, parameter) for part in backbone for name, parameter in part.named_parameters()]
    last = max((i for i, (name, _) in enumerate(rows) if f".{stage}." in f".{name}"), default=-1)
    if last < 0:
        raise RecipeError(
            f"freeze_to: no weight of the backbone has {stage!r} in its name; the stage is replaced by the bottleneck, or "
            'its backbone has other names. Use freeze = ["prefix"] or freeze = ["body"]'
        )
    ids = {id(parameter) for _, parameter in rows[: last + 1]}
    return [module for part in backbone for module in _covered(part, ids)]


def _covered(module: nn.Module, ids: set[int]) -> list[nn.Module]:
    """Return the largest modules that have weights, all of them among ``ids``."""
    own = [id(parameter) for parameter in module.parameters()]
    if own and ids.issuperset(own):
        return [module]
    return [inner for child in module.children() for inner in _covered(child, ids)]


class Freezer:
    """Sets which parts of a model learn; the others get no gradients and keep their running statistics.

    Parameters that do not require gradients before stay that way.
    """

    def __init__(self, model: Trainable) -> None:
        self._model = model
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._learning: tuple[str, ...] = ()
        self._still: list[nn.Module] = []

    def apply(self, learning: Iterable[str], freeze_to: str = "") -> None:
        """Let the named parts learn, and freeze all others and the backbone up to a stage."""
        self._learning = tuple(learning)
        parts = self._model.parts()
        self._still = backbone_up_to(parts, freeze_to) if freeze_to else []
        still = {id(p) for module in self._still for p in module.parameters()}
        ids = {id(p) for name in self._learning for p in parts[name].parameters()} - still
        for parameter in self._trainable:
            parameter.requires_grad_(id(parameter) in ids)
        self.train_mode()

    def train_mode(self) -> None:
        """Put the learning parts into training mode and everything else into evaluation mode."""
        self._model.eval()
        parts = self._model.parts()
        for name in self._learning:
            parts[name].train()
        for module in self._still:
            module.eval()
        # Noise replaces rounding only while the encoder or the prior learns; a decoder alone sees integers.
        self._model.bottleneck.training = not {"prefix", "encoder", "prior"}.isdisjoint(self._learning)

    def restore(self) -> None:
        """Undo ``apply``, and leave the model in evaluation mode."""
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._model.eval()
