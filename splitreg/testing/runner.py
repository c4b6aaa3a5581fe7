"""Run a conformance suite without pytest."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

from splitreg.errors import RegistryError, suggest
from splitreg.registry import Registry, discover
from splitreg.testing.backbone import BackboneSuite
from splitreg.testing.bottleneck import BottleneckSuite
from splitreg.testing.codec import CodecSuite
from splitreg.testing.dataset import DatasetSuite
from splitreg.testing.head import HeadSuite
from splitreg.testing.objective import ObjectiveSuite
from splitreg.testing.suite import Suite
from splitreg.testing.target import TargetSuite

SUITES: Mapping[str, type[Suite]] = {
    suite.kind: suite
    for suite in (
        BackboneSuite,
        BottleneckSuite,
        CodecSuite,
        HeadSuite,
        DatasetSuite,
        ObjectiveSuite,
        TargetSuite,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Result of one check.

    Args:
        name: name of the check.
        passed: whether it passed or was skipped.
        reason: why it failed or was skipped, and where in the plugin's code; for one that passed, a
            remark; else empty.
        seconds: duration.
        traceback: of the failure; else empty.
    """

    name: str
    passed: bool
    reason: str
    seconds: float
    traceback: str = ""


def run(
    kind: str,
    name: str,
    *,
    registry: Registry | None = None,
    options: Mapping[str, Any] | None = None,
    root: str | None = None,
) -> list[CheckResult]:
    """Run the conformance suite of a plugin.

    Args:
        kind: kind of plugin.
        name: name of the plugin, or of a family's member.
        registry: the installed plugins, by default.
        options: options of the constructor; for a dataset also ``root`` and ``split``.
        root: folder of the dataset; for a head with a new task, of a dataset that has its targets.

    Raises:
        RegistryError: there is no such kind or plugin, or it cannot be loaded.
    """
    if kind not in SUITES:
        raise RegistryError(f"no kind of plugin named {kind!r}.{suggest(kind, SUITES)} There are: {', '.join(SUITES)}")
    registry = registry or discover()
    suite = SUITES[kind]
    attributes = {"component": name, "options": dict(options or {}), "registry": registry}
    if root is not None and hasattr(suite, "root"):
        attributes["root"] = root
    concrete: type[Suite] = type(suite.__name__, (suite,), attributes)
    concrete().load()
    checks = [key for base in reversed(concrete.__mro__) for key in vars(base) if key.startswith("test_")]
    return [_run_check(concrete(), check, registry) for check in dict.fromkeys(checks)]


def _run_check(suite: Suite, check: str, registry: Registry) -> CheckResult:
    start, passed, reason, trace = time.perf_counter(), True, "", ""
    try:
        getattr(suite, check)()
        reason = "; ".join(suite.remarks)
    except SkipTest as skipped:
        reason = f"skipped: {skipped}".splitlines()[0]
    except AssertionError as failure:
        passed, trace = False, "".join(traceback.format_exception(failure))
        reason = _located(str(failure) or "assertion failed", failure, registry)
    except Exception as error:
        passed, trace = False, "".join(traceback.format_exception(error))
        reason = _located(f"{type(error).__name__}: {error}", error, registry)
    name, seconds = check.removeprefix("test_").replace("_", " "), time.perf_counter() - start
    return CheckResult(name=name, passed=passed, reason=reason, seconds=seconds, traceback=trace)


def _located(reason: str, error: Exception, registry: Registry) -> str:
    """Return the first line of a reason, and the place in the plugin's code from which the error came."""
    origin = registry.origin(error)
    lines = reason.splitlines() or [type(error).__name__]
    return lines[0] if origin is None else f"{lines[0]} ({origin})"
