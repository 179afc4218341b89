"""Negatives are right, broken training stops, and a killed run goes on to the same end."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from schemas.training import CM3Config
from tests.support.world import World, draw_world
from trainers import cm3
from trainers.cm3.train import build
from trainers.data import Dataset, load
from trainers.fit import NegativeSampler, fit, gather, torch_device
from trainers.scores import Embeddings, published_embeddings


def dataset_of(chosen: list[set[int]], items: int) -> Dataset:
    pairs = np.array([(u, i) for u, c in enumerate(chosen) for i in sorted(c)], np.int64).reshape(-1, 2)
    none = np.zeros((0, 2), np.int64)
    names = [str(u) for u in range(len(chosen))], [str(i) for i in range(items)]
    return Dataset(*names, pairs, none, none, {}, None)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.sets(st.integers(0, n - 1)), min_size=1, max_size=6))
    )
)
def test_negatives_are_never_chosen_ones_and_every_other_item_can_come(case: tuple[int, list[set[int]]]) -> None:
    items, chosen = case
    sampler = NegativeSampler(dataset_of(chosen, items))
    users = np.repeat(np.arange(len(chosen)), 40 * items)
    drawn = sampler.draw(users, np.random.default_rng(0))
    for user, own in enumerate(chosen):
        others = set(range(items)) - own
        assert set(drawn[users == user].tolist()) == (others or {-1})


def test_negatives_are_uniform() -> None:
    sampler = NegativeSampler(dataset_of([{0, 3, 4, 9}, {1}], 10))
    drawn = sampler.draw(np.zeros(60_000, np.int64), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=10)[[1, 2, 5, 6, 7, 8]]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 20.5  # χ² with 5 degrees of freedom: one draw in a thousand


def test_a_loss_that_is_not_finite_stops_and_says_where(world: World) -> None:
    dataset = load(**world.inputs())
    config = CM3Config(dim=4, max_epochs=5, batch_size=128)
    model = build(dataset, config)
    calls = []
    original = model.loss

    def poisoned(batch: object, rng: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = original(batch, rng)  # type: ignore[arg-type]
        return {k: v * float("nan") for k, v in terms.items()} if len(calls) == 7 else terms

    model.loss = poisoned  # type: ignore[method-assign]
    steps = -(-len(dataset.train) // 128)
    with pytest.raises(UserError, match=rf"epoch {(7 - 1) // steps + 1}, step {(7 - 1) % steps + 1} of {steps}"):
        fit(model, dataset, config)


def test_without_validation_interactions_selection_is_refused(tmp_path: Path) -> None:
    world = draw_world()
    world.events = [e for e in world.events if e[2] != "valid"]
    dataset = load(**world.write(tmp_path).inputs())
    config = CM3Config(dim=4)
    with pytest.raises(UserError, match="validation"):
        fit(build(dataset, config), dataset, config)


def test_a_user_without_training_gets_the_mean_of_the_others(tmp_path: Path) -> None:
    world = draw_world()
    world.events.append(("new", "i001", "test"))
    dataset = load(**world.write(tmp_path).inputs())
    new = dataset.users.index("new")
    vectors = Embeddings(torch.randn(len(dataset.users), 3), torch.randn(len(dataset.items), 3))
    result = published_embeddings(vectors, dataset, CM3Config(score="dot", popularity_prior=0, filter_weight=0))
    others = torch.arange(len(dataset.users)) != new
    torch.testing.assert_close(result.users[new], vectors.users[others].mean(0))
    assert torch.equal(result.users[others], vectors.users[others])


def test_the_popularity_prior_is_a_coordinate_of_the_dot_product(world: World) -> None:
    dataset = load(**world.inputs())
    vectors = Embeddings(torch.randn(len(dataset.users), 3), torch.randn(len(dataset.items), 3))
    users, items = published_embeddings(
        vectors, dataset, CM3Config(score="cosine", popularity_prior=0.3, filter_weight=0)
    )
    cosine = torch.cosine_similarity(vectors.users[:, None], vectors.items[None], dim=-1)
    expected = cosine + 0.3 * torch.log(1 + torch.from_numpy(dataset.item_counts).float())
    torch.testing.assert_close(users @ items.T, expected)


CHILD = """
import os, signal, sys
from pathlib import Path
from schemas.training import CM3Config
from trainers import cm3
from trainers.fit import EmbeddingModel

interactions, text, image, output, checkpoint, kill_at = sys.argv[1:]
steps = 0
original = cm3.train.CM3.loss

def loss(self, batch, rng):
    global steps
    steps += 1
    if steps == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch, rng)

