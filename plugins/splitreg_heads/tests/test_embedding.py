"""Embeddings: they learn, and the metric ranks all other images."""

import math

import numpy as np
import pytest
import torch
from splitreg_heads.embedding import EmbeddingHead
from splitreg_heads.embedding_prediction import Embedding
from splitreg_heads.retrieval import Retrieval
from support.heads import SIZE, fit, maps, specs

from splitreg.errors import RecipeError
from splitreg.tasks import ClassTarget


def vector(*values):
    own = np.array(values, np.float32)
    return Embedding(vector=own / np.linalg.norm(own))


def test_images_of_a_class_come_together():
    torch.manual_seed(0)
    head = EmbeddingHead(specs(32), ("a", "b"), size=8, margin=0.2)
    features = maps((32,), batch=2)
    history = fit(head, features, [ClassTarget(index=0), ClassTarget(index=1)], 40, 1e-2)
    assert history[-1] < 0.1 * history[0]
    first, second = head.eval().predict(head(features, SIZE))
    assert first.vector.shape == (8,) and np.linalg.norm(first.vector) == pytest.approx(1, abs=1e-5)
    assert first.similarity(second) < 0.3


def test_each_image_searches_all_others():
    metric = Retrieval()
    vectors = [vector(1, 0), vector(1, 0.1), vector(1, 0.3), vector(0, 1), vector(-1, 0)]
    metric.update(vectors, [ClassTarget(index=index) for index in (0, 1, 0, 1, 2)])  # the last one is alone
    values = metric.compute()

    assert values["recall@1"] == pytest.approx(0.0) and values["recall@5"] == 1.0
    assert values["mAP"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)
    alone = Retrieval()
    alone.update(vectors[:2], [ClassTarget(index=0), ClassTarget(index=1)])
    assert math.isnan(alone.compute()["mAP"])


def test_invalid_options_and_vectors_are_refused():
    with pytest.raises(RecipeError, match="margin"):
        EmbeddingHead(specs(32), ("a",), margin=1.0)
    with pytest.raises(RecipeError, match="class names"):
        EmbeddingHead(specs(32), ())
    with pytest.raises(ValueError, match="finite"):
        Embedding(vector=np.array([np.nan], np.float32))
