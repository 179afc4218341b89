"""MGCN is its equations, and its two views are drawn together."""

import numpy as np
import torch

from schemas.baselines import MGCNConfig
from tests.support.world import World
from trainers.baselines.mgcn import MGCN
from trainers.data import load
from trainers.fit import Batch, add_gradients
from trainers.graphs import exact_neighbors, item_item_adjacency, user_item_adjacency


def test_mgcn_is_its_equations_in_dense_matrices(world: World) -> None:
    dataset = load(world.tables)
    model = MGCN(dataset, MGCNConfig(device="cpu", dim=4, layers=2))
    count, x = len(dataset.users), torch.cat([model.users, model.items])
    adjacency = torch.from_numpy(user_item_adjacency(dataset.matrix("train")).toarray())
    behaviour = (x + adjacency @ x + adjacency @ adjacency @ x) / 3
    neighbors = exact_neighbors(dataset.features, k=9)
    contents = []
    for index, (name, feature) in enumerate(dataset.features.items()):
        graph = torch.from_numpy(item_item_adjacency(neighbors, {name: feature}, k=10, weights=None).toarray())
        raw = torch.nn.functional.normalize(torch.from_numpy(feature.matrix), dim=-1)
        items = graph @ (model.items * torch.sigmoid(model.gates[index](model.projections[index](raw))))
        contents.append(torch.cat([adjacency[:count, count:] @ items, items]))
    logits = torch.cat([model.attention(view) for view in contents], dim=1)
    weights = torch.softmax(logits, dim=1)
    shared = sum(weights[:, index, None] * view for index, view in enumerate(contents))
    special = sum(
        torch.sigmoid(layer(behaviour)) * (view - shared)
        for layer, view in zip(model.preferences, contents, strict=True)
    )
    expected = behaviour + shared + special / len(contents)
    torch.testing.assert_close(torch.cat(model.embeddings()), expected)


def test_the_contrast_draws_a_nodes_two_views_together(world: World) -> None:
    dataset = load(world.tables)
    model = MGCN(dataset, MGCNConfig(device="cpu", dim=8, contrast_weight=100.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    batch = Batch(*(torch.from_numpy(rows.copy()) for rows in (*dataset.train.T, dataset.train[::-1, 1])))

    def agreement() -> float:
        return torch.nn.functional.cosine_similarity(*model.views()).mean().item()

    before = agreement()
    for _ in range(20):
        optimizer.zero_grad()
        add_gradients(model, [batch], np.random.default_rng(0))
        optimizer.step()
    assert agreement() > before + 0.1
