"""Bundles, the files of a published model: a typed config, hashed files, integer tables; no torch.

``docs/bundle.md`` describes the format. ``splitreg.bundle.tables`` needs numpy and is not imported
here.
"""

from splitreg.bundle.bundle import Bundle, hash_folder
from splitreg.bundle.config import BundleConfig, CodecEntry, GraphEntry, HeadEntry, PreprocessEntry
from splitreg.bundle.writing import check_free, is_bundle, new_folder, write_config

__all__ = [
    "Bundle", "BundleConfig", "CodecEntry", "GraphEntry", "HeadEntry", "PreprocessEntry", "check_free", "hash_folder",
    "is_bundle", "new_folder", "write_config",
]  # fmt: skip
