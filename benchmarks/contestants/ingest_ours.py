"""The ingest stage on a drawn catalogue, into an empty store.

Arguments: output folder, raw folder, repository root. Last line printed, as JSON: items that train, rows kept, and rows
of each split.
"""

import json
import sys


def main(output: str, raw: str, root: str) -> None:
    """Ingest and count."""
    sys.path.insert(0, root)
    from pipeline import ingest
    from pipeline.store import Store
    from schemas.ingest import IngestConfig
    from schemas.sources import CatalogueSource

    store = Store(output)
    published = ingest.run(store=store, dataset="drawn", source=CatalogueSource(raw=raw), config=IngestConfig())
    counts: dict[str, int] = {}
    for batch in store.batches(published.tables["interactions"], ["split"], rows=1 << 20):
        for entry in batch["split"].value_counts().to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    trained = sum(
        count > 0
        for batch in store.batches(published.tables["items"], ["interactions"], rows=1 << 20)
        for count in batch["interactions"].to_pylist()
    )
    print(
        json.dumps(
            {
                "items": trained,
                "rows": published.tables["interactions"].rows,
                **dict(sorted(counts.items())),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
