"""Plans: what a device computes and sends, with predicted times and energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from splitreg.errors import BenchError
from splitreg.profiles import DeviceProfile, LinkProfile

#: Kinds of plans: everything on the device, an image to the whole network, a packet to its server half.
LOCAL, OFFLOAD, SPLIT = "local", "offload", "split"
#: Bytes of HTTP headers and of the answer's own frame, measured with ``splitreg.edge.Client``.
REQUEST_OVERHEAD_BYTES, ANSWER_OVERHEAD_BYTES = 420, 300
#: Runtimes of the edge half in the order of preference if none is named.
_RUNTIMES = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Predicted costs of one image.

    Args:
        device_ms: time of the device's computation.
        link_ms: time of request and answer on the link.
        server_ms: time of the server.
        up_bytes: bytes of the request, headers included.
        down_bytes: bytes of the answer, headers included.
        compute_joules: energy of the device's computation; None: the profile has no figure for it.
        radio_joules: energy of the device's radio; None: the profile has no figure for it.
        wait_joules: energy of the device while it waits for the answer; None as above.
    """

    device_ms: float
    link_ms: float
    server_ms: float
    up_bytes: float
    down_bytes: float
    compute_joules: float | None
    radio_joules: float | None
    wait_joules: float | None

    @property
    def total_ms(self) -> float:
        """Time from pixels to predictions."""
        return self.device_ms + self.link_ms + self.server_ms

    @property
    def joules(self) -> float | None:
        """Energy of the device per image; None if a part of it has no figure."""
        parts = (self.compute_joules, self.radio_joules, self.wait_joules)
        return None if any(part is None for part in parts) else sum(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """One way to get predictions.

    Args:
        kind: ``"local"``, ``"offload"`` or ``"split"``.
        series: series of the benchmark.
        label: point of the series.
        sent: bundle, rate, codec and quality, see ``Point.sent``.
        metrics: head -> its primary metric.
        lower_is_better: heads whose metric is an error.
        costs: predicted costs.
        problems: why the plan is not feasible; empty if it is.
    """

    kind: str
    series: str
    label: str
    sent: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float | None]]
    costs: Costs
    problems: tuple[str, ...] = ()

    def metric(self, head: str, name: str) -> float | None:
        """Return a metric of a head; None if it was not measured."""
        return self.metrics.get(head, {}).get(name)

    def use(self) -> str:
        """Return the command that uses the plan."""
        bundle = self.sent["place"]
        if self.kind == SPLIT:
            rate = "" if self.sent["rate"] is None else f" --rate {self.sent['rate']:g}"
            return f"splitreg send {bundle} IMAGE --to URL{rate}"
        if self.kind == LOCAL:
            return f"splitreg predict {bundle} IMAGE"
        quality = f" of quality {self.sent['quality']}" if self.sent["quality"] else ""
        return f"send {self.sent['how']} files{quality} to a server that runs: splitreg predict {bundle} IMAGE"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        plain = {key: value for key, value in asdict(self).items() if key != "costs"}
        costs = {**asdict(self.costs), "total_ms": self.costs.total_ms, "joules": self.costs.joules}
        return {**plain, "costs": costs, "use": self.use()}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSetting:
    """Where the plans run.

    Args:
        speed: times of ``splitreg bench --times``.
        device: the device; None: the machine of the benchmark.
        link: the link.
        threads: CPU threads of the device.
        runtime: of the edge half; None: the first that was measured of onnxruntime, OpenVINO, torch.
        server_speed: how many times as fast as the benchmark's machine the server is.
        service_ms: time of the service beside the network.
        clock: ``"wall"``, or ``"cpu"``: processor times, which other programs on the machine of the
            benchmark disturb less, but which leave out accelerators and count all threads.
    """

    speed: Mapping[str, Any]
    device: DeviceProfile | None
    link: LinkProfile
    threads: int = 1
    runtime: str | None = None
    server_speed: float = 1.0
    service_ms: float = 0.0
    clock: str = "wall"

    def ms(self, timing: Mapping[str, float]) -> float:
        """Return the milliseconds of a time of the benchmark by the chosen clock."""
        return timing["cpu_ms" if self.clock == "cpu" else "ms"]


def plans(result: Mapping[str, Any], setting: DeploymentSetting) -> Iterator[DeploymentPlan]:
    """Yield a plan for every point of a benchmark; that of the whole network on the device once per bundle.

    Args:
        result: of ``splitreg bench --times``, see ``bench.compare.read_result``.
        setting: device, link and so on.

    Raises:
        BenchError: the result has no times, or none of a bundle or codec.
    """
    for series, points in result["series"].items():
        for point in points:
            sent = point["sent"]
            kind = {"packet": SPLIT, "local": LOCAL}.get(sent["how"], OFFLOAD)
            yield DeploymentPlan(
                kind=kind, series=series, label=point["label"], sent=sent, metrics=point["metrics"],
                costs=_costs(kind, point, setting),
            )  # fmt: skip


