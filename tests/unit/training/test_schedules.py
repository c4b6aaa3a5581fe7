import pytest
import torch

from splitreg.errors import RecipeError
from splitreg.training.optimizers import optimizer
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
