import pytest
import torch
from support.objective_toys import context, objective

from splitreg.errors import RecipeError


def test_parts_are_added_and_heads_weighed():
    cls, seg = {"ce": torch.tensor(2.0)}, {"ce": torch.tensor(3.0), "dice": torch.tensor(0.5)}
    terms = objective("sum", weights={"seg": 2.0})(context({"cls": cls, "seg": seg}))
    assert {name: float(value) for name, value in terms.items()} == {"cls": 2.0, "seg": 7.0}


def test_a_head_without_a_target_in_the_batch_is_no_term():
    assert set(objective("sum")(context({"cls": {"ce": torch.tensor(1.0)}}))) == {"cls"}


@pytest.mark.parametrize(
    ("weights", "facts"),
    [({"sge": 1.0}, "'sge'.*'seg'"), ({"seg": -1}, "'seg'.*-1"), ({"seg": "a"}, "'seg'.*'a'")],
)
def test_weights_are_checked(weights, facts):
    with pytest.raises(RecipeError, match=facts):
        objective("sum", weights=weights)
