import json

import numpy as np
import pytest
from support.training_toys import REGISTRY, ToyDataset, toy_recipe

from splitreg.assembly import build
from splitreg.coding import Packet
from splitreg.errors import BundleError, DataError, RecipeError
from splitreg.evaluation import ByteCounts, EvalOptions, compress, evaluate, evaluate_image_codec, table
from splitreg.evaluation.packets import spread


@pytest.fixture(scope="module")
def model():
    made = build(toy_recipe(), registry=REGISTRY)
    made.freeze_tables()
    return made


VAL = ToyDataset(None, "val", count=11)


def test_bytes_are_those_of_the_packets_and_metrics_those_of_their_predictions(model):
    report = evaluate(model, VAL, EvalOptions(dataset="toy val", batch_size=4))
    packets = [model.edge.encode(VAL[i].array())[0] for i in range(11)]
    sizes = np.array([len(packet) for packet in packets])
    assert report.bytes.mean == pytest.approx(sizes.mean()) and report.bytes.largest == sizes.max()
    assert report.bytes.p50 == np.median(sizes) and report.bytes.header == Packet.parse(packets[0]).header_bytes == 20
    assert report.bytes.bits_per_pixel == pytest.approx(sizes.mean() * 8 / 32 / 32)
    pixels = sum(VAL[i].array().shape[0] * VAL[i].array().shape[1] for i in range(11))
    assert report.bytes.bits_per_original_pixel == pytest.approx(sizes.sum() * 8 / pixels)
    right = [model.server.infer(p)[0]["colour"].index == i % 3 for i, p in enumerate(packets)]
    assert report.metrics["colour"]["top1"] == pytest.approx(np.mean(right))
    assert report.images == 11 and report.labelled == {"colour": 11, "size": 6}


def test_another_edge_half_may_write_the_packets(model):
    class Blind:
        def encode(self, images):
            return model.edge.encode([np.zeros_like(image) for image in images])

    mine, theirs = evaluate(model, VAL), evaluate(model, VAL, edge=Blind(), sent="black packet")
    assert theirs.sent == "black packet" and theirs.images == mine.images
    assert theirs.metrics["colour"]["top1"] == pytest.approx(4 / 11), "one class for all: every third image has it"


def test_the_report_is_json_and_a_table(model):
    report = evaluate(model, VAL, EvalOptions(heads=("colour",), dataset="toy val", limit=5))
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["images"] == 5 and plain["seed"] == 3 and plain["hardware"] and plain["versions"]["torch"]
    assert set(plain["metrics"]) == {"colour"}
    assert all(fact in str(report) for fact in ("5 images", "toy val", "packet", "colour", "header 20"))


def test_a_baseline_runs_the_same_network_on_compressed_pictures(model):
    reports = [evaluate_image_codec(model, VAL, codec, 90) for codec in ("png", "jpeg", "webp")]
    assert reports[0].metrics["colour"] == evaluate(model, VAL).metrics["colour"], "png changes no pixel"
    assert all(report.bytes.header == 0 for report in reports)
    assert evaluate_image_codec(model, VAL, "jpeg", 5).bytes.mean < reports[1].bytes.mean
    lines = table(reports).splitlines()
    assert len(lines) == 4 and "colour top1" in lines[0] and lines[-1].startswith("png")


def test_the_unsplit_network_is_there_only_where_the_bottleneck_reads_the_feature(model):
    with pytest.raises(RecipeError, match="bottleneck"):
        evaluate_image_codec(model, VAL, "png", split=False)
    inside = build(toy_recipe(bottleneck={"name": "toy", "from": "feature"}), registry=REGISTRY)
    one, other = (evaluate_image_codec(inside, VAL, "png", split=split) for split in (False, True))
    assert one.bytes == other.bytes and one.labelled == other.labelled


def test_the_rate_of_a_codec_is_its_file():
    image = VAL[0].array()
    lossless, size = compress(image, "png")
    assert (lossless == image).all() and 100 < size < image.size + 1000
    lossy, small = compress(image, "jpeg", 10)
    assert lossy.shape == image.shape and (lossy != image).any() and small < size


def test_what_cannot_be_measured_is_refused_or_left_out(model):
    with pytest.raises(RecipeError, match="'color'.*'colour'"):
        evaluate(model, VAL, EvalOptions(heads=("color",)))
    with pytest.raises(RecipeError, match="'jpg'.*'jpeg'"):
        evaluate_image_codec(model, VAL, "jpg")
    with pytest.raises(RecipeError, match="1 to 100"):
        evaluate_image_codec(model, VAL, "jpeg", 0)
    with pytest.raises(DataError, match="no image"):
        evaluate(model, VAL, EvalOptions(limit=0))
    with pytest.raises(BundleError, match="tables"):
        evaluate(build(toy_recipe(), registry=REGISTRY), VAL)
    unlabelled = evaluate(model, ToyDataset(None, "val", count=2), EvalOptions(heads=("size",)))
    assert unlabelled.labelled == {"size": 1}


def test_a_limit_is_spread_over_the_whole_set():
    assert spread(10, 4) == [0, 2, 5, 7] and spread(3, 9) == [0, 1, 2] and spread(3, None) == [0, 1, 2]


def test_percentiles():
    counts = ByteCounts.of([100, 200, 300, 400, 1000], [20] * 5, 100, 500)
    assert (counts.mean, counts.p50, counts.p95, counts.header) == (400, 300, pytest.approx(880), 20)
    assert counts.bits_per_pixel == 32 and counts.bits_per_original_pixel == 32
