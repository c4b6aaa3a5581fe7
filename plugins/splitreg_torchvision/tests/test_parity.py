"""Split models with bottleneck ``raw`` against torchvision's own models, with random weights."""

import numpy as np
import pytest
import torch
from torchvision import models

import splitreg
from splitreg.errors import BundleError, PlanError, RecipeError

pytestmark = pytest.mark.integration

#: Height and width; the deepest map has odd sides, so torchvision's guess of the last stride is not a power of two.
SIZE = (96, 160)
DETECTORS = ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"]
CLASSES = 4


def picture():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def stir(model):
    """Give statistics and scores that differ from the initial ones."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if name.endswith("running_mean"):
                value.add_(0.05 * torch.randn_like(value))
            elif name.endswith("running_var"):
                value.mul_(1 + 0.2 * torch.rand_like(value))
        if hasattr(model, "rpn"):  # boxes of every size, so that every level is read
            model.rpn.head.bbox_pred.weight.mul_(10)
            model.roi_heads.box_predictor.cls_score.weight.mul_(3)
    return model.eval()


def detector(name, **options):
    sizes = {"min_size": min(SIZE), "max_size": max(SIZE), "box_score_thresh": 0.05}
    torch.manual_seed(3)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES + 1, **{**sizes, **options})
    return stir(model)


def save(model, folder):
    torch.save(model.state_dict(), folder / "model.pth")
    return str(folder / "model.pth")


def answer(model):
    """Torchvision's result for the picture."""
    image = torch.from_numpy(picture()).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        return model([image])[0]


def normalised(model):
    """The picture as torchvision's model sees it."""
    image = torch.from_numpy(picture()).permute(2, 0, 1).float() / 255
    images, _ = model.transform([image])
    assert images.tensors.shape[-2:] == SIZE
    return images.tensors


def split(head, weights, cut="layer1", **backbone):
    return splitreg.build(
        backbone={"name": "tv_resnet50", "pretrained": weights, **backbone}, cut=cut, bottleneck="raw",
        heads=[{"labels": CLASSES, "pretrained": weights, **head}], input={"size": list(SIZE), "mode": "resize"},
    )  # fmt: skip


def predict(model, image):
    """The prediction of the only head for a normalised image; random weights magnify the rounding of pixels."""
    model.eval()
    with torch.no_grad():
        features = model.body(model.bottleneck.synthesise(model.bottleneck.analyse(model.prefix(image))))
        (branch,) = model.branches.values()
        (prediction,) = branch.head.predict(branch(features, SIZE))
    return prediction


def sent(model):
    """The prediction of the only head, through a packet."""
    model.eval().freeze_tables()
    (predictions,) = model.server.infer(model.edge.encode(picture()))
    (prediction,) = predictions.values()
    return prediction


def same(own, theirs):
    np.testing.assert_allclose(own, theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_are_those_of_torchvision(name, tmp_path):
    model = detector(name)
    expected = answer(model)
    assert len(expected["boxes"]) > 5
    own = predict(split({"name": "det-fasterrcnn", "like": name}, save(model, tmp_path)), normalised(model))
    same(own.boxes, expected["boxes"])
    same(own.scores, expected["scores"])
    assert own.labels.tolist() == (expected["labels"] - 1).tolist()


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_masks_of_objects_are_those_of_torchvision(name, tmp_path):
    model = detector(name, box_detections_per_img=20)
    expected = answer(model)
    own = predict(split({"name": "inst-maskrcnn", "like": name, "most": 20}, save(model, tmp_path)), normalised(model))
    same(own.boxes, expected["boxes"])
    pasted = np.stack([own.probabilities(index) for index in range(len(own.scores))])
    same(pasted, expected["masks"][:, 0])
    assert pasted.max() > 0.4


def test_keypoints_are_those_of_torchvision(tmp_path):
    model = detector("keypointrcnn_resnet50_fpn", num_keypoints=17, box_detections_per_img=10)
    expected = answer(model)
    head = {"name": "pose-keypointrcnn", "like": "keypointrcnn_resnet50_fpn", "most": 10}
    own = predict(split(head, save(model, tmp_path)), normalised(model))
    same(own.boxes, expected["boxes"])
    same(own.keypoints, expected["keypoints"][..., :2])
    same(own.keypoint_scores, expected["keypoints_scores"])


@pytest.mark.parametrize("frozen", [False, True])
def test_epsilon_and_frozen_statistics_are_options(frozen, tmp_path):
    """Torchvision's first weights on COCO are used with frozen statistics and an epsilon of 0."""
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.faster_rcnn import FasterRCNN
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(4)
    layer = FrozenBatchNorm2d if frozen else torch.nn.BatchNorm2d
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=layer)
    model = stir(FasterRCNN(body, CLASSES + 1, min_size=min(SIZE), max_size=max(SIZE)))
    if frozen:
        overwrite_eps(model, 0.0)
    expected, weights = answer(model), save(model, tmp_path)
    head = {"name": "det-fasterrcnn", "like": "fasterrcnn_resnet50_fpn"}
    options = {"frozen_norm": True, "norm_eps": 0.0} if frozen else {}
    same(predict(split(head, weights, **options), normalised(model)).boxes, expected["boxes"])


