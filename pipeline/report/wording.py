"""Names, numbers and untrusted text as a person should see them."""

import re
import unicodedata
from datetime import datetime

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Controls, bidirectional marks and overrides, and lone surrogates: they reorder or hide the text around them."""

_METRICS = {
    "ndcg": "NDCG",
    "recall": "Recall",
    "precision": "Precision",
    "hr": "Hit rate",
    "mrr": "MRR",
    "map": "MAP",
    "coverage": "Coverage",
    "novelty": "Novelty",
}
_MODELS = {
    "cm3": "CM3",
    "content-knn": "Content kNN",
    "item-knn": "Item kNN",
    "ease": "EASE",
    "content-ease": "Content EASE",
    "bpr": "BPR-MF",
    "lightgcn": "LightGCN",
    "directau": "DirectAU",
    "vbpr": "VBPR",
    "freedom": "FREEDOM",
    "bm3": "BM3",
    "mgcn": "MGCN",
}
"""Recommenders whose title is not just their name with a capital letter."""


def shown(text: object, limit: int = 200) -> str:
    """Catalogue text without control and bidirectional characters, on one line, cut at `limit` characters.

    It is still untrusted: templates and script escape it.
    """
    if text is None:
        return ""
    clean = " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", str(text))).split())
    return clean if len(clean) <= limit else clean[: limit - 1].rstrip() + "…"


def count(value: float | None) -> str:
    """1234567 → "1,234,567"."""
    return "–" if value is None else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """0.9834 → "98.3%"; only 1 is "100%" and only 0 is "0%"."""
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def size(bytes_: float) -> str:
    """1234567 → "1.2 MB" (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_ < 1000:
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} TB"


def figure(value: float | None) -> str:
    """A metric: four decimals below ten, one above."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def change(value: float, digits: int = 0) -> str:
    """A difference with its sign, "±0" where there is none."""
    text = f"{value:+,.{digits}f}".replace("-", "−")
    return f"±{0:.{digits}f}" if float(f"{value:.{digits}f}") == 0 else text


def moment(iso: str) -> str:
    """ "2026-11-24T11:14:07Z" → "24 November 2026, 11:14 UTC"."""
    when = datetime.fromisoformat(iso)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def plural(number: int, one: str, many: str | None = None) -> str:
    """(1, "item") → "1 item"; (1200, "item") → "1,200 items"."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def model_title(name: str) -> str:
    """ "lightgcn" → "LightGCN", "item-weights" → "Item weights"."""
    return _MODELS.get(name.lower()) or shown(re.sub("[-_]", " ", name), 40).capitalize()


def metric_title(metric: str, k: int | None) -> str:
    """("ndcg", 20) → "NDCG@20"."""
    title = _METRICS.get(metric, shown(metric, 40))
    return title if k is None else f"{title}@{k}"


def metric_order(metric: str) -> int:
    """Place of a metric among those with a title; unknown ones come last."""
    return list(_METRICS).index(metric) if metric in _METRICS else len(_METRICS)


FILTERS = {f.__name__: f for f in (count, percent, size, figure, change, moment, plural, shown, model_title)}
