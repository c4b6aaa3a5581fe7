"""Conformance suites: tests of what each kind of plugin must do, for plugin authors to inherit.

In a plugin's own tests::

    from splitreg.testing import CodecSuite

    class TestMyCodec(CodecSuite):
        component = "my-codec"
        options = {"level": 1}

pytest collects one test per check. Without pytest, use ``run("codec", "my-codec")`` or
``splitreg check codec:my-codec``.
"""

from typing import TYPE_CHECKING

from splitreg.lazy import lazy_exports

if TYPE_CHECKING:
    from splitreg.testing.backbone import BackboneSuite
    from splitreg.testing.bottleneck import BottleneckSuite
    from splitreg.testing.codec import CodecSuite
    from splitreg.testing.dataset import DatasetSuite
    from splitreg.testing.head import HeadSuite
    from splitreg.testing.objective import ObjectiveSuite
    from splitreg.testing.runner import CheckResult, run
    from splitreg.testing.suite import Suite
    from splitreg.testing.target import TargetSuite

__all__ = [
    "BackboneSuite", "BottleneckSuite", "CheckResult", "CodecSuite", "DatasetSuite", "HeadSuite", "ObjectiveSuite",
    "Suite", "TargetSuite", "run",
]  # fmt: skip

__getattr__, __dir__ = lazy_exports(__name__, {
    "BackboneSuite": "splitreg.testing.backbone", "BottleneckSuite": "splitreg.testing.bottleneck",
    "CheckResult": "splitreg.testing.runner", "CodecSuite": "splitreg.testing.codec",
    "DatasetSuite": "splitreg.testing.dataset", "HeadSuite": "splitreg.testing.head",
    "ObjectiveSuite": "splitreg.testing.objective", "Suite": "splitreg.testing.suite",
    "TargetSuite": "splitreg.testing.target", "run": "splitreg.testing.runner",
})  # fmt: skip
