"""What this package offers; no torch here."""

from splitreg.specs import ComponentSpec

FP = ComponentSpec(
    kind="bottleneck", name="fp", api=1, target="splitreg_compressai.factorized:FactorizedPrior",
    summary="Learned encoder and decoder with a factorised prior; Ladon's shape by default.",
    source="Ballé et al. 2018, arXiv:1802.01436; Matsubara et al. 2022, arXiv:2108.11898; 2025, arXiv:2501.01420",
)  # fmt: skip

SHP = ComponentSpec(
    kind="bottleneck", name="shp", api=1, target="splitreg_compressai.hyperprior:ScaleHyperprior",
    summary="As fp, with a scale for every element from a side stream, by integer networks.",
    source="Ballé et al. 2018, arXiv:1802.01436; Ballé et al. 2019, Integer networks for data compression",
)  # fmt: skip

MSHP = ComponentSpec(
    kind="bottleneck", name="mshp", api=1, target="splitreg_compressai.hyperprior:MeanScaleHyperprior",
    summary="As fp, with a scale and a mean for every element from a side stream, by integer networks.",
    source="Minnen et al. 2018, arXiv:1809.02736; Ballé et al. 2019, Integer networks for data compression",
)  # fmt: skip

COMPRESSAI = ComponentSpec(
    kind="codec", name="compressai", api=1, target="splitreg_compressai.ans:CompressaiCodec",
    summary="compressai's rANS coder, guarded against damaged payloads.",
    source="Bégaint et al. 2020, arXiv:2011.03029; Duda 2013, arXiv:1311.2540",
)  # fmt: skip
