"""Names of this package's plugins; imports no torch."""

from splitreg.specs import ComponentSpec

TIMM = ComponentSpec(
    kind="backbone",
    name="timm",
    api=1,
    target="splitreg_timm.backbone:TimmBackbone",
    summary="Every timm model that gives feature maps, cut after any of its stages.",
    source="Wightman 2019, doi:10.5281/zenodo.4414861",
    family=True,
    members="splitreg_timm.members:names",
)
