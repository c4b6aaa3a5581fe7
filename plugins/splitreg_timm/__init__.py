"""Backbones from timm."""
