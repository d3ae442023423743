"""Certificates for tests, laid out as QEMU's tls-creds-x509 wants them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Folders(NamedTuple):
    """Folders of one authority's server and clients, and of a client nobody knows."""

    server: Path
    client: Path
    other: Path
    stranger: Path


def make(folder: Path, *, revoked: str | None = None) -> Folders:
    """Make an authority, its server and two clients, and a client of another authority.

    Args:
        folder: where.
        revoked: the client whose certificate the authority has taken back, if any.
    """
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
    if revoked is not None:
        _revoke(folders.server / "ca-crl.pem", ours, getattr(folders, revoked))
    return folders


def _revoke(path: Path, authority: Any, client: Path) -> None:
    """Write an authority's list of revoked certificates, with the client's in it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    taken = x509.load_pem_x509_certificate((client / "client-cert.pem").read_bytes())
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    own = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    yesterday = datetime.now(UTC) - timedelta(days=1)
    one = x509.RevokedCertificateBuilder(taken.serial_number, yesterday).build()
    tomorrow = yesterday + timedelta(days=2)
    made = x509.CertificateRevocationListBuilder(own.subject, yesterday, tomorrow, [], [one])
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _write(folder, authority, certificate, role) -> None:
    authority.cert_pem.write_to_path(folder / "ca-cert.pem")
    certificate.private_key_pem.write_to_path(folder / f"{role}-key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(folder / f"{role}-cert.pem", append=number > 0)
