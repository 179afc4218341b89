"""What a store keeps of one encoder: finished vectors by content, their width, and what a server took for them."""

import contextlib
import json
from collections.abc import Sequence

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.cache import ShardCache
from pipeline.encoders.base import Fingerprint, Vectors
from pipeline.features.columns import fixed_width_from
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError

CACHED = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32())),
        pa.field("cut", pa.bool_()),
    ]
)


class Asked(BaseModel):
    """What a server took so far for the contents that it was asked for one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contents: int = 0
    seconds: float = 0.0
    tokens: int = 0


class Kept:
    """The vectors of one encoder in `_cache/features/<encoder>`, and beside them two small records.

    Attributes:
        cache: content hash → vector, and whether the content was cut.
    """

    def __init__(self, store: Store, identity: Fingerprint) -> None:
        self._store, self._identity = store, identity
        self._namespace = f"features/{identity.kind}-{identity.key()[:16]}"
        self.cache = ShardCache(store, self._namespace, CACHED)

    @property
    def dim(self) -> int | None:
        """Width of the vectors, so that a run without new content loads no model; None if no record says so."""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # the last three: damaged
            return int(json.loads(self._store.fs.cat_file(self._path("encoder")))["dim"])
        return None

    def set_dim(self, dim: int) -> None:
        """Record the width, and whose vectors they are: a plan finds them by it."""
        self._put("encoder", json.dumps({"dim": dim, "encoder": self._identity.model_dump()}, indent=2))

    @property
    def asked(self) -> Asked:
        """What the server took; nothing, if there is no record or it is damaged."""
        with contextlib.suppress(FileNotFoundError, ValidationError):
            return Asked.model_validate_json(self._store.fs.cat_file(self._path("asked")))
        return Asked()

    def add_asked(self, contents: int, seconds: float, tokens: int) -> None:
        """Record what the server took for some more contents."""
        before = self.asked
        more = Asked(
            contents=before.contents + contents, seconds=before.seconds + seconds, tokens=before.tokens + tokens
        )
        self._put("asked", more.model_dump_json(indent=2))

    def add(self, keys: list[str], rows: Vectors, cut: Sequence[bool | None] | None = None) -> None:
        """Keep finished vectors: float32, (len(keys), dim)."""
        columns = [pa.array(keys), fixed_width_from(rows).cast(CACHED.field("embedding").type)]
        marks = pa.nulls(len(keys), pa.bool_()) if cut is None else pa.array(cut, pa.bool_())
        self.cache.append(pa.table([*columns, marks], schema=CACHED))

    def rows(self, keys: list[str], dim: int) -> tuple[Vectors, list[bool | None]]:
        """The vectors of contents that are kept, (len(keys), dim), and their marks."""
        kept = self.cache.lookup(keys)
        vectors: Vectors = kept["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, dim)
        return vectors, kept["cut"].to_pylist()

    def _path(self, name: str) -> str:
        return f"{self._store.root}/_cache/{self._namespace}/{name}.json"

    def _put(self, name: str, text: str) -> None:
        self._store.put(f"_cache/{self._namespace}/{name}.json", text.encode())


def check_width(spec: EncoderSpec, rows: Vectors, dim: int) -> None:
    """Refuse a server's vectors of another width than those that it gave before.

    Raises:
        UserError: they are.
    """
    if rows.shape[1] != dim:
        raise UserError(
            f"{spec.base_url} gives vectors of {rows.shape[1]} numbers of {spec.model!r}, where it had given {dim}: "
            "the server has another model now. Give it another `revision`, any word, and all contents are asked for "
            "again."
        )
