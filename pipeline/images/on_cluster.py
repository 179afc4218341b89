"""The downloads of one run, shared out among the workers of a cluster, no less politely."""

from collections.abc import Callable, Generator, Iterator, Mapping

from pipeline.cluster import Cluster
from pipeline.images.downloader import download
from pipeline.images.outcome import Outcome, Validators
from schemas.images import ImagesConfig

Urls = Mapping[str, Validators | None]


def spread(
    urls: Urls,
    *,
    config: ImagesConfig,
    has_picture: Callable[[str], bool],
    cluster: Cluster,
    idle: Callable[[], None],
) -> Generator[list[Outcome], None, None]:
    """As `download`, each chunk of URLs by one worker; `file:` URLs are read here, where the files are.

    Workers do not know which pictures are kept already, so equal bytes are decoded once a chunk.

    Args:
        idle: called now and then while no chunk is finished; may raise.
    """
    here = {url: known for url, known in urls.items() if url.startswith("file:")}
    if here:
        yield from download(here, config=config, has_picture=has_picture)
    chunks = list(_chunks({url: known for url, known in urls.items() if url not in here}, config.shard_rows))
    crews = max(1, min(cluster.slots(), config.per_host, config.concurrency, len(chunks)))
    share = divided(config, crews)
    tasks = ((None, (chunk, share)) for chunk in chunks)
    for _, outcomes in cluster.map(fetch, tasks, at_once=crews, in_order=False, idle=idle):
        yield outcomes


def divided(config: ImagesConfig, crews: int) -> ImagesConfig:
    """Limits for each of `crews` at work at the same time, so that together they keep to those of `config`."""
    rate = config.per_host_rate
    limits = {
        "concurrency": config.concurrency // crews,
        "per_host": config.per_host // crews,
        "per_host_rate": None if rate is None else rate / crews,
    }
    return config.model_copy(update=limits)


def fetch(urls: Urls, config: ImagesConfig) -> list[Outcome]:
    """One chunk, on a worker."""
    return [outcome for part in download(urls, config=config, has_picture=lambda _: False) for outcome in part]


def _chunks(urls: Urls, size: int) -> Iterator[dict[str, Validators | None]]:
    names = list(urls)
    for start in range(0, len(names), size):
        yield {url: urls[url] for url in names[start : start + size]}
