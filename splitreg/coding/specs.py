"""The spec of codec ``rans``; imports no numpy."""

from __future__ import annotations

from splitreg.specs import ComponentSpec

RANS = ComponentSpec(
    kind="codec", name="rans", api=1, target="splitreg.coding.rans:RansCodec",
    summary="Interleaved rANS over frozen tables that adapt to the image; needs tables.",
    source="Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392",
)  # fmt: skip
