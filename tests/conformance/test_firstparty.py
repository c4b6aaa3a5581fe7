"""The shipped suites, on every first-party plugin."""

import pytest

from splitreg.registry import discover
from splitreg.specs import FeatureSpec
from splitreg.testing import BackboneSuite, BottleneckSuite, CodecSuite, DatasetSuite, HeadSuite, ObjectiveSuite


class TestRans(CodecSuite):
    component = "rans"


class TestRansWithoutAdaptation(CodecSuite):
    component = "rans"
    options = {"adapt": False}


class TestRansInNumpy(CodecSuite):
    component = "rans"
    options = {"kernel": "numpy"}


class TestCompressai(CodecSuite):
    component = "compressai"


class TestZstd(CodecSuite):
    component = "zstd"
    options = {"level": 3}


class TestRawCodec(CodecSuite):
    component = "raw"


class TestPng(CodecSuite):
    component = "png"
    options = {"level": 1}


class TestJpeg(CodecSuite):
    component = "jpeg"


class TestWebp(CodecSuite):
    component = "webp"
    options = {"effort": 0}


class TestLossyWebp(CodecSuite):
    component = "webp"
    options = {"effort": 0, "quality": 80}


class TestFactorizedPrior(BottleneckSuite):
    component = "fp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8}


class TestLightFactorizedPrior(BottleneckSuite):
    component = "fp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8, "encoder": "light"}


class TestFactorizedPriorOnFeatures(BottleneckSuite):
    component = "fp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8}
    source = FeatureSpec(channels=12, stride=4)


class TestVariableFactorizedPrior(BottleneckSuite):
    component = "fp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8, "rates": 5}


class TestVariableHyperprior(BottleneckSuite):
    component = "mshp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8, "hyper_channels": 3, "hyper_hidden": 8, "rates": 3}


class TestScaleHyperprior(BottleneckSuite):
    component = "shp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8, "hyper_channels": 3, "hyper_hidden": 8}


class TestMeanScaleHyperprior(BottleneckSuite):
    component = "mshp"
    options = {
        "channels": 4,
        "hidden": 8,
        "decoder_hidden": 8,
        "hyper_channels": 3,
        "hyper_hidden": 8,
        "encoder": "light",
    }


class TestMeanScaleHyperpriorOnFeatures(BottleneckSuite):
    component = "mshp"
    options = {"channels": 4, "hidden": 8, "decoder_hidden": 8, "hyper_channels": 3, "hyper_hidden": 8}
    source = FeatureSpec(channels=12, stride=4)


class TestQuantise(BottleneckSuite):
    component = "quantise"
    options = {"bits": 6}


class TestQuantiseByChannel(BottleneckSuite):
    component = "quantise"
    options = {"bits": 12, "per_channel": True, "percentile": 99.0, "surrogate": "ste"}


class TestRawBottleneck(BottleneckSuite):
    component = "raw"


class TestResNet(BackboneSuite):
    component = "resnet18"


class TestMobileNet(BackboneSuite):
    component = "timm:mobilenetv3_small_050"


class TestCls(HeadSuite):
    component = "cls"


class TestMultiLabel(HeadSuite):
    component = "multilabel"


class TestDet(HeadSuite):
    component = "det"
    options = {"width": 16}


class TestSeg(HeadSuite):
    component = "seg"
    options = {"width": 16}


class TestDepth(HeadSuite):
    component = "depth"
    options = {"width": 16}


class TestRecon(HeadSuite):
    component = "recon"


class TestFasterRCNN(HeadSuite):
    component = "det-fasterrcnn"
    options = {"width": 16, "hidden": 32, "proposals": 50}


class TestDeepLab(HeadSuite):
    component = "seg-deeplabv3"


class TestSum(ObjectiveSuite):
    component = "sum"


class TestDistill(ObjectiveSuite):
    component = "distill"
    options = {"logits": {"cls": 0.5, "seg": 0.5}, "temperature": 2.0}


class TestUncertainty(ObjectiveSuite):
    component = "uncertainty"


class TestCompressibility(ObjectiveSuite):
    component = "compressibility"


class TestTiledCompressibility(ObjectiveSuite):
    component = "compressibility"
    options = {"tiled": True}


class TestSurgery(ObjectiveSuite):
    component = "surgery"


class TestSurgeryOnFeatures(ObjectiveSuite):
    component = "surgery"
    options = {"method": "mgda", "by": "features"}


class TestScenes(DatasetSuite):
    component = "scenes"
    options = {"size": 32, "count": 6}

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path))


def test_every_first_party_plugin_is_checked():
    # The datasets that need files have their fixtures, and this suite, beside their own tests.
    elsewhere = {"dataset:shapes3d", "dataset:coco", "dataset:voc", "dataset:camvid", "dataset:folder"}
    suites = [made for made in globals().values() if isinstance(made, type) and getattr(made, "component", "")]
    checked = {f"{made.kind}:{made().found()[0].name}" for made in suites}
    registry = discover()
    firstparty = {f"{k}:{e.name}" for k, names in registry.items() for e in names.values() if e.package == "splitreg"}
    assert firstparty - elsewhere <= checked
