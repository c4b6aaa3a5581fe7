"""Specs of the backbones and of their classifier; imports no torch."""

from splitreg.specs import ComponentSpec

TIMM = ComponentSpec(
    kind="backbone", name="timm", api=1, target="splitreg_timm.backbone:TimmBackbone", family=True,
    members="splitreg_timm.members:names", source="Wightman 2019, doi:10.5281/zenodo.4414861",
    summary="Any timm model that returns feature maps, cut after any of its stages.",
)  # fmt: skip
CLASSIFIER = ComponentSpec(
    kind="head", name="cls-timm", api=1, target="splitreg_timm.classifier:TimmClassifier",
    source="Wightman 2019, doi:10.5281/zenodo.4414861",
    summary="The pretrained classifier of a timm model: its own classes, without training.",
)  # fmt: skip
