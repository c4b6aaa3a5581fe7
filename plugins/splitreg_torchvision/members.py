"""Names of the members of the family; imports no torch."""

_RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip


def names() -> list[str]:
    """Return the names of all backbones."""
    return [f"tv_{name}" for name in (*_RESNETS, "mobilenet_v3_large", "mobilenet_v3_small")]
