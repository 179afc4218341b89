"""The network is deterministic, obeys the similarity without training it, and does not depend on the items' order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.training import CM3Config
from tests.support.world import World, draw_world
from trainers.cm3.build import build
from trainers.data import load
from trainers.fit import Batch, add_gradients
from trainers.propagated import Table

CONFIG = CM3Config(dim=8, neighbors=5, device="cpu")


def test_renaming_items_in_another_order_permutes_the_output(tmp_path: Path) -> None:
    worlds = [draw_world(), draw_world()]
    rename = {f"i{n:03d}": f"j{(7 * n) % 40:03d}" for n in range(40)}
    worlds[1].events = [(u, rename[i], s) for u, i, s in worlds[1].events]
    worlds[1].vectors = {name: {rename[i]: v for i, v in vs.items()} for name, vs in worlds[1].vectors.items()}
    loaded = [load(w.write(tmp_path / str(n)).tables) for n, w in enumerate(worlds)]
    vectors = [build(data, CONFIG).embeddings() for data in loaded]
    order = [loaded[1].items.index(rename[item]) for item in loaded[0].items]
    torch.testing.assert_close(vectors[1].items[order], vectors[0].items, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vectors[1].users, vectors[0].users, rtol=1e-4, atol=1e-5)


def test_embeddings_do_not_depend_on_what_a_batch_left_behind(world: World) -> None:
    dataset = load(world.tables)
    model = build(dataset, CONFIG)
    before = model.embeddings()
    rows = torch.arange(8)
    add_gradients(model, [Batch(rows, rows, rows)], np.random.default_rng(0))
    after = model.embeddings()
    assert torch.equal(before.items, after.items)
    assert torch.equal(before.users, after.users)


@pytest.mark.parametrize("published", [False, True])
def test_no_gradient_flows_through_the_similarity_unless_published(world: World, published: bool) -> None:
    dataset = load(world.tables)
    model = build(dataset, CONFIG.model_copy(update={"published": published, "fusion": False}))
    rows = torch.arange(20)
    add_gradients(model, [Batch(rows, rows, rows)], np.random.default_rng(0))
    # Without the fused block the fusion layers' only way into the loss is the similarity.
    gradients = [encoder.fusion.weight.grad for encoder in model.encoders]
    moved = any(g is not None and bool(g.any()) for g in gradients)
    assert moved == published


def test_published_similarity_climbs_while_ours_is_only_obeyed(world: World) -> None:
    dataset = load(world.tables)
    means = {}
    for published in (False, True):
        model = build(dataset, CONFIG.model_copy(update={"published": published, "fusion": False, "min_sim": -1.0}))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        rng = np.random.default_rng(0)
        rows = torch.arange(40)
        for _ in range(30):
            optimizer.zero_grad()
            add_gradients(model, [Batch(rows, rows, rows)], rng)
            optimizer.step()
        content = model()[2]
        means[published] = (content @ content.T).mean().item()
    assert means[True] > means[False] + 0.3


def test_frozen_calibration_reads_the_weighted_cosines_of_the_raw_features(world: World) -> None:
    dataset = load(world.tables)
    config = CM3Config(
        dim=4, device="cpu", calibration="frozen", min_sim=-1, modality_weights={"image": 0.25, "text": 0.75}
    )
    model = build(dataset, config)
    both = np.flatnonzero(dataset.features["image"].present & dataset.features["text"].present)[:6]
    raw = {
        name: modality.matrix / np.maximum(np.linalg.norm(modality.matrix, axis=1, keepdims=True), 1e-12)
        for name, modality in dataset.features.items()
    }
    expected = 0.25 * raw["image"][both] @ raw["image"][both].T + 0.75 * raw["text"][both] @ raw["text"][both].T
    content = torch.zeros(len(dataset.items), 4)  # the fused content must not be read
    similarity = model._similarity(Table(content), torch.from_numpy(both))
    np.testing.assert_allclose(similarity[:, :], expected, atol=1e-6)
