"""Run a suite without pytest."""

from __future__ import annotations

import time
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

SUITES: Mapping[str, type[Suite]] = {
    suite.kind: suite for suite in (BackboneSuite, BottleneckSuite, CodecSuite, HeadSuite, DatasetSuite, ObjectiveSuite)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Outcome of one check.

    Args:
        name: what was checked.
        passed: whether it holds; a check that does not apply passes.
        reason: why it does not hold, or why it was skipped; empty otherwise.
        seconds: time it took.
    """

    name: str
    passed: bool
    reason: str
    seconds: float


def run(
    kind: str,
    name: str,
    *,
    registry: Registry | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[CheckResult]:
    """Run the conformance suite of a kind on a plugin.

    Args:
        kind: kind of plugin.
        name: its name, or a family's member.
        registry: where to find it; what is installed by default.
        options: options for its constructor; for a dataset also ``root`` and ``split``.

    Raises:
        RegistryError: no such kind or plugin, or it cannot be loaded.
    """
    if kind not in SUITES:
        raise RegistryError(f"no kind of plugin named {kind!r}.{suggest(kind, SUITES)} There are: {', '.join(SUITES)}")
    registry = registry or discover()
    suite = SUITES[kind]
    chosen = type(
        suite.__name__, (suite,), {"component": name, "options": dict(options or {}), "registry": registry}
    )  # fmt: skip
    chosen().load()
    checks = [key for base in reversed(chosen.__mro__) for key in vars(base) if key.startswith("test_")]
    return [_checked(chosen(), check) for check in dict.fromkeys(checks)]


def _checked(suite: Suite, check: str) -> CheckResult:
    start, passed, reason = time.perf_counter(), True, ""
    try:
        getattr(suite, check)()
    except SkipTest as skipped:
        reason = f"skipped: {skipped}"
    except AssertionError as failure:
        passed, reason = False, str(failure) or "assertion failed"
    except Exception as error:
        passed, reason = False, f"{type(error).__name__}: {error}"
    lines = reason.splitlines()
    name = check.removeprefix("test_").replace("_", " ")
    return CheckResult(name=name, passed=passed, reason=lines[0] if lines else "", seconds=time.perf_counter() - start)
