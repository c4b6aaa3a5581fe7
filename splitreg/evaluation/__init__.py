"""Evaluation: bytes per image and metrics in original pixels, for packets and for image codecs."""

from splitreg.data.image_codecs import compress
from splitreg.evaluation.baselines import evaluate_image_codec
from splitreg.evaluation.packets import EvalOptions, evaluate
from splitreg.evaluation.report import ByteCounts, Report, table

__all__ = ["ByteCounts", "EvalOptions", "Report", "compress", "evaluate", "evaluate_image_codec", "table"]
