"""Specs of the objectives (no torch)."""

from splitreg.specs import ComponentSpec

SUM = ComponentSpec(
    kind="objective", name="sum", api=1, target="splitreg_objectives.sum:Sum",
    summary="Sum of the heads' losses, with a weight a head.",
    source="Capogrosso et al. 2024 (MTL-Split), arXiv:2407.05982: plain sum",
)  # fmt: skip
DISTILL = ComponentSpec(
    kind="objective", name="distill", api=1, target="splitreg_objectives.distill:Distill",
    summary="Learns from a teacher's features and logits.",
    source="Matsubara et al. 2022 (Entropic Student), arXiv:2108.11898; Hinton et al. 2015, arXiv:1503.02531",
)  # fmt: skip
UNCERTAINTY = ComponentSpec(
    kind="objective", name="uncertainty", api=1, target="splitreg_objectives.uncertainty:Uncertainty",
    summary="Weights the heads by learned uncertainties.",
    source="Kendall et al. 2018, arXiv:1705.07115",
)  # fmt: skip
COMPRESSIBILITY = ComponentSpec(
    kind="objective", name="compressibility", api=1, target="splitreg_objectives.compressibility:Compressibility",
    summary="Keeps what a picture codec would code of the latent small.",
    source="Alvar & Bajic 2019, arXiv:1902.05179",
)  # fmt: skip
SURGERY = ComponentSpec(
    kind="objective", name="surgery", api=1, target="splitreg_objectives.surgery:Surgery",
    summary="Combines the heads' gradients so that they do not undo each other (PCGrad, MGDA, ...).",
    source="Yu et al. 2020 (PCGrad), arXiv:2001.06782; torchjd, arXiv:2406.16232",
)  # fmt: skip