def _costs(kind: str, point: Mapping[str, Any], setting: DeploymentSetting) -> Costs:
    sent, device = point["sent"], setting.device
    bundle = _measured(setting.speed["bundles"], sent["bundle"], "bundle")
    server_ms, up = 0.0, 0.0
    if kind == SPLIT:
        device_ms, macs = _split_ms(bundle, setting)
        server_ms, up = setting.ms(bundle["server"]["infer"]), point["bytes"]
    elif kind == LOCAL:
        device_ms, macs = _local_ms(bundle, setting), _macs(bundle)
    else:
        codec = f"{sent['how']}:{sent['quality']}" if sent["quality"] else sent["how"]
        times = _measured(setting.speed["codecs"], codec, "image codec")
        device_ms, macs = setting.ms(times["encode"]) * _scale(bundle, setting), 0.0
        server_ms, up = setting.ms(times["decode"]) + setting.ms(bundle["local"]), point["bytes"]
    link_s, down = 0.0, 0.0
    if up:
        server_ms += setting.ms(bundle["server"]["write"])
        up, down = up + REQUEST_OVERHEAD_BYTES, bundle["bytes"]["answer"] + ANSWER_OVERHEAD_BYTES
        link_s = setting.link.seconds(up, down)
        server_ms = server_ms / setting.server_speed + setting.service_ms
    idle = None if device is None else device.get("idle_watts")
    waiting_s = link_s + server_ms / 1000
    return Costs(
        device_ms=device_ms, link_ms=1000 * link_s, server_ms=server_ms, up_bytes=up, down_bytes=down,
        compute_joules=None if device is None else device.compute_joules(device_ms / 1000, macs),
        radio_joules=setting.link.joules(up, down, link_s) if up else 0.0,
        wait_joules=0.0 if not up else None if idle is None else idle * waiting_s,
    )  # fmt: skip


def _split_ms(bundle: Mapping[str, Any], setting: DeploymentSetting) -> tuple[float, float]:
    """Return milliseconds of the edge half on the device, and its multiply-accumulates."""
    runtimes, edge = bundle["edge"]["runtimes"], bundle["edge"]
    runtime = setting.runtime or next((name for name in _RUNTIMES if name in runtimes), _RUNTIMES[0])
    times = _measured(runtimes, runtime, "runtime")
    macs = bundle["costs"]["edge"]["macs"]
    device = setting.device
    if device is None:
        return setting.ms(times["encode"]), macs
    known = device.bundles.get(bundle["digest"], {})
    if "encode" in known:
        return known["encode"], macs
    others = setting.ms(edge["prepare"]) + setting.ms(edge["code"])
    return macs / device.gmacs(setting.threads) / 1e6 + others * _scale(bundle, setting), macs


def _local_ms(bundle: Mapping[str, Any], setting: DeploymentSetting) -> float:
    device = setting.device
    if device is None:
        return setting.ms(bundle["local"])
    known = device.bundles.get(bundle["digest"], {})
    if "local" in known:
        return float(known["local"])
    prepare = setting.ms(bundle["edge"]["prepare"]) * _scale(bundle, setting)
    return float(prepare + _macs(bundle) / device.gmacs(setting.threads) / 1e6)


def _scale(bundle: Mapping[str, Any], setting: DeploymentSetting) -> float:
    """Return how many times as long as here the device takes for code that is no network.

    With measured times of the bundle it is the ratio of both times to prepare an image, otherwise that
    of the multiply-accumulates per second on one thread.
    """
    device, edge = setting.device, bundle["edge"]
    if device is None:
        return 1.0
    known = device.bundles.get(bundle["digest"], {})
    if "prepare" in known:
        return float(known["prepare"] / setting.ms(edge["prepare"]))
    fastest = min(setting.ms(times["network"]) for times in edge["runtimes"].values())
    return float(bundle["costs"]["edge"]["macs"] / fastest / 1e6 / device.gmacs(1))


def _macs(bundle: Mapping[str, Any]) -> float:
    return float(sum(cost["macs"] for part, cost in bundle["costs"].items() if part != "unsplit"))


def _measured(times: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in times:
        raise BenchError(
            f"the result has no times of the {kind} {name!r}; it has {', '.join(times) or 'none'}; measure it with: "
            "splitreg bench ... --times"
        )
    return times[name]
