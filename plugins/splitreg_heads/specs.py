"""What this package offers; imports no torch."""

from __future__ import annotations

from splitreg.specs import API, ComponentSpec

CLS = ComponentSpec(
    kind="head",
    name="cls",
    api=API,
    target="splitreg_heads.pooled:ClassHead",
    summary="One class for the image: pooled deepest feature, optional hidden layer.",
    source="Lin et al. 2013, arXiv:1312.4400 (average pooling)",
)
MULTILABEL = ComponentSpec(
    kind="head",
    name="multilabel",
    api=API,
    target="splitreg_heads.pooled:MultiLabelHead",
    summary="Any number of labels for the image; unknown labels count nowhere.",
)
DET = ComponentSpec(
    kind="head",
    name="det",
    api=API,
    target="splitreg_heads.detection:CentreHead",
    summary="Boxes from a map of object centres; light, without anchors.",
    source="Liu et al. 2019, arXiv:1909.00700; Zhou et al. 2019, arXiv:1904.07850",
)
SEG = ComponentSpec(
    kind="head",
    name="seg",
    api=API,
    target="splitreg_heads.segmentation:SegmentationHead",
    summary="A class for every pixel from a light feature pyramid.",
    source="Kirillov et al. 2019, arXiv:1901.02446",
)
DEPTH = ComponentSpec(
    kind="head",
    name="depth",
    api=API,
    target="splitreg_heads.depth:DepthHead",
    summary="Metres for every pixel, learned on a logarithmic scale.",
    source="Eigen et al. 2014, arXiv:1406.2283",
)
RECON = ComponentSpec(
    kind="head",
    name="recon",
    api=API,
    target="splitreg_heads.reconstruction:ReconstructionHead",
    summary="The image itself, from the finest feature by sub-pixel convolutions.",
    source="Shi et al. 2016, arXiv:1609.05158",
)
