"""Certificates for tests, laid out as QEMU's tls-creds-x509 wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Folders(NamedTuple):
    """Folders of one authority's server and clients, and of a client nobody knows."""

    server: Path
    client: Path
    other: Path
    stranger: Path


def make(folder: Path) -> Folders:
    """Make an authority, its server and two clients, and a client of another authority."""
    import trustme

    ours, foreign = trustme.CA(key_type=trustme.KeyType.ECDSA), trustme.CA()
    folders = Folders(*(folder / name for name in Folders._fields))
    for path in folders:
        path.mkdir()
    server = ours.issue_cert("localhost", "127.0.0.1", "::1", common_name="server")
    _write(folders.server, ours, server, "server")
    for path, authority, name in (
        (folders.client, ours, "laptop"),
        (folders.other, ours, "desktop"),
        (folders.stranger, foreign, "laptop"),
    ):
        certificate = authority.issue_cert(
            f"{name}.example.org",
            common_name=name,
            organization_name="Example, Inc.",
            organization_unit_name="Tests",
        )
        _write(path, ours, certificate, "client")
    return folders


def _write(folder, authority, certificate, role) -> None:
    authority.cert_pem.write_to_path(folder / "ca-cert.pem")
    certificate.private_key_pem.write_to_path(folder / f"{role}-key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(folder / f"{role}-cert.pem", append=number > 0)
