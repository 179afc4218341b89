"""One Arrow schema for each published table: the promise made to consumers of the Parquet files.

Ids are the source's own strings. A required column is `nullable=False`; everything else may be null. Every stage ends
in `conform(table, schema)`, which refuses nulls in required columns, extra, missing or reordered columns and wrong
vector widths, before a byte is written.
"""

from enum import StrEnum

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised when a column changes meaning or type; an added nullable column keeps it."""


class ImageStatus(StrEnum):
    """What became of one picture. A closed set: consumers may switch on it."""

    OK = "ok"
    NO_URL = "no_url"
    INVALID_URL = "invalid_url"
    BLOCKED_ADDRESS = "blocked_address"
    DNS_ERROR = "dns_error"
    CONNECT_ERROR = "connect_error"
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"
    REDIRECT_ERROR = "redirect_error"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    HTTP_ERROR = "http_error"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SLOW = "too_slow"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    DECODE_ERROR = "decode_error"
    PLACEHOLDER = "placeholder"


class ImageRemark(StrEnum):
    """What makes a decoded picture doubtful as a picture of its item. A closed set."""

    TINY = "tiny"
    ONE_COLOUR = "one_colour"


class CaptionStatus(StrEnum):
    """Why an item has a caption or none."""

    OK = "ok"
    NO_IMAGE = "no_image"
    EMPTY = "empty"
    REFUSAL = "refusal"
    REPETITION = "repetition"
    TOO_LONG = "too_long"
    NOT_JSON = "not_json"
    ERROR = "error"


def _required(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype, nullable=False)


ITEMS = pa.schema(
    [
        _required("item_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("brand", pa.string()),
        _required("categories", pa.list_(pa.string())),
        pa.field("price", pa.float64()),
        pa.field("image_url", pa.string()),
        pa.field("text", pa.string()),
        pa.field("gallery_urls", pa.list_(pa.string())),
        pa.field("interactions", pa.int32()),
        pa.field("never_shown", pa.bool_()),
    ]
)
"""The whole catalogue, whether an item was ever chosen or not. `text` is what text encoders read; null if the item has
no words. `price` is in the source's own currency. `gallery_urls` are further pictures, in the source's order and
without duplicates; null if there are none. `interactions` is the number of rows that the table `interactions` has of
the item: above 0 for the items that train and are judged, 0 for all others; null where no interactions were read. It is
as ingest counted: where `cm3 forget` took rows out of `interactions`, it is higher until the next run. `never_shown` is
true for an item that stands in no list; null where the source says nothing of it."""

INTERACTIONS = pa.schema(
    [
        _required("user_id", pa.string()),
        _required("item_id", pa.string()),
        pa.field("rating", pa.float32()),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
        _required("split", pa.string()),
    ]
)
"""`split` is "train", "valid" or "test"; one row per user and item."""

QUALITY = pa.schema(
    [
        _required("source", pa.string()),
        _required("rule", pa.string()),
        _required("action", pa.string()),
        _required("count", pa.int64()),
        _required("examples", pa.list_(pa.string())),
    ]
)
"""What ingest changed, left out or found doubtful, how many items are warm, rare and unsold, and which pictures are
shared by many items, tiny or of one colour: one row per rule, with up to three example ids. `action` is "dropped",
"repaired" or "kept"."""

IMAGES = pa.schema(
    [
        _required("item_id", pa.string()),
        pa.field("url", pa.string()),
        _required("status", pa.string()),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("remark", pa.string()),
    ]
)
"""One row per item, whether its download failed or not. `sha256` is that of the original file; `image` is the stored
JPEG, of `width` × `height` pixels, and `remark` an `ImageRemark` about it. `status` is an `ImageStatus`: a placeholder
is a picture that too many items have to show one of them; it is stored, but no model reads it."""

GALLERY = pa.schema([IMAGES.field("item_id"), _required("position", pa.int32()), *list(IMAGES)[1:]])
"""Further pictures of the items, one row each in the items' order; published if a run asks for them
(`images.pictures`). `position` is the index in the item's `gallery_urls`, from 1. Other columns are as in `images`."""

CAPTIONS = pa.schema(
    [
        _required("item_id", pa.string()),
        pa.field("content_hash", pa.string()),
        pa.field("caption", pa.string()),
        _required("status", pa.string()),
        _required("model", pa.string()),
        _required("revision", pa.string()),
        _required("prompt", pa.string()),
    ]
)
"""`content_hash` is the SHA-256 of the stored JPEG the caption was made from. `status` is a `CaptionStatus`. Where the
captioner was asked for attributes, further columns hold them: see `captions`."""

