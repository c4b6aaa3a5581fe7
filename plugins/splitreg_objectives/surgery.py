"""Heads whose gradients pull apart: the shared weights get a combination of them that goes against none, or less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from splitreg.errors import MissingExtra, RecipeError, suggest
from splitreg.interfaces import Objective, StepContext

#: Name -> torchjd's weighting, and whether its weights sum to the number of heads where nothing conflicts (else to 1).
METHODS: Mapping[str, tuple[str, bool]] = {
    "pcgrad": ("PCGradWeighting", True),
    "mgda": ("MGDAWeighting", False),
    "aligned-mtl": ("AlignedMTLWeighting", False),
    "imtl-g": ("IMTLGWeighting", False),
    "upgrad": ("UPGradWeighting", False),
}


class Surgery(Objective):
    """The sum of the heads' losses, whose gradients are combined before they reach what the heads share.

    Each head's own weights get its own gradient. Its gradient for the features is multiplied by a weight that the
    method finds from the inner products of the heads' gradients. A backward pass is linear in what is sent into it, so
    decoder, body and encoder get the same combination. The rate and other objectives add to it untouched.

    Args:
        heads: names of the heads.
        method: ``"pcgrad"``, ``"mgda"``, ``"aligned-mtl"``, ``"imtl-g"`` or ``"upgrad"`` (which wants torchjd's solver).
        by: gradients of the shared ``"weights"``: exact, and one more backward pass for each head; or of the
            ``"features"``: only the heads are passed twice, but heads that were labelled on different images never
            seem to conflict.

    Raises:
        RecipeError: no such method.
        MissingExtra: the method wants a solver that is not installed.

    Source: Yu et al. 2020, arXiv:2001.06782 (PCGrad); Sener & Koltun 2018, arXiv:1810.04650 (MGDA, and features in the
    place of weights); Quinton & Rey 2024, arXiv:2406.16232 (UPGrad and torchjd).
    """

    def __init__(self, heads: Sequence[str], *, method: str = "pcgrad", by: str = "weights") -> None:
        super().__init__()
        if method not in METHODS:
            raise RecipeError(
                f"objective surgery has no method {method!r}.{suggest(method, METHODS)} It has: {', '.join(METHODS)}"
            )
        if by not in ("weights", "features"):
            raise RecipeError(f"objective surgery: by must be 'weights' or 'features', got {by!r}")
        name, self._summed = METHODS[method]
        try:
            from torchjd import aggregation

            self._weighting = getattr(aggregation, name)()
        except ImportError as cause:
            raise MissingExtra(
                f"objective surgery: method {method} needs torchjd with a quadratic solver: pip install "
                "'torchjd[quadprog_projector]'; method pcgrad needs torchjd alone"
            ) from cause
        self.by = by

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return one term a head, and ``shared``: it is zero, and its gradient is the correction of the shared part."""
        terms = {head: sum(parts.values(), context.rate.new_zeros(())) for head, parts in context.losses.items()}
        features = [feature for feature in context.features.values() if feature.requires_grad]
        asked = [term for term in terms.values() if term.requires_grad]
        if len(asked) < 2 or not features or not torch.is_grad_enabled():
            return terms
        gradients = [_gradient(term, features) for term in asked]  # heads x strides
        shared = [tensor for tensor in context.shared if tensor.requires_grad] if self.by == "weights" else []
        compared = [_gradient(features, shared, sent) for sent in gradients] if shared else gradients
        weights = self._weights(compared)
        if weights is None:
            return terms
        correction = context.rate.new_zeros(())
        for index, feature in enumerate(features):
            change = sum((w - 1) * sent[index].float() for w, sent in zip(weights, gradients, strict=True))
            correction = correction + (change * (feature - feature.detach()).float()).sum()
        return {**terms, "shared": correction}

    def _weights(self, gradients: Sequence[Sequence[Tensor]]) -> list[float] | None:
        """Weight of each head's gradient; None where they are not finite (loss scaling skips such a step)."""
        count = len(gradients)
        table = torch.zeros(count, count, dtype=torch.float64)
        for i in range(count):
            for j in range(i + 1):
                pairs = zip(gradients[i], gradients[j], strict=True)
                found = [(a.float() * b.float()).sum(dtype=torch.float64) for a, b in pairs]
                table[i, j] = table[j, i] = torch.stack(found).sum().cpu()
        if not bool(table.isfinite().all()) or not bool((table.diagonal() > 0).all()):
            return None
        # torchjd's limits are absolute, gradients have any size; no method's weights depend on a common factor
        weights = self._weighting((table / table.diagonal().mean()).clone())
        return [float(w) * (1 if self._summed else count) for w in weights]


def _gradient(
    of: Tensor | Sequence[Tensor], to: Sequence[Tensor], sent: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Gradients without accumulating them anywhere; the graph is kept for the backward pass that follows."""
    found = torch.autograd.grad(of, list(to), sent, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(to, found, strict=True)]
