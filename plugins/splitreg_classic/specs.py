"""What this package offers; no torch here."""

from splitreg.specs import ComponentSpec

QUANTISE = ComponentSpec(
    kind="bottleneck", name="quantise", api=1, target="splitreg_classic.quantise:Quantise",
    summary="The feature itself, quantised to a few bits over a calibrated range.",
    source="Choi & Bajic 2018, arXiv:1802.03931; Alvar & Bajic 2019, arXiv:1902.05179",
)  # fmt: skip

RAW_BOTTLENECK = ComponentSpec(
    kind="bottleneck", name="raw", api=1, target="splitreg_classic.quantise:RawFeature",
    summary="The feature itself, float32 as it is: nothing is lost and little is saved.",
    source="Capogrosso et al. 2024, arXiv:2407.05982",
)  # fmt: skip

ZSTD = ComponentSpec(
    kind="codec", name="zstd", api=1, target="splitreg_classic.packed:Zstd",
    summary="General-purpose compression of packed symbols; needs no tables.", source="RFC 8878",
)  # fmt: skip

RAW_CODEC = ComponentSpec(
    kind="codec", name="raw", api=1, target="splitreg_classic.packed:RawCodec",
    summary="Symbols as fixed-width integers, no compression.",
)  # fmt: skip

PNG = ComponentSpec(
    kind="codec", name="png", api=1, target="splitreg_classic.pictures:Png",
    summary="Channels tiled into one grey PNG, 8 or 16 bits, lossless.", source="Alvar & Bajic 2019, arXiv:1902.05179",
)  # fmt: skip

JPEG = ComponentSpec(
    kind="codec", name="jpeg", api=1, target="splitreg_classic.pictures:Jpeg",
    summary="Channels tiled into one grey JPEG; lossy.", source="Alvar & Bajic 2019, arXiv:1902.05179",
)  # fmt: skip

WEBP = ComponentSpec(
    kind="codec", name="webp", api=1, target="splitreg_classic.pictures:Webp",
    summary="Channels tiled into one grey WebP, lossless unless a quality is given.", source="RFC 9649",
)  # fmt: skip
