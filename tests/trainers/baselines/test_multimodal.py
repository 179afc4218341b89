"""FREEDOM trains on a part of the edges and embeds with all of them."""

import numpy as np
import torch

from schemas.baselines import FREEDOMConfig
from tests.support.world import World
from trainers.baselines.multimodal import FREEDOM
from trainers.data import load


def test_freedom_drops_its_share_of_edges_and_embeds_with_all_of_them(world: World) -> None:
    dataset = load(world.tables)
    model = FREEDOM(dataset, FREEDOMConfig(device="cpu", dim=4, edge_dropout=0.75))
    before = model.embeddings()
    model.begin_epoch(np.random.default_rng(0))
    assert len(model.graph.columns) == 2 * round(len(dataset.train) * 0.25)
    assert torch.equal(model.embeddings().items, before.items)
