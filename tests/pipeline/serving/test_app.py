"""What the service answers, asked over HTTP."""

import random
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline import never_shown
from pipeline.registry import versions
from pipeline.store import Store
from schemas.serving import MAX_K, Recommended, RecommendedForChoices, Similar
from tests.pipeline.serving.conftest import Shops
from tests.support.registered import register
from tests.support.service import DEADLINE, Service, serving
from tests.support.shop import GRAPH_K, TOP_K, Shop, draw, published


def ids(answer: httpx.Response) -> list[str]:
    """Items of an answer, in order."""
    assert answer.status_code == 200, answer.text
    return [row["item_id"] for row in answer.json()["items"]]


def test_every_users_answer_is_their_published_list(service: Service, shops: Shops) -> None:
    shop = shops["1"]
    rows = Store(service.app.state.store.uri).read(
        versions.resolve(service.app.state.store, "shop/recommendations@champion")
    )
    for user in shop.users:
        answer = Recommended.model_validate(service.client.get(f"/v1/shop/recommend/{user}").json())
        published = [row for row in rows.to_pylist() if row["user_id"] == user]
        assert [(i.item_id, i.rank, i.score, [b.item_id for b in i.because]) for i in answer.items] == [
            (row["item_id"], row["rank"], row["score"], row["because"] or []) for row in published
        ]
        assert (answer.dataset, answer.version, answer.user) == ("shop", "1", user)
        assert all(item.title == f"Title of {item.item_id}" for item in answer.items)


def test_a_list_longer_than_the_published_one_goes_on_by_the_same_score(service: Service, shops: Shops) -> None:
    shop = shops["1"]
    for user in shop.users[:8]:
        items = service.client.get(f"/v1/shop/recommend/{user}?k=25").json()["items"]
        assert [row["item_id"] for row in items] == shop.ranking(user)[:25]
        assert [row["rank"] for row in items] == list(range(1, 26))
        for row in items[TOP_K:]:
            assert row["score"] == pytest.approx(shop.scores(user)[row["item_id"]], abs=1e-5)
            assert [reason["item_id"] for reason in row["because"]] == shop.because(user, row["item_id"])


def test_a_list_ends_where_nothing_is_left(service: Service, shops: Shops) -> None:
    shop = shops["1"]
    assert ids(service.client.get(f"/v1/shop/recommend/{shop.users[0]}?k={MAX_K}")) == shop.ranking(shop.users[0])
    assert ids(service.client.get(f"/v1/shop/recommend/{shop.users[-1]}?k=20")) == [], "who chose everything"


def test_an_unknown_user_is_answered_by_the_weights_of_what_they_chose(service: Service, shops: Shops) -> None:
    shop = shops["1"]
    chosen, exclude = shop.items[:3], shop.items[5]
    sums = {
        item: sum(shop.weights.get((item, c), 0.0) for c in chosen)
        for item, c in shop.weights
        if c in chosen and item not in chosen and item != exclude
    }
    request = {"items": [*chosen, "nothing"], "k": 5, "exclude": [exclude, "nothing"]}
    answer = RecommendedForChoices.model_validate(service.client.post("/v1/shop/recommend", json=request).json())
    assert [row.item_id for row in answer.items] == sorted(sums, key=lambda item: -sums[item])[:5]
    assert answer.unknown == ["nothing"]


def test_neighbours_are_the_graphs_with_each_features_cosine(service: Service, shops: Shops) -> None:
    first, *others = shops["1"].items
    answer = Similar.model_validate(service.client.get(f"/v1/shop/similar/{first}").json())
    assert [row.item_id for row in answer.items] == others[:GRAPH_K]
    assert [row.by_feature for row in answer.items] == [{"clip": 1.0}, {"clip": None}, {"clip": None}]
    assert ids(service.client.get(f"/v1/shop/similar/{first}?k=1")) == others[:1]


