"""Networks for bottlenecks that are trained in torch and run in exact integers."""

from splitreg.networks.context import ContextNetwork, decision_logits, level_of
from splitreg.networks.fixedpoint import FixedConv, bounded, frozen_layers, rounded

__all__ = ["ContextNetwork", "FixedConv", "bounded", "decision_logits", "frozen_layers", "level_of", "rounded"]
