"""LightGCN is its formula; what has no negative teaches no preference."""

import torch

from schemas.baselines import LightGCNConfig
from tests.support.world import World
from trainers.baselines.collaborative import LightGCN, complete
from trainers.data import load
from trainers.fit import Batch


def test_lightgcn_is_the_mean_of_its_layers(world: World) -> None:
    dataset = load(world.tables)
    model = LightGCN(dataset, LightGCNConfig(device="cpu", dim=4, layers=2))
    x = torch.cat([model.users, model.items])
    first = model.graph.product(x)
    expected = (x + first + model.graph.product(first)) / 3
    torch.testing.assert_close(torch.cat(model.embeddings()), expected)


def test_users_who_have_chosen_every_item_have_no_preference_to_learn() -> None:
    rows = torch.arange(3)
    kept = complete(Batch(rows, rows, torch.tensor([2, -1, 0])))
    assert kept.users.tolist() == [0, 2]
