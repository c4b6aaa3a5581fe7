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
    "COCO layout: boxes, masks, classes present, keypoints, and semantic labels where there are panoptic ones.",
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
MASKS = _dataset(
    "masks",
    "dense:Masks",
    "Images with masks of indexes or colours in a folder beside them (also with depth).",
)
DEPTH = _dataset(
    "depth",
    "dense:DepthMaps",
    "Images with depth in a folder beside them: PNG in millimetres, NPY or EXR.",
)
CAMVID = _dataset(
    "camvid",
    "camvid:CamVid",
    "CamVid: 11 semantic classes of street scenes, boxes and classes present where derived.",
    "Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005; the 11 classes of SegNet, arXiv:1511.00561",
)
CITYSCAPES = _dataset(
    "cityscapes",
    "cityscapes:Cityscapes",
    "Cityscapes: 19 semantic classes, boxes and masks of 8 where there are instances.",
    "Cordts et al. 2016, arXiv:1604.01685",
)
ADE20K = _dataset(
    "ade20k",
    "ade20k:Ade20k",
    "ADE20K of the scene parsing challenge: 150 semantic classes, and the scene as a classification.",
    "Zhou et al. 2017, doi:10.1109/CVPR.2017.544",
)
KITTI = _dataset(
    "kitti", "kitti:Kitti", "KITTI: boxes of the object benchmark, or depth of the depth benchmark.",
    "Geiger et al. 2012, doi:10.1109/CVPR.2012.6248074; Uhrig et al. 2017, arXiv:1708.06500",
)  # fmt: skip
NYU_DEPTH = _dataset(
    "nyu-depth",
    "nyu:NyuDepth",
    "NYU Depth V2 (HDF5): depth in metres and semantic labels.",
    "Silberman et al. 2012, doi:10.1007/978-3-642-33715-4_54; 40 classes: Gupta et al. 2013",
)
IMAGENET = _dataset(
    "imagenet",
    "imagenet:ImageNet",
    "ImageNet: folders of synsets, and the validation images with any of their lists of labels.",
    "Russakovsky et al. 2015, arXiv:1409.0575",
)
OPENIMAGES = _dataset(
    "openimages",
    "openimages:OpenImages",
    "Open Images: boxes in CSV files.",
    "Kuznetsova et al. 2020, arXiv:1811.00982",
)
LABELME = _dataset(
    "labelme", "labelme:LabelMe", "labelme's JSON files: boxes and masks.", "github.com/wkentaro/labelme"
)
WEBDATASET = _dataset(
    "webdataset",
    "shards:WebDataset",
    "WebDataset's .tar shards: classes and masks.",
    "github.com/webdataset/webdataset",
)
HF = _dataset(
    "hf",
    "hub:HuggingFace",
    "Hugging Face datasets from disk or the Hub; options name the columns.",
    "Lhoest et al. 2021, arXiv:2109.02846",
)
MOT = _dataset(
    "mot",
    "mot:Mot",
    "MOTChallenge layout (MOT15 to MOT20, DanceTrack, CVAT): frames with boxes and identities.",
    "Dendorfer et al. 2021, doi:10.1007/s11263-020-01393-0",
)
FRAMES = _dataset("frames", "clips:Frames", "Videos as folders of frames, one per clip, without labels.")
FOLDER = _dataset(
    "folder",
    "folder:Folder",
    "Pictures in class folders, in a flat folder without labels, or in a .tar or .zip of either.",
)
