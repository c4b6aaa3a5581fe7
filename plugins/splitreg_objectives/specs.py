"""Specs of the objectives; imports no torch."""

from functools import partial

from splitreg.specs import ComponentSpec

_objective = partial(ComponentSpec, kind="objective", api=1)

SUM = _objective(
    name="sum", target="splitreg_objectives.sum:Sum", source="Capogrosso et al. 2024 (MTL-Split), arXiv:2407.05982",
    summary="Weighted sum of the heads' losses.",
)  # fmt: skip
DISTILL = _objective(
    name="distill", target="splitreg_objectives.distill:Distill",
    source="Matsubara et al. 2022 (Entropic Student), arXiv:2108.11898; Hinton et al. 2015, arXiv:1503.02531",
    summary="Trains on a teacher's features and logits.",
)  # fmt: skip
UNCERTAINTY = _objective(
    name="uncertainty", target="splitreg_objectives.uncertainty:Uncertainty",
    source="Kendall et al. 2018, arXiv:1705.07115", summary="Weights the heads by learned uncertainties.",
)  # fmt: skip
COMPRESSIBILITY = _objective(
    name="compressibility", target="splitreg_objectives.compressibility:Compressibility",
    source="Alvar & Bajic 2019, arXiv:1902.05179", summary="Keeps the latent's residual in an image codec small.",
)  # fmt: skip
SURGERY = _objective(
    name="surgery", target="splitreg_objectives.surgery:Surgery",
    source="Yu et al. 2020 (PCGrad), arXiv:2001.06782; torchjd, arXiv:2406.16232",
    summary="Combines the heads' gradients so that they do not conflict (PCGrad, MGDA, ...).",
)  # fmt: skip
