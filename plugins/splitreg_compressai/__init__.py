"""Learned bottlenecks and the entropy coder of compressai: fp, shp, mshp; compressai."""