cm3.train.CM3.loss = loss
cm3.run(interactions=interactions, features={"text": text, "image": image}, similarity=None, output=Path(output),
        checkpoint=Path(checkpoint), config=CM3Config(dim=8, max_epochs=6, batch_size=128, checkpoint_seconds=0))
"""


def run_child(world: World, output: Path, checkpoint: Path, kill_at: int) -> int:
    """Train in a process that kills itself with SIGKILL before its `kill_at`-th step."""
    arguments = [world.interactions, world.features["text"], world.features["image"], output, checkpoint, kill_at]
    root = Path(cm3.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, "-c", CHILD, *map(str, arguments)], env=environment, check=False).returncode


def test_a_run_killed_in_mid_epoch_ends_with_the_numbers_of_an_unbroken_one(world: World, tmp_path: Path) -> None:
    config = CM3Config(dim=8, max_epochs=6, batch_size=128, checkpoint_seconds=0)
    checkpoint = tmp_path / "state" / "broken.pt"
    assert run_child(world, tmp_path / "broken", checkpoint, 15) == -signal.SIGKILL  # five steps an epoch: in the third
    assert not (tmp_path / "broken").exists()
    epochs: list[int] = []
    cm3.run(
        **world.inputs(),
        output=tmp_path / "broken",
        config=config,
        checkpoint=checkpoint,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert epochs == [3, 4, 5, 6]
    cm3.run(**world.inputs(), output=tmp_path / "whole", config=config)
    for name in ("items", "users", "recommendations", "metrics", "epochs"):
        assert (tmp_path / "whole" / f"{name}.parquet").read_bytes() == (
            tmp_path / "broken" / f"{name}.parquet"
        ).read_bytes(), name


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_last_one_stays(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, checkpoint = load(**world.inputs()), tmp_path / "state.pt"
    config = CM3Config(dim=8, max_epochs=2, batch_size=128, checkpoint_seconds=0)
    fit(build(dataset, config), dataset, config, checkpoint=checkpoint)
    before = checkpoint.read_bytes()

    def full(state: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 4 vs 8")

    monkeypatch.setattr(torch, "save", full)
    more = config.model_copy(update={"seed": 3})
    with pytest.raises(UserError, match=r"state\.pt: cannot be written .*unexpected pos.*Free space"):
        fit(build(dataset, more), dataset, more, checkpoint=checkpoint)
    assert [path.name for path in tmp_path.glob("*state.pt*")] == ["state.pt"]
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_other_data_or_another_configuration_is_not_used(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    dataset = load(**world.inputs())

    def epochs_trained(config: CM3Config, data: Dataset) -> list[int]:
        seen: list[int] = []
        fit(build(data, config), data, config, checkpoint=checkpoint, on_epoch=lambda epoch, _: seen.append(epoch))
        return seen

    config = CM3Config(dim=4, max_epochs=2)
    assert epochs_trained(config, dataset) == [1, 2]
    assert epochs_trained(config, dataset) == []
    assert epochs_trained(config.model_copy(update={"gamma": 0.5}), dataset) == [1, 2]
    other = draw_world()
    other.events[3] = (*other.events[3][:2], "valid")
    assert epochs_trained(config.model_copy(update={"gamma": 0.5}), load(**other.write(tmp_path / "o").inputs())) == [
        1,
        2,
    ]


def test_an_unreadable_checkpoint_is_left_aside(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    checkpoint.write_bytes(b"half a file")
    dataset, config = load(**world.inputs()), CM3Config(dim=4, max_epochs=1)
    assert fit(build(dataset, config), dataset, config, checkpoint=checkpoint).epochs == 1
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1


def test_one_setting_names_the_device_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_DEVICE", "meta,cpu")  # a device that every machine has, and that is not the default
    assert torch_device("auto").type == "meta"
    assert torch_device("cpu").type == "cpu"
    monkeypatch.setenv("CM3_DEVICE", "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        torch_device("auto")


def test_gradients_of_rows_that_come_twice_are_the_same_bits_every_time() -> None:
    """With plain indexing, 8 threads gave another sum each time: a hundred rows, each some 200 times."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.randint(100, (20_000,), generator=draws)
    weight = torch.randn(20_000, 64, generator=draws)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        gradients = []
        for _ in range(5):
            x = torch.ones(100, 64, requires_grad=True)
            (gather(x, rows) * weight).sum().backward()  # type: ignore[no-untyped-call]
            gradients.append(x.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
    torch.testing.assert_close(gradients[0], torch.zeros(100, 64).index_add(0, rows, weight), rtol=1e-4, atol=1e-4)
