"""Learned bottlenecks fp, shp and mshp, and codec ``compressai``."""
