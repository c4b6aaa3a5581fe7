"""Specs of the bottlenecks and codecs without learning; imports no torch."""

from functools import partial

from splitreg.specs import ComponentSpec

_bottleneck = partial(ComponentSpec, kind="bottleneck", api=1)
_codec = partial(ComponentSpec, kind="codec", api=1)

QUANTISE = _bottleneck(
    name="quantise", target="splitreg_classic.quantise:Quantise",
    source="Choi & Bajic 2018, arXiv:1802.03931; Alvar & Bajic 2019, arXiv:1902.05179",
    summary="The feature itself, quantised to a few bits over a calibrated range.",
)  # fmt: skip
RAW_BOTTLENECK = _bottleneck(
    name="raw", target="splitreg_classic.quantise:RawFeature", source="Capogrosso et al. 2024, arXiv:2407.05982",
    summary="The feature itself in float32: lossless, not compressed.",
)  # fmt: skip
ZSTD = _codec(
    name="zstd", target="splitreg_classic.packed:Zstd", source="RFC 8878",
    summary="General-purpose compression of packed symbols; needs no tables.",
)  # fmt: skip
RAW_CODEC = _codec(
    name="raw", target="splitreg_classic.packed:RawCodec",
    summary="Symbols as fixed-width integers, without compression.",
)  # fmt: skip
PNG = _codec(
    name="png", target="splitreg_classic.images:Png", source="Alvar & Bajic 2019, arXiv:1902.05179",
    summary="Channels tiled into one grey PNG of 8 or 16 bits; lossless.",
)  # fmt: skip
JPEG = _codec(
    name="jpeg", target="splitreg_classic.images:Jpeg", source="Alvar & Bajic 2019, arXiv:1902.05179",
    summary="Channels tiled into one grey JPEG; lossy.",
)  # fmt: skip
WEBP = _codec(
    name="webp", target="splitreg_classic.images:Webp", source="RFC 9649",
    summary="Channels tiled into one grey WebP; lossless unless a quality is given.",
)  # fmt: skip
