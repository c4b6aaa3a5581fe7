"""Evaluation: real packets, bytes an image, metrics in original pixels, and image codecs as baselines."""

from splitreg.data.compressed import compress
from splitreg.evaluation.baselines import evaluate_image_codec
from splitreg.evaluation.packets import evaluate
from splitreg.evaluation.report import ByteCounts, Report, table

__all__ = ["ByteCounts", "Report", "compress", "evaluate", "evaluate_image_codec", "table"]