RECOMMENDATIONS = pa.schema(
    [
        _required("user_id", pa.string()),
        _required("item_id", pa.string()),
        _required("rank", pa.int32()),
        _required("score", pa.float32()),
        pa.field("because", pa.list_(pa.string())),
    ]
)
"""What may be shown to a user: `rank` starts at 1, and nothing that the user chose before, in any split, is among them
(unless the training's `exclude` says otherwise). `score` is the dot product of the two embeddings plus the
`item_weights` of the items that the user chose. `because`: up to three of those items, the ones that weigh most; null
where none does."""

ITEM_WEIGHTS = pa.schema(
    [
        _required("item_id", pa.string()),
        _required("chosen_id", pa.string()),
        _required("weight", pa.float32()),
    ]
)
"""How much having chosen `chosen_id` adds to the score of `item_id`; one row per pair that says anything, the items in
order and the largest weight first. A user's score for an item is the dot product of their `embeddings` plus the sum of
`weight` over the items that the user chose."""

METRICS = pa.schema(
    [
        _required("model", pa.string()),
        _required("seed", pa.int64()),
        _required("split", pa.string()),
        _required("metric", pa.string()),
        pa.field("k", pa.int32()),
        _required("value", pa.float64()),
        _required("users", pa.int64()),
    ]
)
"""`metric` is e.g. "ndcg" or "recall"; `k` its cut-off, null if it has none; `value` is the mean over so many `users`.
`split` is "valid", "test", or says how items hidden from training were ranked: "cold" among all items, "cold_only"
among themselves."""

EPOCHS = pa.schema(
    [
        _required("model", pa.string()),
        _required("seed", pa.int64()),
        _required("epoch", pa.int32()),
        _required("metric", pa.string()),
        _required("value", pa.float64()),
    ]
)
"""The training curve in long form: loss terms and validation metrics by epoch (from 1)."""


def features(dim: int, *, texts: bool = False) -> pa.Schema:
    """Schema of `features/<name>`; `dim` is the width of the vectors. Vectors of texts, alone or with pictures, have
    the column `cut` too.

    `content_hash` and `embedding` are null if the item lacks that modality, or if the encoder cannot read its picture:
    `error` then says why. With several pictures the vector is made of the readable ones, and `content_hash` is the
    SHA-256 of their hashes, one per line. `cut` says whether the text is longer than the model reads; null if that is
    not known, as of an endpoint, and of what an earlier release encoded.
    """
    return pa.schema(
        [
            _required("item_id", pa.string()),
            pa.field("content_hash", pa.string()),
            pa.field("embedding", vector(dim)),
            pa.field("error", pa.string()),
            *([pa.field("cut", pa.bool_())] if texts else []),
        ]
    )


def captions(attributes: tuple[str, ...] = ()) -> pa.Schema:
    """Schema of `captions` with the attributes that the captioner was asked for.

    `attribute_<name>` is null if the item has no caption, or the model did not see it.
    """
    return pa.schema([*CAPTIONS, *(pa.field(f"attribute_{name}", pa.string()) for name in attributes)])


def similarity(feature_names: tuple[str, ...]) -> pa.Schema:
    """Schema of `similarity`: neighbours of each item, `rank` from 1, with the cosine by each feature that went in.

    `similarity_<feature>` is null if one of the two items lacks that feature.
    """
    return pa.schema(
        [
            _required("item_id", pa.string()),
            _required("neighbor_id", pa.string()),
            _required("rank", pa.int32()),
            _required("similarity", pa.float32()),
            *(pa.field(f"similarity_{name}", pa.float32()) for name in feature_names),
        ]
    )


def item_embeddings(dim: int) -> pa.Schema:
    """Schema of `embeddings/items`; `dim` is the width of an embedding: the trained vector, then the score's terms.

    One row per item with content or interactions, also for an item that came after the training. An item with neither
    has no row: there is nothing to make a vector of.
    """
    return pa.schema([_required("item_id", pa.string()), _required("embedding", vector(dim))])


def user_embeddings(dim: int) -> pa.Schema:
    """Schema of `embeddings/users`; `dim` as of `item_embeddings`. One row per user with an interaction."""
    return pa.schema([_required("user_id", pa.string()), _required("embedding", vector(dim))])


def vector(dim: int) -> pa.DataType:
    """`fixed_size_list<float32>[dim]`, the element never null."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), dim)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast `table` to `schema`, or say which column does not fit.

    Raises:
        ValueError: a column is missing, extra or out of order, has another type or width, or holds a null where the
            schema forbids one.
    """
    if table.column_names != schema.names:
        raise ValueError(f"columns {table.column_names} where the table's contract says {schema.names}")
    for field in schema:
        column = table[field.name]
        if not field.nullable and column.null_count:
            raise ValueError(f"column {field.name!r} is required but {column.null_count} of {len(column)} are null")
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"the table does not fit its contract: {error}") from error
