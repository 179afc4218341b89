"""Failures of names, connections and certificates are rows with a status."""

from pathlib import Path

import trustme

from pipeline.store import Store
from tests.support.chaos_server import ChaosServer
from tests.support.images_stage import image_rows
from tests.support.tls import server_context


def test_names_and_certificates_that_fail_are_rows(store: Store, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        ChaosServer(tls=server_context(authority)) as trusted,
        ChaosServer(tls=server_context(stranger)) as untrusted,
        ChaosServer(tls=server_context(authority, "another.example")) as misnamed,
    ):
        rows = image_rows(
            store,
            [
                trusted.url("/good/1"),
                untrusted.url("/good/1"),
                misnamed.url("/good/1"),
                "http://no-such-host.invalid/x.jpg",
                "http://127.0.0.1:1/x.jpg",
            ],
            ca_file=str(tmp_path / "ca.pem"),
        )
    assert [row["status"] for row in rows] == ["ok", "tls_error", "tls_error", "dns_error", "connect_error"]
    assert untrusted.counts.total() == misnamed.counts.total() == 0
