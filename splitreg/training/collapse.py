"""Detects training that failed without an error: no rate left, or a head that ignores its image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from splitreg.interfaces import Head
from splitreg.predictions import IGNORE, Detections, Segmentation
from splitreg.tasks import MaskTarget, Prediction, Target
from splitreg.training.validation import score

#: An image in fewer bits than this carries no information.
MIN_BITS = 16.0
#: A stage in which the rate falls by less than to this part of it is said to change nothing.
MAX_IDLE = 0.98
#: Share of unknown pixels from which on it is said.
MAX_UNKNOWN = 0.5
#: With fewer images than this, chance cannot be told from skill.
MIN_IMAGES = 8


def rate_collapse(bits: float, rate_lambda: float) -> str | None:
    """Return a warning if the rate term has driven the rate to zero.

    Args:
        bits: mean bits per image in validation.
        rate_lambda: weight of the rate; without one, a small rate is no collapse.
    """
    if rate_lambda <= 0 or bits >= MIN_BITS:
        return None
    return (
        f"the rate has collapsed to {bits:.1f} bits per image: the heads get no information from the image; "
        f"lower rate_lambda (now {rate_lambda:g}) or raise rate_warmup"
    )


def rate_idle(first: float, last: float, rate_lambda: float) -> str | None:
    """Return a warning if a stage with a rate term has not made the packets smaller.

    Args:
        first: mean bits per image in its first epoch.
        last: in its last one.
        rate_lambda: weight of the rate.
    """
    if rate_lambda <= 0 or last < first * MAX_IDLE:
        return None
    return (
        f"rate_lambda = {rate_lambda:g} makes no difference to the bytes: {first / 8:,.0f} bytes per image in the first "
        f"epoch, {last / 8:,.0f} in the last; raise it for smaller packets, train longer, or let the encoder learn"
    )


def unknown_pixels(name: str, targets: Sequence[Target]) -> str | None:
    """Return a warning if most pixels of the masks that a head is measured on are unknown."""
    masks = [target.mask for target in targets if isinstance(target, MaskTarget)]
    share = sum(float((mask == IGNORE).float().mean()) for mask in masks) / max(1, len(masks))
    if share <= MAX_UNKNOWN:
        return None
    return (
        f"{share:.0%} of the pixels for head {name!r} are unknown: neither the loss nor the metric counts them; objects "
        'without outlines are unknown, and for outlines alone set semantic = "instances"'
    )


def head_collapse(name: str, head: Head, predictions: Sequence[Prediction], targets: Sequence[Target]) -> str | None:
    """Return a warning if a head is no better than chance.

    Chance is the score of the same predictions against the targets of other images, half the set away (files
    are often sorted by class). A head with one constant output has the same score both ways.

    Args:
        name: name of the head.
        head: gives the metric.
        predictions: predictions for some images, spread over the validation set.
        targets: their targets, in the same pixels.
    """
    count = len(targets)
    if count < MIN_IMAGES or not head.primary:
        return None
    half = count // 2
    own = score(head.metric(), head.primary, predictions, targets)
    chance = score(head.metric(), head.primary, [*predictions[half:], *predictions[:half]], targets)
    if not (math.isfinite(own) and math.isfinite(chance)):
        return None
    # 0.5 / sqrt(n) is the largest possible standard error of a share of n images
    gain = chance - own if head.lower_is_better else own - chance
    if gain > min(0.5 / math.sqrt(count), 0.5 * abs(chance) + 1e-3):
        return None
    return (
        f"head {name!r} is at chance: {head.primary} is {own:.3g} on {count} validation images, and {chance:.3g} with "
        "predictions swapped between images; train longer, raise its weight in the objective, or lower rate_lambda"
    )


def constant_output(name: str, predictions: Sequence[Prediction], targets: Sequence[Target]) -> str | None:
    """Return a warning if a head gives one class to all pixels, or finds no object in any image.

    Args:
        name: name of the head.
        predictions: predictions for some images, spread over the validation set.
        targets: their targets.
    """
    masks = [p for p in predictions if isinstance(p, Segmentation)]
    objects = [p for p in predictions if isinstance(p, Detections)]
    if masks and len(masks) == len(predictions):
        classes = {index for mask in masks for index in mask.shares()}
        known = {int(i) for t in targets if isinstance(t, MaskTarget) for i in t.mask.unique()} - {IGNORE}
        if len(classes) == 1 and len(known) > 1:
            label = masks[0].names[classes.pop()]
            return (
                f"head {name!r} predicts {label!r} for every pixel of {len(masks)} validation images, which show "
                f"{len(known)} classes; train longer, start from pretrained weights, or set dice = 1.0 in the head if it "
                "has none"
            )
    if objects and len(objects) == len(predictions):
        threshold = objects[0].threshold
        if not any((p.scores >= threshold).any() for p in objects):
            best = max((float(p.scores.max()) for p in objects if len(p.scores)), default=0.0)
            return (
                f"head {name!r} finds no object with a score of {threshold:g} or more in {len(objects)} validation images; "
                f"the best score is {best:.2f}; train longer, or start from pretrained weights"
            )
    return None
