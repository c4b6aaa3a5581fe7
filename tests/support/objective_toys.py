import torch

from splitreg.interfaces import StepContext
from splitreg.registry import discover


def objective(name, heads=("cls", "seg"), **options):
    registry = discover()
    return registry.load(registry.spec("objective", name))(heads, **options)


def context(losses=None, **given):
    return StepContext(
        **{
            "losses": losses or {}, "rate": torch.zeros(2), "images": torch.zeros(2, 3, 8, 8), "features": {}, "teacher": None,
            "progress": 0.0, **given,
        }
    )  # fmt: skip
