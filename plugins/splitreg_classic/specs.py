"""Specs of the bottlenecks and codecs without learning; imports no torch."""

from splitreg.specs import specs_of

_bottleneck = specs_of("bottleneck", "splitreg_classic", api=1)
_codec = specs_of("codec", "splitreg_classic", api=1)

QUANTISE = _bottleneck("quantise", "quantise:Quantise",
    "The feature itself, quantised to a few bits over a calibrated range.",
    "Choi & Bajic 2018, arXiv:1802.03931; Alvar & Bajic 2019, arXiv:1902.05179")  # fmt: skip
RAW_BOTTLENECK = _bottleneck("raw", "quantise:RawFeature",
    "The feature itself in float32: lossless, not compressed.",
    "Capogrosso et al. 2024, arXiv:2407.05982")  # fmt: skip
CALIBRATED = _bottleneck("calibrated", "calibrated:Calibrated",
    "The feature of a finished model, rotated and quantised after a look at some images; no training.",
    "Goyal 2001, doi:10.1109/79.952802")  # fmt: skip
ZSTD = _codec("zstd", "packed:Zstd",
    "General-purpose compression of packed symbols; needs no tables.",
    "RFC 8878")  # fmt: skip
RAW_CODEC = _codec("raw", "packed:RawCodec",
    "Symbols as fixed-width integers, without compression.",
    "")  # fmt: skip
PNG = _codec("png", "images:Png",
    "Channels tiled into one grey PNG of 8 or 16 bits; lossless.",
    "Alvar & Bajic 2019, arXiv:1902.05179")  # fmt: skip
JPEG = _codec("jpeg", "images:Jpeg",
    "Channels tiled into one grey JPEG; lossy.",
    "Alvar & Bajic 2019, arXiv:1902.05179")  # fmt: skip
WEBP = _codec("webp", "images:Webp",
    "Channels tiled into one grey WebP; lossless unless a quality is given.",
    "RFC 9649")  # fmt: skip
