"""Learned bottlenecks and the entropy coder of compressai: fp; compressai."""
