"""Gradient surgery: the shared weights get a combination of the heads' gradients with less conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from splitreg.errors import MissingExtra, RecipeError, suggest
from splitreg.interfaces import Objective, StepContext

#: Name -> torchjd's weighting, and whether its weights sum to the number of heads (else to 1).
METHODS: Mapping[str, tuple[str, bool]] = {
    "pcgrad": ("PCGradWeighting", True),
    "mgda": ("MGDAWeighting", False),
    "aligned-mtl": ("AlignedMTLWeighting", False),
    "imtl-g": ("IMTLGWeighting", False),
    "upgrad": ("UPGradWeighting", False),
}


class Surgery(Objective):
    """The sum of the heads' losses, with combined gradients for the shared part of the model.

    The weights of a head get its own gradient. Its gradient for the features is multiplied by a weight,
    which the method computes from the inner products of the heads' gradients. A backward pass is
    linear, so decoder, body and encoder get the same combination. The rate and other objectives are
    added without a change.

    Args:
        heads: names of the heads.
        method: ``"pcgrad"``, ``"mgda"``, ``"aligned-mtl"``, ``"imtl-g"`` or ``"upgrad"``, which needs
            torchjd's solver.
        by: compare gradients of the shared ``"weights"``: exact, one more backward pass per head; or
            of the ``"features"``: only the heads run twice, but heads that have labels on different
            images never conflict.

    Raises:
        RecipeError: there is no such method.
        MissingExtra: torchjd, or the solver of the method, is not installed.

    Source: Yu et al. 2020, arXiv:2001.06782 (PCGrad); Sener & Koltun 2018, arXiv:1810.04650 (MGDA, and
    features instead of weights); Quinton & Rey 2024, arXiv:2406.16232 (UPGrad and torchjd).
    """

    def __init__(self, heads: Sequence[str], *, method: str = "pcgrad", by: str = "weights") -> None:
        super().__init__()
        if method not in METHODS:
            raise RecipeError(
                f"objective surgery has no method {method!r}.{suggest(method, METHODS)} There are: {', '.join(METHODS)}"
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
        """Return one term per head, and ``shared``: zero, with the correction as its gradient."""
        terms = {head: sum(parts.values(), context.rate.new_zeros(())) for head, parts in context.losses.items()}
        features = [feature for feature in context.features.values() if feature.requires_grad]
        active = [term for term in terms.values() if term.requires_grad]
        if len(active) < 2 or not features or not torch.is_grad_enabled():
            return terms
        gradients = [_gradient(term, features) for term in active]  # heads x strides
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
        """Return the weight of each head's gradient, or None if they are not finite: loss scaling skips the step."""
        count = len(gradients)
        table = torch.zeros(count, count, dtype=torch.float64)
        for i in range(count):
            for j in range(i + 1):
                pairs = zip(gradients[i], gradients[j], strict=True)
                products = [(a.float() * b.float()).sum(dtype=torch.float64) for a, b in pairs]
                table[i, j] = table[j, i] = torch.stack(products).sum().cpu()
        if not bool(table.isfinite().all()) or not bool((table.diagonal() > 0).all()):
            return None
        # torchjd has absolute limits; the weights of no method depend on a common factor.
        weights = self._weighting((table / table.diagonal().mean()).clone())
        return [float(w) * (1 if self._summed else count) for w in weights]


def _gradient(
    of: Tensor | Sequence[Tensor], to: Sequence[Tensor], sent: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Return gradients without accumulating them; keeps the graph for the backward pass that follows."""
    gradients = torch.autograd.grad(of, list(to), sent, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(to, gradients, strict=True)]
