"""Specs of the heads made of torchvision's modules; imports no torch."""

from splitreg.specs import ComponentSpec

DET_FASTERRCNN = ComponentSpec(
    kind="head", name="det-fasterrcnn", api=1, target="splitreg_torchvision.fasterrcnn:FasterRCNNHead",
    summary="Boxes from torchvision's feature pyramid, region proposals and RoI heads.",
    source="Ren et al. 2015, arXiv:1506.01497; Lin et al. 2017, arXiv:1612.03144",
)  # fmt: skip
SEG_DEEPLABV3 = ComponentSpec(
    kind="head", name="seg-deeplabv3", api=1, target="splitreg_torchvision.deeplab:DeepLabHead",
    summary="A class per pixel, from torchvision's DeepLabV3 head with an auxiliary FCN head in training.",
    source="Chen et al. 2017, arXiv:1706.05587",
)  # fmt: skip
