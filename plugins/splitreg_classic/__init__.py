"""Bottlenecks and codecs without learning: quantise, raw; zstd, raw, png, jpeg, webp."""
