"""Peak memory of decoding hostile pictures beside good ones, by the number of decoders. There is no peer.

Good are the pictures of the download race. Hostile are a BMP of a kilobyte that keeps Pillow busy for seconds, and
WebPs and PNGs of a few kilobytes that unpack to the largest picture allowed, as many at once as there are decoders.
Memory is that of the process and of all its decoders, shared pages counted once.
"""

import asyncio
import io
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from PIL import Image

from benchmarks import measure
from benchmarks.pictures import COUNT, draw

DECODERS = (2, 8)
SIDE = 7000
"""Pixels: 49 million in all, where `max_pixels` allows 50 million."""
INTERVAL = 0.05
"""Seconds between two looks at the memory."""


def main(quick: bool) -> dict[str, Any]:
    """Good pictures alone, then with hostile ones; `quick` has 120 good ones instead of 480."""
    folder = measure.cache_folder() / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder)
    good = COUNT if quick else 4 * COUNT
    cases = []
    for decoders in DECODERS:
        for hostile in (0, 8):
            cost = measure.contestant("decode", decoders, good, hostile, folder)
            if cost.output["good"] != good:
                raise RuntimeError(f"{cost.output['good']} of {good} good pictures arrived")
            name = f"{decoders} decoders, {good} good pictures, {3 * hostile} hostile"
            figures = {"case": name, "unit": "MB", "ours": cost.rss, "peak_rss_mb": cost.rss}
            cases.append(figures | {"cpu_s": cost.cpu, "wall_s": cost.wall})
    return measure.result("decode", cases, "pillow")


def decode(decoders: int, good: int, hostile: int, folder: Path) -> None:
    """One contestant: all pictures offered at once."""
    from pipeline.images.decode import Picture
    from pipeline.images.decoders import Decoders
    from schemas.images import ImagesConfig

    drawn = [(folder / f"{number}.jpg").read_bytes() for number in range(COUNT)]
    harmful = [slow_bmp(), large("WEBP", lossless=True, method=0), large("PNG")]
    bodies = [body for _ in range(hostile) for body in harmful]
    bodies += [drawn[number % COUNT] for number in range(good)]

    async def run() -> list[Any]:
        async with Decoders(ImagesConfig()) as all_decoders:
            return await asyncio.gather(*map(all_decoders.decode, bodies), return_exceptions=True)

    watch = Watch()
    started = time.monotonic()
    with patch("joblib.cpu_count", return_value=decoders), watch:
        results = asyncio.run(run())
    arrived = sum(isinstance(result, Picture) for result in results[len(bodies) - good :])
    measure.print_cost(time.process_time(), time.monotonic() - started, rss=watch.peak / measure.MIB**2, good=arrived)


class Watch(threading.Thread):
    """The peak of this process and its descendants, bytes, while its context is open."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._done = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        me = psutil.Process()
        while not self._done.wait(INTERVAL):
            self.peak = max(self.peak, sum(map(_proportional, [me, *me.children(recursive=True)])))


def _proportional(process: psutil.Process) -> int:
    """Bytes of a process, a page that n processes share counted as a n-th; 0 if it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def slow_bmp() -> bytes:
    """A kilobyte that says it has 50 million pixels, which Pillow's Python code then fills one row at a time."""
    palette, data = bytes(4 * 256), b"\1\x11\0\0\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 49_999_999, 1, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 54 + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def large(kind: str, **options: Any) -> bytes:
    """A few kilobytes that unpack to 49 million transparent pixels."""
    out = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE)).save(out, kind, **options)
    return out.getvalue()


if __name__ == "__main__":
    decoders, good, hostile, folder = sys.argv[1:]
    decode(int(decoders), int(good), int(hostile), Path(folder))
