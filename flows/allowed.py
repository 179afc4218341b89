"""Where a run that came through Prefect's API may read and write: what the operator's environment names.

- CM3_ALLOWED_STORES: prefixes of stores: folders or URLs such as s3://bucket/prefix. With it, only the operator's own
  MLflow server ($MLFLOW_TRACKING_URI) is a registry.
- CM3_ALLOWED_RAW: prefixes of what is read: folders, URLs (http, https, s3, …) or databases' addresses. It holds for
  `raw`, `sql.url`, `image_url`, imported vectors, `images.file_root`, `images.allowed_folders` and
  `images.allowed_hosts`.
- CM3_ALLOWED_CLUSTERS: addresses of Dask schedulers.

A variable that is not set allows everything; an empty one allows nothing. Commands such as `cm3 run` are not confined:
who can give them has this account's rights anyway.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.consent import setting
from schemas.errors import UserError
from schemas.run import FeatureParameters, RunParameters
from schemas.sql import FROM_BLOCK, FROM_ENVIRONMENT

STORES = "CM3_ALLOWED_STORES"
RAW = "CM3_ALLOWED_RAW"
CLUSTERS = "CM3_ALLOWED_CLUSTERS"
_AMBIGUOUS = re.compile(r"\\|::|^file:(?!///[^%]*$)|^local:", re.IGNORECASE)
"""What libraries read in different ways: chained and shortened URLs, escapes in the path of a file URL."""


def check(parameters: FeatureParameters) -> None:
    """Refuse a run that would leave its places.

    Raises:
        UserError: a parameter names another place; the message says which are allowed.
    """
    stores, raw, clusters = setting(STORES), setting(RAW), setting(CLUSTERS)
    if stores is not None:
        _inside("store", parameters.store, stores, STORES)
        tracking = parameters.registry.tracking if isinstance(parameters, RunParameters) else None
        if tracking not in (None, os.environ.get("MLFLOW_TRACKING_URI")):
            raise UserError(f"registry.tracking {tracking!r}: leave it out; this service has its own registry.")
    if raw is not None:
        for name, place in _read(parameters):
            _inside(name, place, raw, RAW)
    if clusters is not None and parameters.cluster and parameters.cluster not in clusters:
        raise UserError(_refusal("cluster", parameters.cluster, clusters, CLUSTERS))


def _read(parameters: FeatureParameters) -> list[tuple[str, str]]:
    """Parameter → each place that a run reads because a parameter says so."""
    places = [("raw", getattr(parameters, "raw", ""))]
    if (queries := getattr(parameters, "sql", None)) and not queries.url.startswith((FROM_ENVIRONMENT, FROM_BLOCK)):
        places.append(("sql.url", queries.url))  # an environment and blocks are the operator's own
    if (template := getattr(parameters, "image_url", "")).startswith(("http://", "https://")):
        places.append(("image_url", template))
    places.append(("images.file_root", parameters.images.file_root or ""))
    places += [("images.allowed_folders", folder) for folder in parameters.images.allowed_folders]
    places += [("images.allowed_hosts", f"http://{host}/") for host in parameters.images.allowed_hosts]
    for feature, vectors in parameters.imported.items():
        places += [(f"imported.{feature}", vectors.path), (f"imported.{feature}", vectors.ids)]
    return [(name, place) for name, place in places if place]


def _inside(parameter: str, place: str, prefixes: Sequence[str], variable: str) -> None:
    if not any(is_inside(place, prefix) for prefix in prefixes):
        raise UserError(_refusal(parameter, place, prefixes, variable))


def _refusal(parameter: str, place: str, allowed: Sequence[str], variable: str) -> str:
    return (
        f"{parameter} {place!r}: the operator allows no run there; allowed: {', '.join(allowed) or 'none'}. "
        f"Choose one of these, or have the operator add it to {variable} where the flows run."
    )


def is_inside(place: str, prefix: str) -> bool:
    """Whether a folder, file or URL is `prefix` or lies below it; links in folders are followed first."""
    if not place.isprintable() or _AMBIGUOUS.search(place):
        return False
    here, there = _local(place), _local(prefix)
    if here is not None and there is not None:
        return here.is_relative_to(there)
    if here is not None or there is not None:
        return False
    try:
        at, allowed = urlsplit(place), urlsplit(prefix)
    except ValueError:
        return False
    segments = [segment for segment in unquote(at.path).split("/") if segment]
    wanted = [segment for segment in unquote(allowed.path).split("/") if segment]
    same_server = (at.scheme.lower(), at.netloc.lower()) == (allowed.scheme.lower(), allowed.netloc.lower())
    return same_server and ".." not in segments and segments[: len(wanted)] == wanted


def _local(place: str) -> Path | None:
    """A folder's absolute path, links followed; None for a URL."""
    if place.startswith("file:///"):
        place = urlsplit(place).path
    return None if "://" in place else Path(place).expanduser().resolve()