REFUSED = [
    ("/v1/shop/recommend/nobody", 404, "shop has no user 'nobody' in version 1. POST the items"),
    ("/v1/shop/recommend/a%2Fb%20%3Cscript%3E", 404, "no user 'a/b <script>'"),
    ("/v1/shop/similar/nothing", 404, "shop has no item 'nothing' in version 1"),
    ("/v1/nowhere/recommend/u000", 404, "no data set 'nowhere' with recommendations; there are: shop"),
    ("/v1/shop/recommend/u000?k=0", 422, "k: Input should be greater than or equal to 1 (found '0')"),
    ("/v1/shop/recommend/u000?k=1000000", 422, "k: Input should be less than or equal to 1000"),
    ("/v1/shop/recommend/u000?k=ten", 422, "k: Input should be a valid integer"),
    ("/v1/shop/similar/i000?k=4", 422, "k: expected 1 to 3, which the graph holds"),
    ("/v1/shop/other", 404, "The API has nothing at '/v1/shop/other'"),
]


@pytest.mark.parametrize(("path", "status", "message"), REFUSED)
def test_what_cannot_be_answered_is_one_clear_json_error(
    service: Service, path: str, status: int, message: str
) -> None:
    answer = service.client.get(path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


BODIES = [
    (b'{"items": ["x", "y"]}', 404, "none of the items 'x', 'y' in version 1"),
    (b'{"items": []}', 422, "items: Tuple should have at least 1 item"),
    (b'{"items": ["i000"], "k": 0}', 422, "k: Input should be greater"),
    (b'{"items": ["i000"], "limit": 3}', 422, "limit: Extra inputs are not permitted"),
    (b'{"items": "i000"}', 422, "items: Input should be a valid"),
    (b"[1]", 422, "body: Input should be a valid dictionary"),
    (b"{", 422, "body: expected JSON; Expecting property name"),
    (b"\xff\xfe", 422, "body: expected JSON"),
]


@pytest.mark.parametrize(("body", "status", "message"), BODIES, ids=[body.decode("latin-1") for body, *_ in BODIES])
def test_a_body_that_cannot_be_used_is_one_clear_json_error(
    service: Service, body: bytes, status: int, message: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = service.client.post("/v1/shop/recommend", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


def test_the_api_describes_itself_to_programs_and_people(service: Service) -> None:
    document = service.client.get("/v1/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/{dataset}/recommend/{user}",
        "/v1/{dataset}/recommend",
        "/v1/{dataset}/similar/{item}",
    }
    page = service.client.get("/v1")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<script" not in page.text
    for path in document["paths"]:
        assert path in page.text


def test_prometheus_reads_requests_durations_and_what_is_served(service: Service) -> None:
    service.client.get("/v1/shop/recommend/u000?k=25")
    text = service.client.get("/metrics").text
    assert 'cm3_requests_total{route="/v1/{dataset}/recommend/{user:path}",status="200"}' in text
    assert "cm3_request_seconds_bucket" in text
    assert "cm3_scored_together_count" in text
    assert 'cm3_served{dataset="shop",version="1"} 1.0' in text
    assert 'cm3_problem{dataset=""} 0.0' in text


def test_promoting_and_rolling_back_under_load_fails_no_request_and_mixes_no_versions(own: Store, shops: Shops) -> None:
    """Each answer must be wholly of the version that it names; both versions are seen, one after the other."""
    with serving(own) as service:
        stop, seen, wrong = threading.Event(), [], []

        def ask(seed: int) -> None:
            draw_user, client = random.Random(seed), httpx.Client(base_url=service.client.base_url, timeout=DEADLINE)
            with client:
                while not stop.is_set():
                    user = draw_user.choice(shops["1"].users)
                    answer = client.get(f"/v1/shop/recommend/{user}?k=15")
                    body = answer.json()
                    seen.append(body.get("version"))
                    if answer.status_code != 200 or ids(answer) != shops[body["version"]].ranking(user)[:15]:
                        wrong.append(answer.text)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for change in (lambda: versions.promote(own, "shop", "2"), lambda: versions.rollback(own, "shop")) * 2:
            version = str(change().number)
            service.look()
            before = len(seen)
            wait_until(lambda before=before, version=version: version in seen[before:])
            assert service.client.get("/v1/shop/recommend/u000").json()["version"] == version
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert set(seen) == {"1", "2"}


def wait_until(condition: object) -> None:
    """Return when it is true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_goes_away_stays_served_and_readiness_says_so(own: Store) -> None:
    with serving(own) as service:
        assert service.client.get("/readyz").json() == {"status": "ready", "served": {"shop": "1"}, "problems": {}}
        away = Path(own.root).rename(f"{own.root}-away")
        assert service.look().datasets["shop"].folder, "a serving process that starts now finds it too"
        assert len(ids(service.client.get("/v1/shop/recommend/u000?k=15"))) == 15
        ready = service.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "stale")
        assert "cannot be read" in ready.json()["problems"][""]
        assert 'cm3_problem{dataset=""} 1.0' in service.client.get("/metrics").text
        away.rename(own.root)
        service.look()
        assert service.client.get("/readyz").json()["status"] == "ready"


def test_a_champion_with_damaged_files_is_not_served_and_the_one_before_stays(own: Store) -> None:
    with serving(own) as service:
        versions.promote(own, "shop", "2")
        table = versions.resolve(own, "shop/item_weights@champion")
        file = next(Path(table.path).iterdir())
        file.write_bytes(file.read_bytes()[:-9] + b"\0" * 9)
        service.look()
        assert service.client.get("/v1/shop/recommend/u000").json()["version"] == "1"
        assert "does not match its manifest" in service.client.get("/readyz").json()["problems"]["shop"]


def test_before_anything_is_prepared_the_service_is_alive_but_not_ready(own: Store) -> None:
    with serving(own, looks=False) as service:
        assert service.client.get("/healthz").status_code == 200
        assert service.client.get("/readyz").status_code == 503
        answer = service.client.get("/v1/shop/recommend/u000")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        service.look()
        assert service.client.get("/readyz").status_code == 200


def test_what_is_never_shown_leaves_every_answer_and_others_take_its_place(own: Store, shops: Shops) -> None:
    shop: Shop = shops["1"]
    user = shop.users[0]
    hidden = [*shop.ranking(user)[:3], shop.items[1]]
    with serving(own) as service:
        never_shown.write(own, "shop", hidden)
        service.look()
        expected = [item for item in shop.ranking(user) if item not in hidden]
        assert ids(service.client.get(f"/v1/shop/recommend/{user}")) == expected[:10]
        chosen = {"items": shop.items[2:6], "k": 40}
        assert not set(hidden) & set(ids(service.client.post("/v1/shop/recommend", json=chosen)))
        assert ids(service.client.get(f"/v1/shop/similar/{shop.items[0]}")) == shop.items[2 : GRAPH_K + 1]
        never_shown.write(own, "shop", [])
        service.look()
        assert ids(service.client.get(f"/v1/shop/recommend/{user}")) == shop.ranking(user)[:10]


def test_ids_of_every_script_and_with_slashes_can_be_asked_for(store: Store) -> None:
    shop = draw(seed=3)
    names = dict(
        zip(shop.users, ["a/b", "Ünïcode 漢字", "?x=1&y", " blank ", "100%", "🦊", *shop.users[6:]], strict=True)
    )
    shop.users = [names[user] for user in shop.users]
    shop.chosen = {names[user]: chosen for user, chosen in shop.chosen.items()}
    order = np.argsort(np.array(shop.users))
    shop.users, shop.of_users = [shop.users[n] for n in order], shop.of_users[order]
    register(store, published(store, shop))
    with serving(store) as service:
        for user in names.values():
            path = "/v1/shop/recommend/" + "".join(f"%{byte:02X}" for byte in user.encode())
            assert service.client.get(path).json()["user"] == user
