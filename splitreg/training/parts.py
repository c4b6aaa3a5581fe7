"""Which parts of a model learn in a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from splitreg.assembly import Trainable
from splitreg.assembly.groups import expand_parts
from splitreg.errors import RecipeError


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


class Freezer:
    """Sets which parts of a model learn; the others get no gradients and keep their running statistics.

    Parameters that do not require gradients before stay that way.
    """

    def __init__(self, model: Trainable) -> None:
        self._model = model
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._learning: tuple[str, ...] = ()

    def apply(self, learning: Iterable[str]) -> None:
        """Let the named parts learn, and freeze all others."""
        self._learning = tuple(learning)
        parts = self._model.parts()
        ids = {id(p) for name in self._learning for p in parts[name].parameters()}
        for parameter in self._trainable:
            parameter.requires_grad_(id(parameter) in ids)
        self.train_mode()

    def train_mode(self) -> None:
        """Put the learning parts into training mode and everything else into evaluation mode."""
        self._model.eval()
        parts = self._model.parts()
        for name in self._learning:
            parts[name].train()
        # Noise replaces rounding only while the encoder or the prior learns; a decoder alone sees integers.
        self._model.bottleneck.training = not {"prefix", "encoder", "prior"}.isdisjoint(self._learning)

    def restore(self) -> None:
        """Undo ``apply``, and leave the model in evaluation mode."""
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._model.eval()
