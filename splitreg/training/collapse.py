"""Training that went wrong without an error: no rate left, or a head that does not look at its image. Said in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from splitreg.interfaces import Head
from splitreg.tasks import Prediction, Target
from splitreg.training.validation import score

#: An image in fewer bits than this says nothing of itself.
FEW_BITS = 16.0
#: With fewer images than this, chance cannot be told from skill.
FEW_IMAGES = 16


def rate_collapse(bits: float, rate_lambda: float) -> str | None:
    """Return a warning where the rate term has won over the heads.

    Args:
        bits: mean bits an image in validation.
        rate_lambda: weight of the rate; without one, a small rate is no collapse.
    """
    if rate_lambda <= 0 or bits >= FEW_BITS:
        return None
    return (
        f"the rate has collapsed: {bits:.1f} bits an image, so the heads learn nothing from it; "
        f"lower rate_lambda (now {rate_lambda:g}) or raise rate_warmup"
    )


def head_collapse(name: str, head: Head, predictions: Sequence[Prediction], targets: Sequence[Target]) -> str | None:
    """Return a warning where a head is no better than chance.

    Chance is what the same predictions score when each is held against the target of another image, half the set away
    (half, because files often lie sorted by class). A head that has collapsed to one answer scores the same both ways.

    Args:
        name: of the head.
        head: gives the metric.
        predictions: of some images, spread over the validation set.
        targets: theirs, in the same pixels.
    """
    count = len(targets)
    if count < FEW_IMAGES or not head.primary:
        return None
    half = count // 2
    own = score(head.metric(), head.primary, predictions, targets)
    other = score(head.metric(), head.primary, [*predictions[half:], *predictions[:half]], targets)
    if not (math.isfinite(own) and math.isfinite(other)):
        return None
    # 0.5 / sqrt(n) is the largest standard error that a share of n images can have
    gain = other - own if head.lower_is_better else own - other
    if gain > min(0.5 / math.sqrt(count), 0.5 * abs(other) + 1e-3):
        return None
    return (
        f"head {name!r} is at chance: {head.primary} {own:.3g} on {count} validation images, and {other:.3g} when its "
        "answers are swapped between images; train longer, raise its weight in the objective, or lower rate_lambda"
    )
