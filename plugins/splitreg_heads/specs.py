"""Specs of the heads; imports no torch."""

from __future__ import annotations

from functools import partial

from splitreg.specs import ComponentSpec

_head = partial(ComponentSpec, kind="head", api=1)

CLS = _head(
    name="cls", target="splitreg_heads.pooled:ClassHead", source="Lin et al. 2013, arXiv:1312.4400 (pooling)",
    summary="One class per image, from the pooled deepest feature; optional hidden layer.",
)  # fmt: skip
MULTILABEL = _head(
    name="multilabel", target="splitreg_heads.pooled:MultiLabelHead",
    summary="Any number of labels per image; unknown labels do not count.",
)  # fmt: skip
DET = _head(
    name="det", target="splitreg_heads.detection:CentreHead",
    source="Liu et al. 2019, arXiv:1909.00700; Zhou et al. 2019, arXiv:1904.07850",
    summary="Boxes from a map of object centres; light, without anchors.",
)  # fmt: skip
SEG = _head(
    name="seg", target="splitreg_heads.segmentation:SegmentationHead", source="Kirillov et al. 2019, arXiv:1901.02446",
    summary="A class per pixel, from a light feature pyramid.",
)  # fmt: skip
DEPTH = _head(
    name="depth", target="splitreg_heads.depth:DepthHead", source="Eigen et al. 2014, arXiv:1406.2283",
    summary="Metres per pixel, on a logarithmic scale.",
)  # fmt: skip
RECON = _head(
    name="recon", target="splitreg_heads.reconstruction:ReconstructionHead",
    source="Shi et al. 2016, arXiv:1609.05158",
    summary="The image itself, from the finest feature by sub-pixel convolutions.",
)  # fmt: skip
