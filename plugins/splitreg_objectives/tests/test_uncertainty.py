import math

import pytest
import torch
from support.objective_toys import context, objective


def test_a_term_is_the_weighted_loss_and_s():
    uncertainty = objective("uncertainty")
    uncertainty.log_variances["seg"].data.fill_(math.log(2))
    losses = {"cls": {"ce": torch.tensor(3.0)}, "seg": {"ce": torch.tensor(3.0), "dice": torch.tensor(1.0)}}
    terms = uncertainty(context(losses))
    assert terms["cls"].item() == 3.0 and terms["seg"].item() == pytest.approx(4 / 2 + math.log(2))


def test_the_learned_weight_becomes_one_over_the_loss():
    uncertainty = objective("uncertainty")
    optimizer = torch.optim.SGD(uncertainty.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        sum(
            uncertainty(context({"cls": {"a": torch.tensor(4.0)}, "seg": {"a": torch.tensor(0.25)}})).values()
        ).backward()
        optimizer.step()
    assert [math.exp(-uncertainty.log_variances[head].item()) for head in ("cls", "seg")] == pytest.approx(
        [0.25, 4], rel=1e-2
    )


def test_a_head_without_targets_learns_no_weight():
    uncertainty = objective("uncertainty")
    sum(uncertainty(context({"cls": {"a": torch.tensor(4.0)}})).values()).backward()
    assert uncertainty.log_variances["seg"].grad is None and uncertainty.log_variances["cls"].grad == -3.0


def test_names_with_hyphens():
    assert set(objective("uncertainty", ("my-head_1",)).state_dict()) == {"log_variances.my-head_1"}
