"""A search proposes, continues and finds the front; training is replaced by arithmetic."""

import itertools
import json
from types import SimpleNamespace

import pytest

from splitreg.errors import RecipeError, TrainingInterrupted
from splitreg.recipe import Recipe
from splitreg.search import Range, SearchOptions, Trial, parse_dimension
from splitreg.search import search as search_function
from splitreg.search.search import pareto

optuna = pytest.importorskip("optuna")
search = pytest.importorskip("splitreg.search.search")

RECIPE = Recipe.from_mapping({
    "backbone": "mobilenetv3_small_050", "bottleneck": {"name": "fp", "channels": 8}, "heads": ["cls"],
    "input": {"size": [32, 32]}, "data": {"name": "scenes", "size": 32, "count": 16}, "stages": [{}],
})  # fmt: skip
SPACE = {"rate_lambda": Range(low=0.1, high=3.0, log=True), "bottleneck.channels": [4, 8]}


@pytest.fixture
def trained(monkeypatch):
    """Replace training and measuring; return what was trained, and a place for an error."""
    done = SimpleNamespace(points=[], error=None)

    def sweep(recipe, folder, options):
        if done.error is not None:
            raise done.error
        rate, channels = recipe.stages[0].rate_lambda, recipe.bottleneck.options["channels"]
        done.points.append((rate, channels, folder.name))
        if channels == 8 and rate > 2:
            outcome = SimpleNamespace(status="collapsed", message="no bits")
            return [SimpleNamespace(bundle=None, outcome=outcome)]
        return [SimpleNamespace(bundle=folder / "bundle", outcome=None, size=(rate, channels))]

    def run(series, output, *, data, options):
        rate, channels, _ = done.points[-1]
        point = SimpleNamespace(
            primary={"cls": ("top1", False)}, metrics={"cls": {"top1": channels / 10 - rate / 100}},
            bytes=100 * channels / rate, macs=1000 * channels,
        )  # fmt: skip
        return SimpleNamespace(series=[SimpleNamespace(points=[point])])

    monkeypatch.setattr(search, "sweep", sweep)
    monkeypatch.setattr(search, "run", run)
    return done


def test_a_search_continues_and_finds_the_front(trained, tmp_path):
    seen = []
    first = search_function(RECIPE, tmp_path / "s", SPACE, SearchOptions(trials=4, on_trial=seen.append))
    assert len(first.trials) == len(seen) == 4 and len(trained.points) == 4
    again = search_function(RECIPE, tmp_path / "s", SPACE, SearchOptions(trials=4))
    assert len(trained.points) == 4 and [t.values for t in again.trials] == [t.values for t in first.trials]
    more = search_function(RECIPE, tmp_path / "s", SPACE, SearchOptions(trials=10))
    assert len(more.trials) == 10 and len(trained.points) == 10
    whole = search_function(RECIPE, tmp_path / "whole", SPACE, SearchOptions(trials=10))
    assert [t.values for t in whole.trials] == [t.values for t in more.trials]  # interrupted or not
    assert len({json.dumps(t.values) for t in more.trials}) == 10
    assert all(0.1 <= t.values["rate_lambda"] <= 3 and t.values["bottleneck.channels"] in (4, 8) for t in more.trials)
    front = more.front
    assert front and all(a.bytes <= b.bytes for a, b in itertools.pairwise(front))
    assert json.loads((tmp_path / "s" / "search.json").read_text())["trials"][0]["values"] == dict(
        first.trials[0].values
    )


def test_an_interrupted_trial_is_tried_again(trained, tmp_path):
    trained.error = TrainingInterrupted("stopped", 15)
    with pytest.raises(TrainingInterrupted):
        search_function(RECIPE, tmp_path, SPACE, SearchOptions(trials=2))
    trained.error = None
    left = json.loads((tmp_path / "space.json").read_text())
    result = search_function(RECIPE, tmp_path, SPACE, SearchOptions(trials=2))
    assert left and len(result.trials) == 2 and len(trained.points) == 2


def test_a_trial_that_fails_does_not_stop_the_search(trained, tmp_path):
    space = {"rate_lambda": Range(low=2.5, high=3.0), "bottleneck.channels": [8]}
    result = search_function(RECIPE, tmp_path, space, SearchOptions(trials=2))
    assert [t.error for t in result.trials] == ["collapsed: no bits"] * 2 and not result.front


def test_another_search_in_the_folder_is_refused(trained, tmp_path):
    search_function(RECIPE, tmp_path, SPACE, SearchOptions(trials=1))
    with pytest.raises(RecipeError, match="another"):
        search_function(RECIPE, tmp_path, {"bottleneck.channels": [4, 16]}, SearchOptions(trials=1))


def test_a_metric_that_is_none(trained, tmp_path):
    with pytest.raises(RecipeError, match=r"cls\.top5.*cls\.top1"):
        search_function(RECIPE, tmp_path, SPACE, SearchOptions(trials=1, metric="cls.top5"))


@pytest.mark.parametrize("metric", ["cls", "cls.", "clas.top1", ""])
def test_a_metric_without_a_head_fails_before_a_training(trained, tmp_path, metric):
    with pytest.raises(RecipeError, match="HEAD.METRIC.*cls"):
        search_function(RECIPE, tmp_path / "s", SPACE, SearchOptions(trials=1, metric=metric))
    assert not trained.points and not (tmp_path / "s").exists()


def test_no_label_at_all(trained, tmp_path, monkeypatch):
    point = SimpleNamespace(primary={"cls": ("top1", False)}, metrics={"cls": {"top1": None}}, bytes=1, macs=1)
    monkeypatch.setattr(search, "run", lambda *_, **__: SimpleNamespace(series=[SimpleNamespace(points=[point])]))
    with pytest.raises(RecipeError, match="label"):
        search_function(RECIPE, tmp_path, SPACE, SearchOptions(trials=1))


def test_the_pareto_front():
    def trial(metric, size, macs=1.0):
        return Trial(number=0, values={}, metric=metric, bytes=size, macs=macs)

    trials = [
        trial(0.5, 100),
        trial(0.6, 200),
        trial(0.55, 300),
        trial(0.4, 50, 2.0),
        trial(None, None),
        trial(0.6, 200),
    ]
    assert pareto(trials) == [True, True, False, True, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=1,2", ("a", [1, 2])), ("a.b=x,y", ("a.b", ["x", "y"])), ("a=1..4", ("a", Range(low=1, high=4))),
     ("a=.1..3:log", ("a", Range(low=0.1, high=3.0, log=True)))],
)  # fmt: skip
def test_dimensions(text, expected):
    assert parse_dimension(text) == expected


@pytest.mark.parametrize("text", ["a", "a=", "a=1..x", "a=1..2:lin", "a=3..1", "a=0..1:log"])
def test_dimensions_that_are_none(text):
    with pytest.raises(RecipeError):
        parse_dimension(text)
