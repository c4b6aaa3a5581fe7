"""Specs of the heads; imports no torch."""

from splitreg.specs import specs_of

_head = specs_of("head", "splitreg_heads", api=1)

CLS = _head("cls", "pooled:ClassHead",
    "One class per image, from the pooled deepest feature; optional hidden layer.",
    "Lin et al. 2013, arXiv:1312.4400 (pooling)")  # fmt: skip
MULTILABEL = _head("multilabel", "pooled:MultiLabelHead",
    "Any number of labels per image; unknown labels do not count.",
    "")  # fmt: skip
DET = _head("det", "detection:CentreHead",
    "Boxes from a map of object centres; light, without anchors.",
    "Liu et al. 2019, arXiv:1909.00700; Zhou et al. 2019, arXiv:1904.07850")  # fmt: skip
SEG = _head("seg", "segmentation:SegmentationHead",
    "A class per pixel, from a light feature pyramid.",
    "Kirillov et al. 2019, arXiv:1901.02446")  # fmt: skip
DEPTH = _head("depth", "depth:DepthHead",
    "Metres per pixel, on a logarithmic scale.",
    "Eigen et al. 2014, arXiv:1406.2283")  # fmt: skip
RECON = _head("recon", "reconstruction:ReconstructionHead",
    "The image itself, from the finest feature by sub-pixel convolutions.",
    "Shi et al. 2016, arXiv:1609.05158")  # fmt: skip
EMBED = _head("embed", "embedding:EmbeddingHead",
    "A normalised vector per image, for re-identification and search.",
    "Zhai and Wu 2019, arXiv:1811.12649")  # fmt: skip
