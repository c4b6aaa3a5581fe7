"""Specs of the datasets; imports no torch."""

from functools import partial

from splitreg.specs import ComponentSpec

_dataset = partial(ComponentSpec, kind="dataset", api=1)

SHAPES3D = _dataset(
    name="shapes3d", target="splitreg_datasets.shapes3d:Shapes3D",
    source="Burgess and Kim 2018, github.com/google-deepmind/3d-shapes",
    summary="3D Shapes (3dshapes.h5): six factors, each a classification.",
)  # fmt: skip
COCO = _dataset(
    name="coco", target="splitreg_datasets.coco:Coco",
    source="Lin et al. 2014, arXiv:1405.0312; Kirillov et al. 2019, arXiv:1801.00868",
    summary="COCO layout: boxes, masks, classes present; semantic labels from panoptic files or label images.",
)  # fmt: skip
VOC = _dataset(
    name="voc", target="splitreg_datasets.voc:Voc", source="Everingham et al. 2010, doi:10.1007/s11263-009-0275-4",
    summary="PASCAL VOC layout: boxes, classes present, semantic labels.",
)  # fmt: skip
CAMVID = _dataset(
    name="camvid", target="splitreg_datasets.camvid:CamVid",
    source="Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005; the 11 classes of SegNet, arXiv:1511.00561",
    summary="CamVid: 11 semantic classes of street scenes; boxes and classes present if derived.",
)  # fmt: skip
FOLDER = _dataset(
    name="folder", target="splitreg_datasets.folder:Folder",
    summary="Images in class folders, in a flat folder without labels, or in a .tar or .zip of either.",
)  # fmt: skip
