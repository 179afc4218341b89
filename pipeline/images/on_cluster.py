"""The downloads of one run, divided among the workers of a cluster, within the same limits for each host."""

from collections.abc import Callable, Generator, Iterator, Mapping

from pipeline.cluster import Cluster
from pipeline.images.downloader import download
from pipeline.images.outcome import Outcome, Validators
from schemas.images import ImagesConfig

Urls = Mapping[str, Validators | None]


def download_on_cluster(
    urls: Urls,
    *,
    config: ImagesConfig,
    has_picture: Callable[[str], bool],
    cluster: Cluster,
    idle: Callable[[], None],
) -> Generator[list[Outcome], None, None]:
    """Like `download`, with one worker per chunk of URLs. `file:` URLs are read in this process, which has the files.

    Workers do not know which pictures are kept already, so equal bytes are decoded once per chunk.

    Args:
        idle: called now and then while no chunk is finished; may raise.
    """
    files = {url: validators for url, validators in urls.items() if url.startswith("file:")}
    if files:
        yield from download(files, config=config, has_picture=has_picture)
    remote = {url: validators for url, validators in urls.items() if url not in files}
    chunks = list(_chunks(remote, config.shard_rows))
    at_once = max(1, min(cluster.slots(), config.per_host, config.concurrency, len(chunks)))
    share = divided(config, at_once)
    tasks = ((None, (chunk, share)) for chunk in chunks)
    for _, outcomes in cluster.map(download_chunk, tasks, at_once=at_once, in_order=False, idle=idle):
        yield outcomes


def divided(config: ImagesConfig, shares: int) -> ImagesConfig:
    """The limits of each of `shares` concurrent downloads, so that together they stay within those of `config`."""
    rate = config.per_host_rate
    limits = {
        "concurrency": config.concurrency // shares,
        "per_host": config.per_host // shares,
        "per_host_rate": None if rate is None else rate / shares,
    }
    return config.model_copy(update=limits)


def download_chunk(urls: Urls, config: ImagesConfig) -> list[Outcome]:
    """Runs on a worker: every outcome of one chunk."""
    return [outcome for part in download(urls, config=config, has_picture=lambda _: False) for outcome in part]


def _chunks(urls: Urls, size: int) -> Iterator[dict[str, Validators | None]]:
    names = list(urls)
    for start in range(0, len(names), size):
        yield {url: urls[url] for url in names[start : start + size]}
