"""The demo's catalogue: drawn once per store, and at its own address."""

from pathlib import Path

import pytest

from pipeline.demo import catalogue
from pipeline.ingest.sources import demo
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.sources import DemoSource

SMALL = DemoConfig(items=40, users=20, picture_size=64)


def test_a_store_serves_one_drawing_at_one_address_in_every_run(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    with demo.served(DemoSource(demo=SMALL), store) as first:
        pass
    with demo.served(DemoSource(demo=SMALL), store) as again:
        assert again == first
        with demo.served(DemoSource(demo=SMALL), other) as elsewhere:
            assert elsewhere.raw != first.raw


def test_a_drawing_is_made_once_and_never_left_half_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def fail(folder: Path, _: DemoConfig) -> None:
        folder.mkdir()
        (folder / "items.jsonl").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            demo.drawn(SMALL, store)
    folder = demo.drawn(SMALL, store)
    assert (folder / "items.jsonl").stat().st_size > 0
    before = (folder / "items.jsonl").stat().st_mtime_ns
    assert demo.drawn(SMALL, store) == folder
    assert (folder / "items.jsonl").stat().st_mtime_ns == before
