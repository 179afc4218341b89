"""Content of several features: its dot products are the mean of their cosines by shares."""

import numpy as np

from trainers.data import Modality
from trainers.item_weights.candidates import content_of


def test_likeness_is_the_mean_of_the_features_cosines_by_unequal_shares_and_one_alone_counts_whole() -> None:
    rng, shares = np.random.default_rng(0), {"image": 0.25, "text": 1.0}
    features, cosines = {}, {}
    for name, width in (("image", 5), ("text", 9)):
        matrix, present = rng.normal(size=(20, width)).astype(np.float32), np.ones(20, np.bool_)
        if name == "text":
            matrix[3], present[3] = 0, False
        features[name] = Modality(name, matrix, present)
        centred = np.where(present[:, None], matrix - matrix[present].mean(axis=0), 0)
        units = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        cosines[name] = units @ units.T
    content = content_of(features, shares)
    both = np.delete(np.arange(20), 3)
    expected = (0.25 * cosines["image"] + cosines["text"]) / 1.25
    np.testing.assert_allclose((content @ content.T)[np.ix_(both, both)], expected[np.ix_(both, both)], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(content, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(content[both] @ content[3], np.sqrt(0.25 / 1.25) * cosines["image"][both, 3], atol=1e-6)
