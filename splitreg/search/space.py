"""The space of a search: recipe keys with choices or ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitreg.errors import RecipeError
from splitreg.overrides import parse_overrides
from splitreg.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Args:
        low: smallest value.
        high: largest value.
        log: whether equal ratios are equally likely.

    Raises:
        RecipeError: the range is empty, or logarithmic and not above 0.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise RecipeError(
                f"a range needs low < high, and low > 0 if it is logarithmic; got {self.low:g} to {self.high:g}"
            )

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, Range | Sequence[Any]]


def parse_dimension(text: str) -> tuple[str, Range | list[Any]]:
    """Parse ``KEY=LOW..HIGH``, ``KEY=LOW..HIGH:log`` or ``KEY=VALUE,VALUE``.

    >>> parse_dimension("rate_lambda=0.1..3.0:log")
    ('rate_lambda', Range(low=0.1, high=3.0, log=True))
    >>> parse_dimension("bottleneck.channels=8,16")
    ('bottleneck.channels', [8, 16])

    Raises:
        RecipeError: none of these.
    """
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise RecipeError(f"a dimension is KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=VALUE,VALUE; got {text!r}")
    if ".." not in values:
        return key, [parse_overrides([f"x={value}"])["x"] for value in values.split(",")]
    numbers, _, scale = values.partition(":")
    try:
        low, high = (int(n) if n.strip("-").isdigit() else float(n) for n in numbers.split(".."))
    except ValueError as cause:
        raise RecipeError(f"the range of {key} must have two numbers, e.g. 0.1..3:log; got {values!r}") from cause
    if scale not in ("", "log"):
        raise RecipeError(f"a range may end with :log, got {values!r}")
    return key, Range(low=low, high=high, log=bool(scale))


def default_space(recipe: Recipe) -> dict[str, Range | list[Any]]:
    """Return a space for a recipe: its rate, the channels of its bottleneck, and every cut that fits.

    A bottleneck that reads the image replaces the first stages, so that its cut changes the network of
    the server only.
    """
    from splitreg.assembly import plan
    from splitreg.errors import PlanError

    space: dict[str, Range | list[Any]] = {"rate_lambda": Range(low=0.05, high=5.0, log=True)}
    planned = plan(recipe)
    if "channels" in planned.recipe.bottleneck.options:
        space["bottleneck.channels"] = Range(low=4, high=48, log=True)
    cuts = []
    for cut in planned.backbone.meta.stages:
        try:
            plan(one_point(recipe, {"cut": cut}))
        except (PlanError, RecipeError):
            continue  # a head needs a feature before it
        cuts.append(cut)
    if len(cuts) > 1:
        space["cut"] = cuts
    return space


def one_point(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some values.

    Raises:
        RecipeError: no such key, or an invalid value.
    """
    from dataclasses import replace

    ((_, point),) = list(replace(recipe, sweep={key: (value,) for key, value in values.items()}).points())
    return point
