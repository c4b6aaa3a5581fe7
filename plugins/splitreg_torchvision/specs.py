"""Specs of the heads made of torchvision's modules; imports no torch."""

from splitreg.specs import specs_of

_head = specs_of("head", "splitreg_torchvision", api=1)

DET_FASTERRCNN = _head("det-fasterrcnn", "fasterrcnn:FasterRCNNHead",
    "Boxes from torchvision's feature pyramid, region proposals and RoI heads.",
    "Ren et al. 2015, arXiv:1506.01497; Lin et al. 2017, arXiv:1612.03144")  # fmt: skip
SEG_DEEPLABV3 = _head("seg-deeplabv3", "deeplab:DeepLabHead",
    "A class per pixel, from torchvision's DeepLabV3 head with an auxiliary FCN head in training.",
    "Chen et al. 2017, arXiv:1706.05587")  # fmt: skip
