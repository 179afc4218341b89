"""The captions stage: answers are judged, bad ones asked for again, and no picture is captioned twice."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from pipeline import captions, features
from pipeline.encoders.base import Answer
from pipeline.published import Published
from pipeline.store import Store
from schemas.encoders import CaptionSpec, EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support.published import CountingTextEncoder, identity, jpeg, publish_images, publish_items, vectors

SPEC = CaptionSpec(kind="transformers", model="/scripted", prompt="Describe it.", price_in=1.0, price_out=2.0)
RED, BLUE, GREEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0))


class Scripted:
    """A `Captioner` with a script: picture → the first answer, and the answer to a second request."""

    def __init__(self, script: dict[bytes, tuple[str, str]], fail: Callable[[bytes], bool] = lambda _: False) -> None:
        self.fingerprint = identity("scripted")
        self.batch_size = 2
        self.script = script
        self.fail = fail
        self.seen: list[tuple[bytes, bool]] = []

    def caption(self, images: Sequence[bytes], *, again: bool = False) -> list[Answer]:
        self.seen.extend((image, again) for image in images)
        return [
            Answer(text="server away", failed=True)
            if self.fail(image)
            else Answer(text=self.script[image][again], tokens_in=1000, tokens_out=10)
            for image in images
        ]


def caption(store: Store, images: TableVersion, captioner: Scripted) -> Published:
    return captions.run(store=store, images=images, spec=SPEC, captioner=captioner)


def rows(published: Published) -> list[dict[str, object]]:
    return pl.read_parquet(published.tables["captions"].path).to_dicts()


def test_a_good_answer_is_kept_with_model_revision_and_prompt(store: Store) -> None:
    images = publish_images(store, [("a", RED)])
    (row,) = rows(caption(store, images, Scripted({RED: ("a red mug", "")})))
    assert row["caption"] == "a red mug"
    assert (row["status"], row["model"], row["revision"], row["prompt"]) == ("ok", "scripted", "1", "Describe it.")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", "empty"),
        (" ...", "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("a mug a mug a mug a mug a mug", "repetition"),
        ("word " * 5 + " ".join(f"w{i}" for i in range(80)), "repetition"),
        (" ".join(f"w{i}" for i in range(61)), "too_long"),
    ],
)
def test_no_caption_is_asked_for_once_more_and_then_a_row_with_a_reason(store: Store, answer: str, status: str) -> None:
    images = publish_images(store, [("a", RED), ("b", BLUE)])
    model = Scripted({RED: (answer, answer), BLUE: (answer, "a blue mug")})
    published = caption(store, images, model)
    first, second = rows(published)
    assert (first["caption"], first["status"]) == (None, status)
    assert (second["caption"], second["status"]) == ("a blue mug", "ok")
    assert published.counts["asked_again"] == 2
    rejected = {name: count for name, count in published.counts.items() if name.startswith("rejected")}
    assert rejected == {f"rejected: {status}": 1}
    assert [again for _, again in model.seen] == [False, False, True, True]


def test_an_item_without_a_picture_says_so(store: Store) -> None:
    images = publish_images(store, [("a", None)])
    published = caption(store, images, Scripted({}))
    (row,) = rows(published)
    assert (row["status"], row["caption"], row["content_hash"]) == ("no_image", None, None)
    assert published.counts["missing"] == 1


def test_equal_pictures_are_captioned_once_and_a_new_order_captions_none(store: Store) -> None:
    model = Scripted({RED: ("red", ""), BLUE: ("blue", "")})
    images = publish_images(store, [("a", RED), ("b", BLUE), ("c", RED)])
    caption(store, images, model)
    turned = publish_images(store, [("c", RED), ("b", BLUE), ("a", RED)])
    published = caption(store, turned, model)
    assert len(model.seen) == 2
    assert [row["caption"] for row in rows(published)] == ["red", "blue", "red"]
    assert published.counts["reused"] == 3


def test_what_no_answer_came_for_is_tried_again_by_the_next_run_alone(store: Store) -> None:
    images = publish_images(store, [("a", RED), ("b", BLUE)])
    script = {RED: ("red", ""), BLUE: ("blue", "")}
    first = caption(store, images, Scripted(script, fail=lambda picture: picture == BLUE))
    assert [row["status"] for row in rows(first)] == ["ok", "error"]
    healthy = Scripted(script)
    second = caption(store, images, healthy)
    assert healthy.seen == [(BLUE, False)]
    assert [row["caption"] for row in rows(second)] == ["red", "blue"]
    third = caption(store, images, healthy)
    assert third.tables["captions"].reused


def test_tokens_are_priced(store: Store) -> None:
    images = publish_images(store, [("a", RED)])
    published = caption(store, images, Scripted({RED: ("red", "")}))
    assert published.counts["cost"] == pytest.approx((1000 * 1.0 + 10 * 2.0) / 1e6)


def test_the_caption_feature_is_the_sentence_encoder_over_the_captions(store: Store) -> None:
    images = publish_images(store, [("a", RED), ("b", None)])
    published = caption(store, images, Scripted({RED: ("a red mug", "")}))
    words = CountingTextEncoder()
    spec = EncoderSpec(kind="sentence", model="/counted")
    table = published.tables["captions"]
    encoded = features.run(store=store, source=table, name="caption", spec=spec, encoder=words)
    assert words.seen == ["a red mug"]
    assert vectors(encoded.tables["features/caption"])["b"] == [None]


def test_a_table_that_is_no_images_table_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="'images', but were given 'items'"):
        caption(store, publish_items(store, [("a", "x")]), Scripted({}))
