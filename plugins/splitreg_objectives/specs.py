"""Specs of the objectives; imports no torch."""

from splitreg.specs import specs_of

_objective = specs_of("objective", "splitreg_objectives", api=1)

SUM = _objective("sum", "sum:Sum",
    "Weighted sum of the heads' losses.",
    "Capogrosso et al. 2024 (MTL-Split), arXiv:2407.05982")  # fmt: skip
DISTILL = _objective("distill", "distill:Distill",
    "Trains on a teacher's features and logits.",
    "Matsubara et al. 2022 (Entropic Student), arXiv:2108.11898; Hinton et al. 2015, arXiv:1503.02531")  # fmt: skip
UNCERTAINTY = _objective("uncertainty", "uncertainty:Uncertainty",
    "Weights the heads by learned uncertainties.",
    "Kendall et al. 2018, arXiv:1705.07115")  # fmt: skip
COMPRESSIBILITY = _objective("compressibility", "compressibility:Compressibility",
    "Keeps the latent's residual in an image codec small.",
    "Alvar & Bajic 2019, arXiv:1902.05179")  # fmt: skip
CODE_LENGTH = _objective("code-length", "codelength:CodeLength",
    "Keeps the bytes small that PNG and JPEG spend on the latent's 8-bit image.",
    "Ballé et al. 2017, arXiv:1611.01704; RFC 2083; ITU-T T.81")  # fmt: skip
INVERSION = _objective("inversion", "inversion:Inversion",
    "Keeps small what a linear attacker sees of the image in the latent.",
    "Xiao et al. 2020, arXiv:1911.10143, with an adversary in closed form")  # fmt: skip
SURGERY = _objective("surgery", "surgery:Surgery",
    "Combines the heads' gradients so that they do not conflict (PCGrad, MGDA, ...).",
    "Yu et al. 2020 (PCGrad), arXiv:2001.06782; torchjd, arXiv:2406.16232")  # fmt: skip
