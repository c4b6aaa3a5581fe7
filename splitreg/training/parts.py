"""What learns in a stage and what does not, by the names of a model's parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from splitreg.errors import RecipeError, suggest

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel

#: Groups of parts: a part belongs to a group if its name, or the name before its dot, is listed.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": ("prefix", "encoder", "decoder", "prior", "body", "heads"),
    "edge": ("prefix", "encoder"),
    "server": ("decoder", "prior", "body", "heads"),
    "heads": ("heads",),
}


def select(parts: Mapping[str, nn.Module], train: Iterable[str], freeze: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of the parts that learn: those of ``train`` without those of ``freeze``.

    Args:
        parts: name -> module; heads are ``heads.NAME``.
        train: names of parts or groups.
        freeze: likewise.

    Raises:
        RecipeError: a name is neither a part nor a group, or nothing is left to learn.
    """
    learn, frozen = set(expand(parts, train)), set(expand(parts, freeze))
    left = tuple(name for name in parts if name in learn - frozen and any(True for _ in parts[name].parameters()))
    if not left:
        raise RecipeError(
            f"nothing learns: train = {list(train)} without freeze = {list(freeze)} leaves no part with weights; "
            f"the parts are {', '.join(parts)}"
        )
    return left


class Freezer:
    """Sets which parts of a model learn: the others neither get gradients nor change their running statistics.

    Parameters that were closed to gradients before (frozen statistics of a plugin, say) stay closed.
    """

    def __init__(self, model: SplitModel) -> None:
        self._model = model
        self._open = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._learning: tuple[str, ...] = ()

    def apply(self, learning: Iterable[str]) -> None:
        """Open the named parts for training and close all others."""
        self._learning = tuple(learning)
        parts = self._model.parts()
        wanted = {id(p) for name in self._learning for p in parts[name].parameters()}
        for parameter in self._open:
            parameter.requires_grad_(id(parameter) in wanted)
        self.train_mode()

    def train_mode(self) -> None:
        """Put what learns into training mode and everything else into evaluation mode."""
        self._model.eval()
        parts = self._model.parts()
        for name in self._learning:
            parts[name].train()
        # noise stands for rounding while what is before the rounding, or the prior, learns; a decoder alone sees integers
        self._model.bottleneck.training = not {"prefix", "encoder", "prior"}.isdisjoint(self._learning)

    def restore(self) -> None:
        """Open every parameter that was open at first, and leave the model in evaluation mode."""
        for parameter in self._open:
            parameter.requires_grad_(True)
        self._model.eval()


def expand(parts: Mapping[str, nn.Module], names: Iterable[str]) -> list[str]:
    """Return the parts behind names of parts and groups.

    Raises:
        RecipeError: a name is neither.
    """
    found: list[str] = []
    for name in names:
        if name in parts:
            found.append(name)
        elif name in GROUPS:
            found += [part for part in parts if part in GROUPS[name] or part.partition(".")[0] in GROUPS[name]]
        elif name not in GROUPS["all"]:  # a model may lack a prefix or a prior; naming it is no mistake
            known = [*GROUPS, *parts]
            raise RecipeError(f"the model has no part {name!r}.{suggest(name, known)} There are: {', '.join(known)}")
    return found
