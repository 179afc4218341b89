"""What earlier runs downloaded: outcomes by URL, pictures by the digest of the original file."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import pyarrow as pa

from pipeline.cache import ShardCache
from pipeline.images.decode import CODEC_VERSION
from pipeline.images.doubtful import remark
from pipeline.images.outcome import NO_PICTURE, Outcome, Validators
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.lineage import canonical_json
from schemas.tables import ImageStatus

OUTCOMES = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.string()),
        pa.field("fetched_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("rules", pa.string(), nullable=False),
    ]
)
"""The outcome of each URL. `rules` identifies the limits and permissions under which a failure happened."""

NEVER = datetime.fromtimestamp(0, UTC)
"""`fetched_at` of a URL that no run has requested yet."""

PICTURES = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
    ]
)
"""The stored JPEG of each original file, by the original's digest."""


class KeptImages:
    """Everything downloaded before, by any run on this store with the same size and quality of JPEG."""

    def __init__(self, store: Store, config: ImagesConfig) -> None:
        namespace = f"images/v{CODEC_VERSION}-side{config.max_side}-quality{config.jpeg_quality}"
        self.outcomes = ShardCache(store, f"{namespace}/outcomes", OUTCOMES)
        self.pictures = ShardCache(store, f"{namespace}/pictures", PICTURES)
        self._config = config
        self._rules = _rules(config)

    def due(self, batches: Iterable[list[str | None]]) -> dict[str, Validators | None]:
        """The URLs to request, each once, with the validators that make the request conditional.

        URLs that were never requested come first, in the catalogue's order; then the others, oldest outcome first. So
        after a run that gave up a host because of broken pictures, the next run starts with other pictures.
        """
        due: dict[str, Validators | None] = {}
        again: list[tuple[datetime, str, Validators | None]] = []
        for batch in batches:
            urls = [url for url in dict.fromkeys(batch) if url is not None and url not in due]
            for row in filter(self._is_due, self.outcomes.lookup(urls).to_pylist()):
                if row["fetched_at"] in (None, NEVER):
                    due[row["url"]] = self._validators(row)
                else:
                    again.append((row["fetched_at"], row["url"], self._validators(row)))
        due.update((url, validators) for _, url, validators in sorted(again, key=itemgetter(0)))
        return due

    def keep(self, outcomes: list[Outcome], due: Mapping[str, Validators | None]) -> None:
        """Append what finished: pictures first, so that an outcome never names a picture that was not kept."""
        pictures = {o.sha256: o.picture for o in outcomes if o.picture is not None and o.sha256 not in self.pictures}
        self.pictures.append(
            pa.Table.from_pylist(
                [
                    {"sha256": sha256, "width": picture.width, "height": picture.height, "image": picture.jpeg}
                    for sha256, picture in pictures.items()
                ],
                schema=PICTURES,
            )
        )
        rows = [row for outcome in outcomes if (row := self._row(outcome, due[outcome.url])) is not None]
        self.outcomes.append(pa.Table.from_pylist(rows, schema=OUTCOMES))

    def with_outcomes(self, rows: pa.Table) -> pa.Table:
        """The rows with the outcome of their `url`: status, error and sha256."""
        urls = rows["url"].to_pylist()
        outcomes = self.outcomes.lookup([url or "" for url in urls])
        status = [
            ImageStatus.NO_URL if url is None else status
            for url, status in zip(urls, outcomes["status"].to_pylist(), strict=True)
        ]
        rows = rows.append_column("status", pa.array(status, pa.string()))
        return rows.append_column("error", outcomes["error"]).append_column("sha256", outcomes["sha256"])

    def with_pictures(self, rows: pa.Table, schema: pa.Schema) -> pa.Table:
        """Rows with outcomes, completed to `schema`: JPEG, size and remark by digest, null if there is no picture."""
        digests = [
            sha256 if status in (ImageStatus.OK, ImageStatus.PLACEHOLDER) else None
            for sha256, status in zip(rows["sha256"].to_pylist(), rows["status"].to_pylist(), strict=True)
        ]
        distinct = list(dict.fromkeys(sha256 for sha256 in digests if sha256 is not None))
        position = {sha256: place for place, sha256 in enumerate(distinct)}
        places = pa.array([None if sha256 is None else position[sha256] for sha256 in digests], pa.int64())
        pictures = self.pictures.lookup(distinct)
        remarks = [remark(row["image"], row["width"], row["height"]) for row in pictures.to_pylist()]
        pictures = pictures.append_column("remark", pa.array(remarks, pa.string())).take(places)
        for name in ("width", "height", "image", "remark"):
            rows = rows.append_column(name, pictures[name])
        return rows.select(schema.names)

    def _is_due(self, row: dict[str, Any]) -> bool:
        status = row["status"]
        if status is None or row["fetched_at"] == NEVER:
            return True
        if status == ImageStatus.OK and row["sha256"] not in self.pictures:
            return True
        if row["url"].startswith("file:"):  # reading a file's date costs nothing
            return True
        oldest = datetime.now(UTC) - timedelta(seconds=self._config.max_age)
        if self._config.revalidate and row["fetched_at"] <= oldest:
            return True
        return bool(status != ImageStatus.OK and (status in self._config.retry_statuses or row["rules"] != self._rules))

    def _validators(self, row: dict[str, Any]) -> Validators | None:
        if row["status"] != ImageStatus.OK or row["sha256"] not in self.pictures:
            return None
        return Validators(etag=row["etag"], last_modified=row["last_modified"])

    def _row(self, outcome: Outcome, validators: Validators | None) -> dict[str, Any] | None:
        """The row to keep; None if the stored row stays valid: an unchanged file, or a failure where a picture is kept.

        Args:
            validators: those that the URL was requested with; None if no picture is kept for it.
        """
        if not outcome.asked and outcome.url in self.outcomes:
            return None
        if validators is not None and outcome.status in NO_PICTURE.union(self._config.retry_statuses):
            return None
        row = {
            "url": outcome.url,
            "status": outcome.status,
            "error": outcome.error,
            "sha256": outcome.sha256,
            "etag": outcome.validators.etag,
            "last_modified": outcome.validators.last_modified,
        }
        if outcome.status is None:
            if outcome.url.startswith("file:"):
                return None
            row = self.outcomes.lookup([outcome.url]).to_pylist()[0]
        return row | {"fetched_at": datetime.now(UTC) if outcome.asked else NEVER, "rules": self._rules}


def _rules(config: ImagesConfig) -> str:
    """Identifies the limits and permissions, a change of which may turn a lasting failure into another outcome."""
    fields = {
        "max_bytes",
        "max_pixels",
        "max_decode_seconds",
        "max_redirects",
        "allowed_hosts",
        "file_root",
        "allowed_folders",
        "ca_file",
        "user_agent",
    }
    return hashlib.sha256(canonical_json(config.model_dump(mode="json", include=fields)).encode()).hexdigest()[:16]
