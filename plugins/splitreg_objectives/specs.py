"""Specs of the objectives (no torch)."""

from splitreg.specs import ComponentSpec

SUM = ComponentSpec(
    kind="objective", name="sum", api=1, target="splitreg_objectives.sum:Sum",
    summary="Sum of the heads' losses, with a weight a head.",
    source="Capogrosso et al. 2024 (MTL-Split), arXiv:2407.05982: plain sum",
)  # fmt: skip
