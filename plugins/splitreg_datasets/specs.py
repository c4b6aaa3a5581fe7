"""Specs of the datasets; imports no torch."""

from splitreg.specs import specs_of

_dataset = specs_of("dataset", "splitreg_datasets", api=1)

SHAPES3D = _dataset("shapes3d", "shapes3d:Shapes3D",
    "3D Shapes (3dshapes.h5): six factors, each a classification.",
    "Burgess and Kim 2018, github.com/google-deepmind/3d-shapes")  # fmt: skip
COCO = _dataset("coco", "coco:Coco",
    "COCO layout: boxes, masks, classes present; semantic labels from panoptic files or label images.",
    "Lin et al. 2014, arXiv:1405.0312; Kirillov et al. 2019, arXiv:1801.00868")  # fmt: skip
VOC = _dataset("voc", "voc:Voc",
    "PASCAL VOC layout: boxes, classes present, semantic labels.",
    "Everingham et al. 2010, doi:10.1007/s11263-009-0275-4")  # fmt: skip
CAMVID = _dataset("camvid", "camvid:CamVid",
    "CamVid: 11 semantic classes of street scenes; boxes and classes present if derived.",
    "Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005; the 11 classes of SegNet, arXiv:1511.00561")  # fmt: skip
FOLDER = _dataset("folder", "folder:Folder",
    "Images in class folders, in a flat folder without labels, or in a .tar or .zip of either.",
    "")  # fmt: skip
