"""Catalogues of every kind, each one module behind `base.Source`."""

from pathlib import Path

from pipeline.ingest.sources.amazon import Amazon
from pipeline.ingest.sources.base import Source
from pipeline.ingest.sources.catalogue import Catalogue
from pipeline.ingest.sources.microlens import MicroLens
from pipeline.ingest.sources.mmrec import MMRec
from pipeline.ingest.sources.movielens import MovieLens
from schemas.sources import AmazonSource, CatalogueSource, MicroLensSource, MMRecSource, MovieLensSource, SourceConfig


def open_source(config: SourceConfig, cache: Path) -> Source:
    """The reader of a source; `cache` is where its downloads are kept."""
    match config:
        case AmazonSource():
            return Amazon(config, cache)
        case CatalogueSource():
            return Catalogue(config, cache)
        case MovieLensSource():
            return MovieLens(config, cache)
        case MicroLensSource():
            return MicroLens(config, cache)
        case MMRecSource():
            return MMRec(config, cache)
