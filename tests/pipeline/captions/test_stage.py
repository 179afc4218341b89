"""The captions stage: judged answers, a second request, rows with a reason, and nothing captioned twice."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from pipeline.captions import stage as captions
from pipeline.encoders.base import Answer
from pipeline.features import stage as features
from pipeline.store import Store
from schemas.encoders import CaptionSpec, EncoderSpec
from tests.support.published import CountingTextEncoder, identity, jpeg, publish_images, publish_items, vectors

SPEC = CaptionSpec(kind="transformers", model="/scripted", prompt="Describe it.", price_in=1.0, price_out=2.0)
RED, BLUE, GREEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0))


class Scripted:
    """A `Captioner` that answers each picture as told: first answer, then the answer when asked again."""

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


def rows(version: object) -> list[dict[str, object]]:
    return pl.read_parquet(version.path).to_dicts()  # type: ignore[attr-defined]


def test_a_good_answer_is_kept_with_model_revision_and_prompt(store: Store) -> None:
    images = publish_images(store, [("a", RED)])
    (row,) = rows(captions.run(store=store, images=images, spec=SPEC, captioner=Scripted({RED: ("a red mug", "")})))
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
    done = captions.caption(store=store, images=images, spec=SPEC, captioner=model)
    first, second = rows(done.version)
    assert (first["caption"], first["status"]) == (None, status)
    assert (second["caption"], second["status"]) == ("a blue mug", "ok")
    assert done.counts.asked_again == 2
    assert done.counts.rejected == {status: 1}
    assert [again for _, again in model.seen] == [False, False, True, True]


def test_an_item_without_a_picture_says_so(store: Store) -> None:
    images = publish_images(store, [("a", None)])
    done = captions.caption(store=store, images=images, spec=SPEC, captioner=Scripted({}))
    (row,) = rows(done.version)
    assert (row["status"], row["caption"], row["content_hash"]) == ("no_image", None, None)
    assert done.counts.missing == 1


def test_equal_pictures_are_captioned_once_and_a_new_order_captions_none(store: Store) -> None:
    model = Scripted({RED: ("red", ""), BLUE: ("blue", "")})
    images = publish_images(store, [("a", RED), ("b", BLUE), ("c", RED)])
    captions.run(store=store, images=images, spec=SPEC, captioner=model)
    turned = publish_images(store, [("c", RED), ("b", BLUE), ("a", RED)])
    done = captions.caption(store=store, images=turned, spec=SPEC, captioner=model)
    assert len(model.seen) == 2
    assert [row["caption"] for row in rows(done.version)] == ["red", "blue", "red"]
    assert done.counts.reused == 3


def test_what_no_answer_came_for_is_tried_again_by_the_next_run_alone(store: Store) -> None:
    images = publish_images(store, [("a", RED), ("b", BLUE)])
    script = {RED: ("red", ""), BLUE: ("blue", "")}
    first = captions.caption(
        store=store, images=images, spec=SPEC, captioner=Scripted(script, fail=lambda picture: picture == BLUE)
    )
    assert [row["status"] for row in rows(first.version)] == ["ok", "error"]
    healthy = Scripted(script)
    second = captions.caption(store=store, images=images, spec=SPEC, captioner=healthy)
    assert healthy.seen == [(BLUE, False)]
    assert [row["caption"] for row in rows(second.version)] == ["red", "blue"]
    third = captions.caption(store=store, images=images, spec=SPEC, captioner=healthy)
    assert third.version.reused


def test_tokens_are_priced(store: Store) -> None:
    images = publish_images(store, [("a", RED)])
    done = captions.caption(store=store, images=images, spec=SPEC, captioner=Scripted({RED: ("red", "")}))
    assert done.counts.cost == pytest.approx((1000 * 1.0 + 10 * 2.0) / 1e6)


def test_the_caption_feature_is_the_sentence_encoder_over_the_captions(store: Store) -> None:
    images = publish_images(store, [("a", RED), ("b", None)])
    table = captions.run(store=store, images=images, spec=SPEC, captioner=Scripted({RED: ("a red mug", "")}))
    words = CountingTextEncoder()
    spec = EncoderSpec(kind="sentence", model="/counted")
    version = features.run(store=store, source=table, name="caption", spec=spec, encoder=words)
    assert words.seen == ["a red mug"]
    assert vectors(version)["b"] == [None]


def test_a_table_that_is_no_images_table_is_refused(store: Store) -> None:
    with pytest.raises(captions.UserError, match="'images', but were given 'items'"):
        captions.run(store=store, images=publish_items(store, [("a", "x")]), spec=SPEC, captioner=Scripted({}))
