"""What the readers are, without importing them."""

from __future__ import annotations

from splitreg.specs import ComponentSpec


def _dataset(name: str, target: str, summary: str, source: str = "") -> ComponentSpec:
    return ComponentSpec(
        kind="dataset", name=name, api=1, target=f"splitreg_datasets.{target}", summary=summary, source=source
    )


SHAPES3D = _dataset(
    "shapes3d",
    "shapes3d:Shapes3D",
    "3D Shapes (3dshapes.h5): six factors, each a classification.",
    "Burgess and Kim 2018, github.com/google-deepmind/3d-shapes",
)
COCO = _dataset(
    "coco",
    "coco:Coco",
    "COCO layout: boxes, masks, classes present, and semantic labels where there are panoptic ones.",
    "Lin et al. 2014, arXiv:1405.0312; Kirillov et al. 2019, arXiv:1801.00868",
)
YOLO = _dataset(
    "yolo",
    "yolo:Yolo",
    "YOLO text labels (Ultralytics, Roboflow, CVAT, Label Studio): boxes, outlines as masks, classes present.",
    "docs.ultralytics.com/datasets/detect, docs.ultralytics.com/datasets/segment",
)
VOC = _dataset(
    "voc",
    "voc:Voc",
    "PASCAL VOC layout: boxes, classes present, semantic labels.",
    "Everingham et al. 2010, doi:10.1007/s11263-009-0275-4",
)
CAMVID = _dataset(
    "camvid",
    "camvid:CamVid",
    "CamVid: 11 semantic classes of street scenes, boxes and classes present where derived.",
    "Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005; the 11 classes of SegNet, arXiv:1511.00561",
)
FOLDER = _dataset(
    "folder",
    "folder:Folder",
    "Pictures in class folders, in a flat folder without labels, or in a .tar or .zip of either.",
)
