"""The loopback server of the demo."""

from pathlib import Path

import httpx
import pytest

from pipeline.demo.server import serve


def test_files_are_served_until_the_block_ends(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"picture")
    with serve(tmp_path) as base, httpx.Client() as client:  # one kept-alive connection
        assert client.get(f"{base}/images/a.jpg").content == b"picture"
        assert client.get(f"{base}/images/a.jpg").headers["content-type"] == "image/jpeg"
        assert client.get(f"{base}/images/b.jpg").status_code == 404
        assert client.get(f"{base}/%2e%2e/%2e%2e/etc/passwd").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/images/a.jpg")


def test_two_servers_run_side_by_side(tmp_path: Path) -> None:
    with serve(tmp_path) as one, serve(tmp_path) as two:
        assert one != two
        assert one.startswith("http://127.0.0.1:")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"), serve(tmp_path / "nowhere"):
        pass
