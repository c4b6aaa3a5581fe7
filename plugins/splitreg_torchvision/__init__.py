"""Heads made of torchvision's detection and segmentation modules."""
