"""``choose``: the best plan for a device, a link and requirements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splitreg.bench.chart import Trace, chart
from splitreg.bench.compare import damaged_result, read_result
from splitreg.choosing.plans import LOCAL, OFFLOAD, SPLIT, DeploymentPlan, DeploymentSetting, plans
from splitreg.errors import BenchError, RecipeError
from splitreg.parsing import check_name
from splitreg.profiles import DeviceProfile, Figure, LinkProfile, read_device, read_link

#: Name of the machine that the benchmark ran on, in place of a device profile.
HERE = "here"
#: What the best of the feasible plans is best in.
PREFERENCES = ("time", "energy", "bytes", "accuracy")
#: Time of the service beside the network: an assumption, for HTTP and the way to the worker.
SERVICE_MS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseOptions:
    """Requirements.

    Args:
        budget_ms: longest time from pixels to predictions.
        budget_joules: largest energy of the device per image.
        minimum: ``"head.metric"`` -> smallest value; of an error, its largest.
        prefer: one of ``PREFERENCES``.
        threads: CPU threads of the device.
        runtime: of the edge half; None: the first that was measured.
        server_speed: how many times as fast as the benchmark's machine the server is.
        service_ms: time of the service beside the network.
        clock: ``"wall"`` or ``"cpu"``, see ``DeploymentSetting``.
    """

    budget_ms: float | None = None
    budget_joules: float | None = None
    minimum: Mapping[str, float] = field(default_factory=dict)
    prefer: str = "time"
    threads: int = 1
    runtime: str | None = None
    server_speed: float = 1.0
    service_ms: float = SERVICE_MS
    clock: str = "wall"

    def __post_init__(self) -> None:
        check_name(self.prefer, PREFERENCES, "preference")
        check_name(self.clock, ("wall", "cpu"), "clock")
        if not self.server_speed > 0:
            raise RecipeError(f"server_speed must be above 0, got {self.server_speed}")
        for key, bound in self.minimum.items():
            if math.isnan(bound):
                raise RecipeError(f"the bound of {key} is NaN, which no value is below")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """Bandwidth at which two plans take the same time, with the delays of the link.

    Args:
        faster_below: label of the plan that is faster with less bandwidth.
        faster_above: label of the plan that is faster with more.
        up_bps: bits per second from the device; that to the device changes in proportion.
    """

    faster_below: str
    faster_above: str
    up_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """All plans, and the best one.

    Args:
        device: name of the device.
        link: the link.
        plans: all plans, the best first; those that are not feasible last.
        crossovers: of the fastest plan of each kind that meets the metrics.
        setting: device, link and times that the predictions rest on.
    """

    device: str
    link: LinkProfile
    plans: tuple[DeploymentPlan, ...]
    crossovers: tuple[Crossover, ...]
    setting: DeploymentSetting

    @property
    def best(self) -> DeploymentPlan | None:
        """The best feasible plan; None if there is none."""
        return None if self.plans[0].problems else self.plans[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the figures of both profiles and their sources."""
        device = self.setting.device
        return {
            "device": {"name": self.device} if device is None else device.to_json(), "link": self.link.to_json(),
            "best": None if self.best is None else self.best.to_json(),
            "plans": [plan.to_json() for plan in self.plans],
            "crossovers": [
                {"faster_below": c.faster_below, "faster_above": c.faster_above, "up_bps": c.up_bps}
                for c in self.crossovers
            ],
        }  # fmt: skip

    def svg(self) -> str:
        """Draw time against bandwidth, one line for the fastest plan of each kind."""
        bps = self.link.emulated().up_bps
        traces = []
        for plan in _fastest(self.plans).values():
            points = [
                (bps * 10 ** (step / 4), _at(self.link, plan, 10 ** (step / 4)), plan.label) for step in range(-8, 9)
            ]
            traces.append(Trace(name=f"{plan.kind}: {plan.label}", points=points))
        return chart(
            f"{self.device}, {self.link.name}", "ms from pixels to predictions", traces,
            "bit/s up", log_y=True,
        )  # fmt: skip


def choose(
    result: str | Path | Mapping[str, Any],
    *,
    device: str | Path | DeviceProfile = HERE,
    link: str | Path | LinkProfile,
    options: ChooseOptions | None = None,
) -> Choice:
    """Predict time and energy of every measured point on a device and link, and choose the best.

    Args:
        result: ``bench.json`` of ``splitreg bench --times``, its folder, or its content.
        device: name or file of a device profile; ``"here"``: the machine of the benchmark.
        link: name or file of a link profile.
        options: requirements.

    Raises:
        BenchError: the result has no times, a profile is not valid, or a required metric was not measured.
        RecipeError: an invalid option.
    """
    options = options or ChooseOptions()
    data = result if isinstance(result, Mapping) else read_result(result)
    if "speed" not in data:
        raise BenchError("the result has no times; measure them with: splitreg bench ... --times")
    profile = _device(device)
    link_profile = link if isinstance(link, LinkProfile) else read_link(link)
    setting = DeploymentSetting(
        speed=data["speed"], device=profile, link=link_profile, threads=options.threads, runtime=options.runtime,
        server_speed=options.server_speed, service_ms=options.service_ms,
        clock=options.clock,
    )  # fmt: skip
    with damaged_result("the result"):
        if profile is None and options.threads not in (1, data["speed"].get("threads", options.threads)):
            raise RecipeError(
                f"the benchmark ran with {data['speed']['threads']} threads, so that times of {options.threads} are not known; "
                "measure with --threads, or name a device"
            )
        errors = _errors(data)
        rows = [replace(plan, problems=tuple(_problems(plan, options, errors))) for plan in plans(data, setting)]
        rows.sort(key=lambda plan: (bool(plan.problems), *_order(plan, options, errors)))
        for plan in rows:
            plan.use()  # fails here, not when it is printed
    if not rows:
        raise BenchError("the result has no point; measure again")
    met = [plan for plan in rows if not any("." in problem.split(" ")[0] for problem in plan.problems)]
    return Choice(
        device=HERE if profile is None else profile.name, link=link_profile, plans=tuple(rows),
        crossovers=tuple(_crossovers(link_profile, list(_fastest(met or rows).values()))), setting=setting,
    )  # fmt: skip


