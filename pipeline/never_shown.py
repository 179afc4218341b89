"""The items of a data set that are never shown to anybody, such as sold-out ones: those in a list in the store, and
those of which the catalogue's own column says so."""

from collections.abc import Iterable
from functools import lru_cache

from pipeline.store import Store

FILE = "_never_shown.txt"
"""`<store>/<dataset>/_never_shown.txt`: one item id per line, in UTF-8."""
ITEMS, COLUMN = "items", "never_shown"


def read(store: Store, dataset: str) -> frozenset[str]:
    """The ids of both; empty where nobody says so of any item.

    Raises:
        UserError: the table of items is gone.
    """
    if not store.has_latest(dataset, ITEMS):
        return listed(store, dataset)
    return listed(store, dataset) | _marked(store.uri, dataset, store.latest(dataset, ITEMS).version)


def listed(store: Store, dataset: str) -> frozenset[str]:
    """The ids in the list; empty where there is none."""
    try:
        text = store.fs.cat_file(f"{store.root}/{dataset}/{FILE}").decode(errors="replace")
    except FileNotFoundError:
        return frozenset()
    return parsed(text)


@lru_cache(maxsize=16)
def _marked(uri: str, dataset: str, version: str) -> frozenset[str]:
    """The ids that a version of the catalogue marks; `cm3 serve` asks every second, and a version never changes."""
    store = Store(uri)
    items = store.get(dataset, ITEMS, version)
    first = next(store.batches(items, rows=1), None)
    if first is None or COLUMN not in first.column_names:  # empty, or of an older release
        return frozenset()
    ids: set[str] = set()
    for batch in store.batches(items, ["item_id", COLUMN], rows=8192):
        ids.update(batch["item_id"].filter(batch[COLUMN].fill_null(False)).to_pylist())
    return frozenset(ids)


def write(store: Store, dataset: str, ids: Iterable[str]) -> None:
    """Replace the list.

    Raises:
        StoreError: it could not be written.
    """
    store.put(f"{dataset}/{FILE}", "".join(f"{item}\n" for item in sorted(set(ids))).encode())


def parsed(text: str) -> frozenset[str]:
    """The ids in a file's text: one per line, without blanks around them."""
    return frozenset(item for line in text.removeprefix("\ufeff").splitlines() if (item := line.strip()))
