"""Read profiles: TOML files in the package, or of the user."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitreg.errors import BenchError, suggest
from splitreg.files import is_finite
from splitreg.link_emulator import LinkTrace, Profile

_FOLDER = Path(__file__).parent
#: Figures of a device: name -> unit.
DEVICE_FIGURES: Mapping[str, str] = {
    "gmacs_per_s": "10^9 multiply-accumulates per second of a MobileNet in fp32",
    "gmacs_per_s_one_thread": "the same on one CPU thread",
    "active_watts": "power while it computes",
    "idle_watts": "power while it waits",
    "joules_per_gmac": "energy of 10^9 multiply-accumulates, in place of active_watts",
    "memory_bytes": "memory of the device",
}
#: Figures of a link: name -> unit.
LINK_FIGURES: Mapping[str, str] = {
    "up_bps": "bits per second from the device",
    "down_bps": "bits per second to the device",
    "rtt_s": "seconds of a round trip",
    "jitter_s": "mean additional delay per segment, in seconds",
    "loss": "share of lost segments",
    "joules_per_byte_up": "energy per byte sent",
    "joules_per_byte_down": "energy per byte received",
    "active_watts": "power of the radio while it is active",
}
_NEEDED = {"device": ("gmacs_per_s",), "link": ("up_bps", "down_bps", "rtt_s")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a profile.

    Args:
        value: the number, in the unit of its name.
        source: where it comes from.
    """

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """Name, summary and figures.

    Args:
        name: name of the profile.
        summary: one line.
        figures: name -> figure.
        place: the file.
    """

    name: str
    summary: str
    figures: Mapping[str, Figure]
    place: Path

    def get(self, name: str) -> float | None:
        """Return a figure's value; None if the profile does not have it."""
        figure = self.figures.get(name)
        return None if figure is None else figure.value

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name, "summary": self.summary,
            "figures": {name: {"value": f.value, "source": f.source} for name, f in self.figures.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile(_Described):
    """A device: how fast it computes and what that costs.

    Args:
        bundles: bundle digest -> part (``prepare``, ``network``, ``code``, ``local``) -> measured ms,
            from ``splitreg bench calibrate``; empty for devices that were not measured.
    """

    bundles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def gmacs(self, threads: int) -> float:
        """Return 10^9 multiply-accumulates per second with this many threads."""
        one = self.get("gmacs_per_s_one_thread")
        value = one if threads == 1 and one is not None else self.get("gmacs_per_s")
        assert value is not None  # checked when it was read
        return value

    def compute_joules(self, seconds: float, macs: float) -> float | None:
        """Return the estimated energy of a computation; None if the profile has no figure for it."""
        per_gmac, watts = self.get("joules_per_gmac"), self.get("active_watts")
        if per_gmac is not None:
            return per_gmac * macs / 1e9
        return None if watts is None else watts * seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile(_Described):
    """A link between device and server.

    Args:
        up: recording of the way up, in place of ``up_bps``.
        down: recording of the way down.
    """

    up: LinkTrace | None = None
    down: LinkTrace | None = None

    def seconds(self, up_bytes: float, down_bytes: float) -> float:
        """Return the expected seconds of one request and its answer on an open connection.

        Args:
            up_bytes: bytes of the request, headers included.
            down_bytes: bytes of the answer, headers included.
        """
        profile = self.emulated()
        total = self._figure("rtt_s")
        for size, bps, trace in ((up_bytes, profile.up_bps, self.up), (down_bytes, profile.down_bps, self.down)):
            total += size * 8 / bps if trace is None else trace.typical_s(size)
            total += expected_delay_s(size, profile, bps)
        return total

    def joules(self, up_bytes: float, down_bytes: float, seconds: float) -> float | None:
        """Return the estimated energy of the device's radio; None if the profile has no figure for it."""
        up, down = self.get("joules_per_byte_up"), self.get("joules_per_byte_down")
        watts = self.get("active_watts")
        if up is None and down is None and watts is None:
            return None
        return (up or 0.0) * up_bytes + (down or 0.0) * down_bytes + (watts or 0.0) * seconds

    def emulated(self) -> Profile:
        """Return the profile for ``splitreg.link_emulator.Link``, which replays recordings."""
        return Profile(
            up_bps=self.up.bps if self.up else self._figure("up_bps"),
            down_bps=self.down.bps if self.down else self._figure("down_bps"),
            delay_s=self._figure("rtt_s") / 2, jitter_s=self.get("jitter_s") or 0.0, loss=self.get("loss") or 0.0,
            up_trace=self.up, down_trace=self.down,
        )  # fmt: skip

    def _figure(self, name: str) -> float:
        value = self.get(name)
        assert value is not None  # checked when it was read
        return value


def expected_delay_s(size: float, profile: Profile, bps: float) -> float:
    """Return the median delay by jitter and losses of a transfer of ``size`` bytes, beside sending.

    Segments arrive in order, so that the last one waits for the latest. The median is that of the
    maximum of the exponential delays of the segments, with retransmissions if at least half of such
    transfers have one.
    """
    from splitreg.link_emulator import SEGMENT_BYTES

    segments = max(1, math.ceil(size / SEGMENT_BYTES))
    between_s = SEGMENT_BYTES * 8 / bps  # delays of segments far apart do not add to the last one
    late = min(segments, 1 + int(3 * profile.jitter_s / between_s)) if profile.jitter_s else 0
    jitter = -profile.jitter_s * math.log(1 - 0.5 ** (1 / late)) if late else 0.0
    if 1 - (1 - profile.loss) ** segments >= 0.5:
        jitter += max(0.2, 4 * profile.delay_s)
    return jitter


def devices() -> dict[str, Path]:
    """Return name -> file of the device profiles in the package."""
    return {path.stem: path for path in sorted((_FOLDER / "devices").glob("*.toml"))}


def links() -> dict[str, Path]:
    """Return name -> file of the link profiles in the package."""
    return {path.stem: path for path in sorted((_FOLDER / "links").glob("*.toml"))}


def read_device(place: str | Path) -> DeviceProfile:
    """Read a device profile.

    Args:
        place: name of a profile in the package, or a TOML file.

    Raises:
        BenchError: there is none, or it is not valid.
    """
    path, data, figures = _read(place, "device", devices(), DEVICE_FIGURES, ("bundles",))
    bundles = data.get("bundles", {})
    valid = isinstance(bundles, dict) and all(
        isinstance(parts, dict) and all(isinstance(ms, int | float) and ms > 0 for ms in parts.values())
        for parts in bundles.values()
    )
    if not valid:
        raise BenchError(f"{path}: bundles must be tables of times in ms, each above 0, by the digest of a bundle")
    return DeviceProfile(name=path.stem, summary=data["summary"], figures=figures, place=path, bundles=bundles)


def read_link(place: str | Path) -> LinkProfile:
    """Read a link profile.

    Args:
        place: name of a profile in the package, or a TOML file; its ``up_trace`` and ``down_trace``
            are files relative to it.

    Raises:
        BenchError: there is none, it is not valid, or a trace cannot be read.
    """
    path, data, figures = _read(place, "link", links(), LINK_FIGURES, ("up_trace", "down_trace"))
    traces = {key: _trace(path.parent / data[f"{key}_trace"]) for key in ("up", "down") if f"{key}_trace" in data}
    return LinkProfile(name=path.stem, summary=data["summary"], figures=figures, place=path, **traces)


def _trace(path: Path) -> LinkTrace:
    try:
        return LinkTrace.read(path)
    except (OSError, ValueError) as cause:
        raise BenchError(f"cannot read the trace {path}: {cause}") from cause


def _read(
    place: str | Path, kind: str, known: Mapping[str, Path], units: Mapping[str, str], others: tuple[str, ...]
) -> tuple[Path, dict[str, Any], dict[str, Figure]]:
    path = known.get(str(place), Path(place))
    if not path.is_file():
        raise BenchError(
            f"no {kind} profile {str(place)!r}.{suggest(str(place), known)} Available: {', '.join(known)}; or give a TOML file"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise BenchError(f"cannot read the {kind} profile {path}: {cause}") from cause
    if not isinstance(data.get("summary"), str):
        raise BenchError(f"{path}: a profile needs summary, one line of text")
    figures = {name: _figure(path, name, units, value) for name, value in data.get("figures", {}).items()}
    missing = [name for name in _NEEDED[kind] if name not in figures and f"{name.split('_')[0]}_trace" not in data]
    if missing:
        raise BenchError(f"{path}: a {kind} profile needs the figures {', '.join(missing)}")
    for name in data:
        if name not in ("summary", "figures", *others):
            raise BenchError(f"{path}: unknown key {name!r}.{suggest(name, ('summary', 'figures', *others))}")
    return path, data, figures


def _figure(path: Path, name: str, units: Mapping[str, str], value: Any) -> Figure:
    if name not in units:
        raise BenchError(f"{path}: unknown figure {name!r}.{suggest(name, units)} Known: {', '.join(units)}")
    if not isinstance(value, dict) or set(value) != {"value", "source"}:
        raise BenchError(f"{path}: figure {name} must have value ({units[name]}) and source")
    number, source = value["value"], value["source"]
    valid = is_finite(number) and number >= 0
    if not valid or (number == 0 and name not in ("jitter_s", "loss", "rtt_s")):
        raise BenchError(f"{path}: figure {name} must be a number above 0 ({units[name]}), got {number!r}")
    if not isinstance(source, str) or not source.strip():
        raise BenchError(f"{path}: figure {name} must say where it comes from in source")
    return Figure(value=float(number), source=source)