def _device(device: str | Path | DeviceProfile) -> DeviceProfile | None:
    if isinstance(device, DeviceProfile):
        return device
    return None if str(device) == HERE else read_device(device)


def _errors(result: Mapping[str, Any]) -> dict[str, bool]:
    """Return ``head.metric`` -> whether lower is better, of the primary metrics."""
    return {
        f"{head}.{primary['metric']}": primary["lower_is_better"]
        for points in result["series"].values() for point in points for head, primary in point["primary"].items()
    }  # fmt: skip


def _problems(plan: DeploymentPlan, options: ChooseOptions, errors: Mapping[str, bool]) -> list[str]:
    """Return which requirements a plan misses."""
    problems, joules = [], plan.costs.joules
    if options.budget_ms is not None and plan.costs.total_ms > options.budget_ms:
        problems.append(f"takes {plan.costs.total_ms:,.0f} ms, the budget is {options.budget_ms:g}")
    if options.budget_joules is not None and joules is None:
        problems.append("energy unknown: the profiles of device and link lack figures for it")
    elif options.budget_joules is not None and joules is not None and joules > options.budget_joules:
        problems.append(f"takes {joules:.3g} J, the budget is {options.budget_joules:g}")
    for key, bound in options.minimum.items():
        head, _, name = key.partition(".")
        value = plan.metric(head, name)
        if value is None:
            known = [f"{h}.{n}" for h, metrics in plan.metrics.items() for n in metrics]
            raise BenchError(f"{key} was not measured for {plan.label}; measured: {', '.join(known)}")
        if value > bound if errors.get(key, False) else value < bound:
            problems.append(f"{key} is {value:.4f}, required {bound:g}")
    return problems


def _order(plan: DeploymentPlan, options: ChooseOptions, errors: Mapping[str, bool]) -> tuple[float, ...]:
    """Return the sorting key of the preference, with time to break ties."""
    costs = plan.costs
    if options.prefer == "energy":
        return (float("inf") if costs.joules is None else costs.joules, costs.total_ms)
    if options.prefer == "bytes":
        return (costs.up_bytes, costs.total_ms)
    if options.prefer == "accuracy":
        values = [
            (-value if lower else value)
            for key, lower in errors.items()
            if (value := plan.metric(*key.split(".", 1))) is not None
        ]
        return (-sum(values), costs.total_ms)
    return (costs.total_ms,)


def _fastest(rows: Sequence[DeploymentPlan]) -> dict[str, DeploymentPlan]:
    """Return kind -> its fastest plan."""
    ordered = sorted(rows, key=lambda plan: plan.costs.total_ms, reverse=True)
    fastest = {plan.kind: plan for plan in ordered}
    return {kind: fastest[kind] for kind in (LOCAL, OFFLOAD, SPLIT) if kind in fastest}


def _at(link: LinkProfile, plan: DeploymentPlan, factor: float) -> float:
    """Return milliseconds of a plan if the link had this many times its bandwidth."""
    costs = plan.costs
    if not costs.up_bytes:
        return costs.total_ms
    return costs.device_ms + costs.server_ms + 1000 * faster(link, factor).seconds(costs.up_bytes, costs.down_bytes)


def faster(link: LinkProfile, factor: float) -> LinkProfile:
    """Return a link with this many times the bandwidth and the same delays; a recording becomes its mean."""
    profile = link.emulated()
    rates = {"up_bps": profile.up_bps * factor, "down_bps": profile.down_bps * factor}
    figures = {**link.figures, **{name: Figure(value=value, source="scaled") for name, value in rates.items()}}
    return replace(link, figures=figures, up=None, down=None)


def _crossovers(link: LinkProfile, rows: Sequence[DeploymentPlan]) -> list[Crossover]:
    """Return where the order of two plans changes, by bisection over nine decades of bandwidth."""
    result = []
    bps = link.emulated().up_bps
    for one, other in itertools.combinations(rows, 2):

        def difference(power: float, one: DeploymentPlan = one, other: DeploymentPlan = other) -> float:
            return _at(link, one, 10**power) - _at(link, other, 10**power)

        low, high = -4.5, 4.5
        at_low, at_high = difference(low), difference(high)
        if at_low == 0 or at_low * at_high >= 0:
            continue
        for _ in range(50):
            middle = (low + high) / 2
            if difference(middle) * at_low > 0:
                low = middle
            else:
                high = middle
        below, above = (one, other) if at_low < 0 else (other, one)
        result.append(Crossover(faster_below=below.label, faster_above=above.label, up_bps=bps * 10**high))
    return result
