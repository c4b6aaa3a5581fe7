"""Datasets in common layouts: COCO, PASCAL VOC, CamVid, 3D Shapes, class folders."""
