import pytest
import torch
from support.objective_toys import context, objective

from splitreg.errors import MissingExtra, RecipeError


class Net:
    """A shared linear map and a private one for each head; ``ways`` are the heads' gradients for the shared part."""

    def __init__(self, *ways):
        self.shared = torch.zeros(2, requires_grad=True)
        self.own = [torch.ones(2, requires_grad=True) for _ in ways]
        self.ways = [torch.tensor(way) for way in ways]

    def grads(self, images=((0, 1), (0, 1)), **options):
        """The shared gradient, and what the heads' own weights get; head i sees the images ``images[i]``."""
        body = self.shared * torch.ones(2, 1)  # (images, 2)
        features = {8: body.view_as(body)}
        losses = {
            head: {"a": ((features[8][list(rows)].mean(0) + 1) * own * way).sum()}
            for head, rows, own, way in zip(("cls", "seg"), images, self.own, self.ways, strict=True)
        }
        surgery = objective("surgery", **options)
        terms = surgery(context(losses, features=features, shared=[self.shared]))
        sum(terms.values()).backward()
        self.terms = {name: term.item() for name, term in terms.items()}
        return self.shared.grad, [own.grad for own in self.own]


def test_conflicting_gradients_are_projected_off_each_other():
    net = Net((1.0, 0.0), (-1.0, 1.0))
    shared, own = net.grads(method="pcgrad")
    # g1 off g2: (1, 0) + (-1, 1) / 2; g2 off g1: (0, 1)
    assert shared.tolist() == pytest.approx([0.5, 1.5])
    assert own[0].tolist() == [1.0, 0.0] and own[1].tolist() == [-1.0, 1.0], "own weights get their own gradient"
    assert net.terms["shared"] == 0 and net.terms["cls"] == 1 and net.terms["seg"] == 0, "the losses stay what they are"


def test_gradients_that_agree_are_added():
    shared, _ = Net((1.0, 0.0), (1.0, 2.0)).grads(method="pcgrad")
    assert shared.tolist() == pytest.approx([2.0, 2.0])


def test_no_head_gets_worse_however_long_its_rivals_gradient_is():
    for method in ("mgda", "imtl-g", "pcgrad"):
        net = Net((1e-3, 0.0), (-50.0, 50.0))
        shared, _ = net.grads(method=method)
        assert float(shared @ net.ways[0]) >= -1e-6, method
    plain = Net((1e-3, 0.0), (-50.0, 50.0))
    assert float((plain.ways[0] + plain.ways[1]) @ plain.ways[0]) < -1e-3


def test_mgda_is_the_shortest_convex_combination_times_the_heads():
    shared, _ = Net((1.0, 0.0), (-1.0, 1.0)).grads(method="mgda")
    assert shared.tolist() == pytest.approx([2 * 0.2, 2 * 0.4], abs=0.02)  # 3/5 g1 + 2/5 g2


def test_heads_of_different_images_conflict_in_the_weights_and_not_in_the_features():
    images = ((0,), (1,))
    shared, _ = Net((1.0, 0.0), (-1.0, 1.0)).grads(images, by="weights")
    assert shared.tolist() == pytest.approx([0.5, 1.5])
    shared, _ = Net((1.0, 0.0), (-1.0, 1.0)).grads(images, by="features")
    assert shared.tolist() == pytest.approx([0.0, 1.0])
    shared, _ = Net((1.0, 0.0), (-1.0, 1.0)).grads(by="features")
    assert shared.tolist() == pytest.approx([0.5, 1.5])


def test_one_head_or_nothing_shared_is_the_plain_sum():
    net = Net((1.0, 0.0), (-1.0, 1.0))
    feature = net.shared * 1
    losses = {"cls": {"a": (feature * net.ways[0]).sum(), "b": torch.tensor(1.0)}}
    terms = objective("surgery")(context(losses, features={8: feature}, shared=[net.shared]))
    assert {name: term.item() for name, term in terms.items()} == {"cls": 1.0}
    losses = {head: {"a": own.sum()} for head, own in zip(("cls", "seg"), net.own, strict=True)}
    assert set(objective("surgery")(context(losses, features={8: torch.zeros(2, 2)}))) == {"cls", "seg"}


def test_a_gradient_that_is_not_finite_is_left_to_the_loop():
    net = Net((1.0, 0.0), (float("inf"), 1.0))
    net.grads()
    assert "shared" not in net.terms


def test_options_are_checked(monkeypatch):
    with pytest.raises(RecipeError, match="'pcgrad'"):
        objective("surgery", method="pcgrd")
    with pytest.raises(RecipeError, match="weights.*features"):
        objective("surgery", by="latent")
    from torchjd import aggregation

    def missing():
        raise ImportError("quadprog")

    monkeypatch.setattr(aggregation, "UPGradWeighting", missing)
    with pytest.raises(MissingExtra, match="quadprog_projector"):
        objective("surgery", method="upgrad")
