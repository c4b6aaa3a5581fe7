"""Specs of the learned bottlenecks and of codec ``compressai``; imports no torch."""

from splitreg.specs import specs_of

_bottleneck = specs_of("bottleneck", "splitreg_compressai", api=1)
_codec = specs_of("codec", "splitreg_compressai", api=1)

FP = _bottleneck("fp", "factorized:FactorizedPrior",
    "Learned encoder and decoder with a factorised prior; by default the shape of Ladon.",
    "Ballé et al. 2018, arXiv:1802.01436; Matsubara et al. 2022, arXiv:2108.11898; 2025, arXiv:2501.01420")  # fmt: skip
SHP = _bottleneck("shp", "hyperprior:ScaleHyperprior",
    "Like fp, with a scale per element from a side stream, computed in integers.",
    "Ballé et al. 2018, arXiv:1802.01436; Ballé et al. 2019, Integer networks for data compression")  # fmt: skip
MSHP = _bottleneck("mshp", "hyperprior:MeanScaleHyperprior",
    "Like fp, with a scale and a mean per element from a side stream, computed in integers.",
    "Minnen et al. 2018, arXiv:1809.02736; Ballé et al. 2019, Integer networks for data compression")  # fmt: skip
COMPRESSAI = _codec("compressai", "ans:CompressaiCodec",
    "compressai's rANS coder, protected against damaged payloads.",
    "Bégaint et al. 2020, arXiv:2011.03029; Duda 2013, arXiv:1311.2540")  # fmt: skip
