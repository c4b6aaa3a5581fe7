"""Specs of the backbones and heads made of torchvision's modules; imports no torch."""

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
INST_MASKRCNN = ComponentSpec(
    kind="head", name="inst-maskrcnn", api=1, target="splitreg_torchvision.maskrcnn:MaskRCNNHead",
    summary="Boxes with a mask for each object, from torchvision's Mask R-CNN.",
    source="He et al. 2017, arXiv:1703.06870",
)  # fmt: skip
POSE_KEYPOINTRCNN = ComponentSpec(
    kind="head", name="pose-keypointrcnn", api=1, target="splitreg_torchvision.keypointrcnn:KeypointRCNNHead",
    summary="Boxes with keypoints for each object, from torchvision's Keypoint R-CNN.",
    source="He et al. 2017, arXiv:1703.06870",
)  # fmt: skip
TORCHVISION = ComponentSpec(
    kind="backbone", name="torchvision", api=1, target="splitreg_torchvision.backbones:TorchvisionBackbone", family=True,
    members="splitreg_torchvision.members:names", source="github.com/pytorch/vision",
    summary="torchvision's ResNets and MobileNetV3, as in its detectors and segmenters.",
)  # fmt: skip
