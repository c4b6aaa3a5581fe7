import pytest
import torch

from splitreg.errors import RecipeError
from splitreg.training.optimizers import optimizer, optimizer_options
from splitreg.training.schedules import ramp, schedule


@pytest.mark.parametrize("steps", [10, 97])
def test_one_cycle_is_torchs(steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=1.0, total_steps=steps, cycle_momentum=False)
    ours = schedule("one-cycle", {}, steps=steps, per_epoch=5)
    for step in range(steps):
        assert ours(step) == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        theirs.step()
        if step < steps - 1:
            cycle.step()


def test_values_by_hand():
    at = lambda name, step, **options: schedule(name, options, steps=100, per_epoch=10)(step)  # noqa: E731
    assert [at("multistep", s, milestones=[5, 8]) for s in (0, 49, 50, 79, 80)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert at("poly", 50) == pytest.approx(0.5**0.9)
    assert [at("cosine", s, floor=0.2) for s in (0, 50)] == pytest.approx([1, 0.6])
    assert [at("constant", s, warmup=2) for s in (0, 9, 19, 20)] == pytest.approx([0.05, 0.5, 1, 1])


def test_one_step_runs_are_no_special_case():
    for name in ("constant", "one-cycle", "cosine", "multistep", "poly"):
        assert 0 < schedule(name, {}, steps=1, per_epoch=1)(0) <= 1


def test_the_rate_term_rises_linearly_from_zero():
    assert [ramp(0.4, 2, epoch) for epoch in (0, 0.5, 1, 2, 7)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert ramp(0.4, 0, 0) == 0.4


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda: schedule("cosin", {}, steps=1, per_epoch=1), "'cosin'.*'cosine'"),
        (lambda: schedule("cosine", {"flor": 0}, steps=1, per_epoch=1), "'flor'.*'floor'"),
        (lambda: optimizer("adamm", {}, []), "'adamm'.*'adam"),
        (lambda: optimizer("sgd", {"momentun": 0.9}, []), "'momentun'.*'momentum'"),
        (lambda: optimizer("adam", {"lr": -1.0}, [torch.nn.Parameter(torch.zeros(1))]), "'adam'.*-1.0"),
    ],
)
def test_misspelt_options_fail_with_near_names(call, facts):
    with pytest.raises(RecipeError, match=facts):
        call()


@pytest.mark.parametrize("name", ["cosine", "tanh", "step", "multistep", "poly"])
def test_schedules_of_timm_are_those_of_its_factory(name):
    from timm.scheduler import create_scheduler_v2

    options = {"warmup_epochs": 2, "min_lr": 0.01, "warmup_lr": 0.1}
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    scheduler, _ = create_scheduler_v2(
        theirs, name, num_epochs=10, step_on_epochs=False, updates_per_epoch=5, **options
    )
    ours = schedule(f"timm-{name}", options, steps=50, per_epoch=5)
    values = []
    for step in range(50):
        scheduler.step_update(step)
        values.append(ours(step))
        assert values[-1] == pytest.approx(theirs.param_groups[0]["lr"])
    assert values[0] == pytest.approx(0.1) and len(set(values)) > 10
    assert ours(7) == values[7]  # a resumed run continues at any step


def test_restarts_of_timms_cosine():
    ours = schedule("timm-cosine", {"cycle_limit": 2, "cycle_decay": 0.5}, steps=20, per_epoch=1)
    assert ours(0) == 1.0


@pytest.mark.parametrize(
    ("name", "options", "fact"),
    [("timm-plateau", {}, "timm-poly"), ("timm-cosine", {"warmup": 3}, "warmup_epochs"), ("tanh", {}, "timm-tanh")],
)
def test_what_timm_does_not_have_is_named(name, options, fact):
    with pytest.raises(RecipeError, match=fact):
        schedule(name, options, steps=10, per_epoch=1)


#: One of each class of optimiser that learns without a package of its own; kron compiles its steps.
TIMM_OPTIMIZERS = (
    "adabelief", "adafactor", "adafactorbv", "adamp", "adan", "adopt", "lamb", "laprop", "lars", "lion", "madgrad", "mars",
    "muon", "nadamw", "novograd", "radam", "rmsproptf", "sgdp", "sgdw",
)  # fmt: skip


@pytest.mark.parametrize("name", TIMM_OPTIMIZERS)
def test_optimizers_of_timm_learn_at_their_default_rate(name):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    labels = torch.arange(48) % 3
    inputs = torch.randn(48, 4) + 2 * torch.nn.functional.one_hot(labels, 4)
    made = optimizer(name, {}, list(net.parameters()))
    losses = []
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(net(inputs), labels)
        made.zero_grad()
        loss.backward()
        made.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0] and max(losses) < 2 * losses[0]


def test_options_and_groups_of_timms_optimizers():
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))]
    groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.01}]
    made = optimizer("lion", {"betas": (0.5, 0.6), "weight_decay": 0.3}, groups)
    assert [group["lr"] for group in made.param_groups] == [0.1, 0.01]
    assert made.param_groups[0]["betas"] == (0.5, 0.6) and made.param_groups[1]["weight_decay"] == 0.3
    assert optimizer_options("lion")["lr"] == 1e-4 and optimizer_options("nadamw")["lr"] == 1e-3
    assert optimizer_options("adoptw")["decoupled"] is True  # of the name, not of the class
    assert optimizer_options("sgdw")["momentum"] == 0.9  # as timm's own factory


@pytest.mark.parametrize(
    ("name", "options", "facts"),
    [
        ("lionn", {}, "'lionn'.*'?lion"),
        ("lion", {"betaz": 1}, "'betaz'.*'betas'"),
        ("adahessian", {}, "'adahessian'"),  # needs second derivatives
        ("lion", {"lr": -1.0}, "'lion'.*-1.0"),
    ],
)
def test_wrong_optimizers_of_timm(name, options, facts):
    with pytest.raises(RecipeError, match=facts):
        optimizer(name, options, [torch.nn.Parameter(torch.zeros(1))])


def test_an_optimizer_whose_package_is_missing_names_it(monkeypatch):
    import timm.optim

    def missing(name, **options):
        raise ImportError("No module named 'apex'")

    monkeypatch.setattr(timm.optim, "get_optimizer_class", missing)
    with pytest.raises(RecipeError, match="'novogradc'.*apex"):
        optimizer("novogradc", {}, [torch.nn.Parameter(torch.zeros(1))])
