"""Race: download pictures, resize them to 256 pixels and store them as Parquet, per CPU-second, against img2dataset.

Both fetch the same URLs from the same loopback server, resize the longer side to 256, encode JPEG at quality 90, hash
the original (SHA-256) and write Parquet; the race fails unless every picture arrives. CPU time is that of the whole
process tree without the server. The peer's start-up is long, so its cost (a run of four pictures) and the ratio without
it are reported too.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.pictures import draw, served

SIDE = 256
QUALITY = 90
PEER = "img2dataset"
START_UP = 4
ROOT = Path(__file__).parent.parent
CONTESTANTS = ROOT / "benchmarks" / "contestants"


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` takes 500 pictures once instead of 2,000 three times, and grows to 2,000."""
    draw_folder = measure.cache_folder() / "pictures"
    draw_folder.mkdir(parents=True, exist_ok=True)
    draw(draw_folder)
    peer = measure.peer_python(PEER)
    count, repeats = (500, 1) if quick else (2000, 3)
    sizes = (125, 500, 2000) if quick else (1000, 4000, 16000)
    with served(draw_folder) as bases:
        cases = [race(scheme, bases[scheme], peer, draw_folder, count, repeats) for scheme in ("http", "https")]
        cases.append(growth(bases["http"], draw_folder, sizes))
    return measure.result("download", cases, "aiohttp", "pillow", "pyarrow", **{PEER: measure.peer_version(peer, PEER)})


def race(scheme: str, base: str, peer: Path, folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """Ours and the peer in turns, per CPU-second of the whole process tree."""
    turns = [(ours(base, folder, count), theirs(base, peer, folder, count)) for _ in range(repeats)]
    our_start, peer_start = ours(base, folder, START_UP), theirs(base, peer, folder, START_UP)
    name = f"{count:,} pictures of 70 KB over {scheme}"
    measured = measure.case(name, turns, PEER, count, "pictures per CPU-second")
    our_work, peer_work = measured["cpu_s"] - our_start.cpu, measured["peer_cpu_s"] - peer_start.cpu
    starts = {"start_up_cpu_s": our_start.cpu, "peer_start_up_cpu_s": peer_start.cpu}
    return measured | starts | {"ratio_beyond_start_up": peer_work / our_work}


def growth(base: str, folder: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """At 1 x, 4 x and 16 x."""
    costs = [ours(base, folder, size) for size in sizes]
    return measure.growth("pictures", sizes, costs, start_up=ours(base, folder, START_UP))


def ours(base: str, folder: Path, count: int) -> measure.Cost:
    """The images stage on an empty store."""
    script = str(CONTESTANTS / "download_ours.py")
    return contestant([sys.executable, script], base, count, folder, str(SIDE), str(QUALITY), str(ROOT))


def theirs(base: str, peer: Path, folder: Path, count: int) -> measure.Cost:
    """img2dataset with one process per core and 32 threads per process."""
    script = str(CONTESTANTS / "download_img2dataset.py")
    return contestant([str(peer), script], base, count, folder, str(SIDE), str(QUALITY))


def contestant(command: list[str], base: str, count: int, folder: Path, *more: str) -> measure.Cost:
    """Run `command OUTPUT URLS …`; its last line must be `count`, the number of pictures that arrived."""
    with tempfile.TemporaryDirectory() as scratch:
        urls = Path(scratch) / "urls.txt"
        urls.write_text("\n".join(f"{base}/{number}.jpg" for number in range(count)))
        environment = {"SSL_CERT_FILE": str(folder / "ca.pem")}  # trust the loopback server
        cost = measure.spawn([*command, f"{scratch}/store", str(urls), *more], environment, Path(scratch))
    if cost.output != count:
        raise RuntimeError(f"{command}: {cost.output} of {count} pictures arrived")
    return cost
