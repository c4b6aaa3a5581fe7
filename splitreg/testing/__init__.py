"""The conformance suites: what every plugin of a kind must do, as tests that anybody can inherit.

In a plugin's own tests::

    from splitreg.testing import CodecSuite

    class TestMyCodec(CodecSuite):
        component = "my-codec"
        options = {"level": 1}

pytest finds one test a check. Without pytest: ``run("codec", "my-codec")``, or ``splitreg check codec:my-codec``.
"""

from splitreg.testing.backbone import BackboneSuite
from splitreg.testing.bottleneck import BottleneckSuite
from splitreg.testing.codec import CodecSuite
from splitreg.testing.dataset import DatasetSuite
from splitreg.testing.head import HeadSuite
from splitreg.testing.objective import ObjectiveSuite
from splitreg.testing.runner import Result, run
from splitreg.testing.suite import Suite

__all__ = [
    "BackboneSuite",
    "BottleneckSuite",
    "CodecSuite",
    "DatasetSuite",
    "HeadSuite",
    "ObjectiveSuite",
    "Result",
    "Suite",
    "run",
]