@pytest.mark.parametrize(
    ("name", "backbone", "cut"),
    [
        ("deeplabv3_resnet50", "tv_resnet50", "layer2"),
        ("deeplabv3_mobilenet_v3_large", "tv_mobilenet_v3_large", "6"),
    ],
)
@pytest.mark.parametrize("auxiliary", [False, True])
def test_masks_are_those_of_torchvision(name, backbone, cut, auxiliary, tmp_path):
    torch.manual_seed(5)
    model = stir(models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=auxiliary))
    with torch.no_grad():
        model.classifier[-1].weight.mul_(10)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = ((torch.from_numpy(picture()).float() / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():  # every class wins somewhere
        model.classifier[-1].bias.sub_(model(image)["out"][0].mean((1, 2)))
        expected = model(image)["out"][0]
    weights = save(model, tmp_path)
    own = splitreg.build(
        backbone={"name": backbone, "dilated": True, "pretrained": weights}, cut=cut, bottleneck="raw",
        heads=[{"name": "seg-deeplabv3", "labels": CLASSES, "pretrained": weights}],
        input={"size": list(SIZE), "mode": "resize"},
    ).eval()  # fmt: skip
    with torch.no_grad():
        (branch,) = own.branches.values()
        features = own.body(own.bottleneck.synthesise(own.bottleneck.analyse(own.prefix(image))))
        logits = branch(features, SIZE).logits.full()[0]
    same(logits.numpy(), expected)
    assert predict(own, image).mask.tolist() == expected.argmax(0).tolist()
    assert (sent(own).mask == expected.argmax(0).numpy()).mean() > 0.999
    assert len(expected.argmax(0).unique()) > 1


def test_classes_of_coco_are_found_by_name(tmp_path):
    model = models.get_model("fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None)
    weights = save(model, tmp_path)
    heads = [{"name": "det-fasterrcnn", "like": "fasterrcnn_resnet50_fpn", "pretrained": weights}]
    own = splitreg.build(backbone="tv_resnet50", cut="layer1", bottleneck="raw", heads=heads)
    names = own.heads["det-fasterrcnn"].labels if isinstance(own.heads, dict) else own.plan.heads[0].labels
    assert len(names) == 80
    (branch,) = own.branches.values()
    rows = branch.head.regions.box_predictor.cls_score.weight
    wanted = model.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(rows[1 + names.index("person")], wanted[1])
    assert torch.equal(rows[1 + names.index("toothbrush")], wanted[90])
    sides = branch.head.regions.box_predictor.bbox_pred.bias.reshape(81, 4)
    assert torch.equal(sides[-1], model.roi_heads.box_predictor.bbox_pred.bias.reshape(91, 4)[90])


def test_weights_of_another_model_are_one_error(tmp_path):
    weights = save(models.resnet18(weights=None), tmp_path)
    with pytest.raises(BundleError, match="detector"):
        splitreg.build(
            backbone="tv_resnet18", bottleneck="raw",
            heads=[{"name": "det-fasterrcnn", "like": "fasterrcnn_resnet50_fpn", "pretrained": weights}],
        )  # fmt: skip
    with pytest.raises(BundleError, match="tv_resnet50"):
        splitreg.build(backbone={"name": "tv_resnet50", "pretrained": weights}, bottleneck="raw", heads=["cls"])
    with pytest.raises((PlanError, RecipeError), match="set like"):
        splitreg.build(
            backbone="tv_resnet50", bottleneck="raw", heads=[{"name": "det-fasterrcnn", "pretrained": weights}]
        )
    with pytest.raises((PlanError, RecipeError), match="fasterrcnn_resnet50_fpn'"):
        splitreg.build(
            backbone="tv_resnet50",
            bottleneck="raw",
            heads=[{"name": "det-fasterrcnn", "like": "fasterrcnn_resnet50_fpm"}],
        )
