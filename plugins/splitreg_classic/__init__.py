"""Bottlenecks and codecs that need no learning: quantise, raw; zstd, raw, png, jpeg, webp."""
