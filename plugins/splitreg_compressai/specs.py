"""Specs of the learned bottlenecks and of codec ``compressai``; imports no torch."""

from functools import partial

from splitreg.specs import ComponentSpec

_bottleneck = partial(ComponentSpec, kind="bottleneck", api=1)

FP = _bottleneck(
    name="fp", target="splitreg_compressai.factorized:FactorizedPrior",
    source="Ballé et al. 2018, arXiv:1802.01436; Matsubara et al. 2022, arXiv:2108.11898; 2025, arXiv:2501.01420",
    summary="Learned encoder and decoder with a factorised prior; by default the shape of Ladon.",
)  # fmt: skip
SHP = _bottleneck(
    name="shp", target="splitreg_compressai.hyperprior:ScaleHyperprior",
    source="Ballé et al. 2018, arXiv:1802.01436; Ballé et al. 2019, Integer networks for data compression",
    summary="Like fp, with a scale per element from a side stream, computed in integers.",
)  # fmt: skip
MSHP = _bottleneck(
    name="mshp", target="splitreg_compressai.hyperprior:MeanScaleHyperprior",
    source="Minnen et al. 2018, arXiv:1809.02736; Ballé et al. 2019, Integer networks for data compression",
    summary="Like fp, with a scale and a mean per element from a side stream, computed in integers.",
)  # fmt: skip
COMPRESSAI = ComponentSpec(
    kind="codec", name="compressai", api=1, target="splitreg_compressai.ans:CompressaiCodec",
    source="Bégaint et al. 2020, arXiv:2011.03029; Duda 2013, arXiv:1311.2540",
    summary="compressai's rANS coder, protected against damaged payloads.",
)  # fmt: skip
