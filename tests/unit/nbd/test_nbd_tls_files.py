"""Credentials in folders: what is read of them, and what is said when they are wrong."""

import ssl

import pytest
import tls_files

from nbexport.errors import UsageError
from nbexport.nbd import tls


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tls_files.make(tmp_path_factory.mktemp("certificates"))


def test_a_good_folder_demands_client_certificates_unless_told_otherwise(folders):
    assert tls.x509(folders.server).context.verify_mode is ssl.CERT_REQUIRED
    made = tls.x509(folders.server, verify_peer=False)
    assert made.context.verify_mode is ssl.CERT_NONE
    assert made.context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_a_missing_file_is_named_as_qemu_names_it(folders, tmp_path, name):
    for file in folders.server.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    text = f"^Unable to access credentials {tmp_path}/{name}: No such file or directory$"
    with pytest.raises(UsageError, match=text):
        tls.x509(tmp_path)


def test_a_key_of_another_certificate(folders, tmp_path):
    for file in folders.server.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    key = (folders.client / "client-key.pem").read_bytes()
    (tmp_path / "server-key.pem").write_bytes(key)
    with pytest.raises(UsageError, match="not a certificate and its key"):
        tls.x509(tmp_path)


def test_a_protected_key_does_not_ask_the_terminal(folders, tmp_path):
    from cryptography.hazmat.primitives import serialization

    for file in folders.server.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    key = serialization.load_pem_private_key((tmp_path / "server-key.pem").read_bytes(), None)
    protected = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "server-key.pem").write_bytes(protected)
    with pytest.raises(UsageError, match=r"server-key\.pem: is protected by a password"):
        tls.x509(tmp_path)


def test_a_list_of_revocations_that_is_none(folders, tmp_path):
    for file in folders.server.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "ca-crl.pem").write_text("nothing")
    with pytest.raises(UsageError, match=r"ca-crl\.pem: not a certificate or a list"):
        tls.x509(tmp_path)


def test_names_cannot_be_checked_of_certificates_that_are_not(folders):
    with pytest.raises(UsageError, match="cannot be authorized"):
        tls.x509(folders.server, verify_peer=False, allowed=("CN=x",))


def test_a_distinguished_name_has_the_order_of_the_certificate():
    subject = (
        (("countryName", "DE"),),
        (("organizationName", "Example, Inc."), ("organizationalUnitName", "a+b")),
        (("commonName", " #x "),),
        (("serialNumber", "7"),),
    )
    name = tls.distinguished_name({"subject": subject})
    assert name == r"C=DE,O=Example\, Inc.+OU=a\+b,CN=\ #x\ ,serialNumber=7"
    assert tls.distinguished_name({}) == ""


class Peer(tls.TlsLayer):
    def __init__(self, name):
        class Object:
            @staticmethod
            def getpeercert():
                return {"subject": ((("commonName", name),),)} if name else None

        self._object = Object()


@pytest.mark.parametrize(
    ("name", "allowed", "good"),
    [("a", None, True), (None, None, True), ("a", ("CN=a",), True), ("a", ("CN=b",), False),
     ("ab", ("CN=b", "CN=a*"), True), ("ab", ("CN=a",), False), (None, ("CN=*",), False),
     ("[a]", ("CN=[a]",), True), ("a", ("CN=[a]",), False), ("a", (), False)],
)  # fmt: skip
def test_who_is_let_in(name, allowed, good):
    chosen = tls.Tls(None, allowed=allowed)
    if good:
        Peer(name).check(chosen)
    else:
        with pytest.raises(ConnectionRefusedError, match=r"authz check for .* is denied"):
            Peer(name).check(chosen)


def test_somebody_else_can_be_asked_who_is_let_in():
    asked = []
    chosen = tls.Tls(None, authorize=lambda name: asked.append(name) or name == "CN=a")
    Peer("a").check(chosen)
    with pytest.raises(ConnectionRefusedError, match="authz check for CN=b is denied"):
        Peer("b").check(chosen)
    assert asked == ["CN=a", "CN=b"]


def test_shared_keys_are_lines_of_user_and_key(tmp_path):
    (tmp_path / "keys.psk").write_text("alice:00ff\n\nan:other:AB\n")
    assert tls.read_psk_keys(tmp_path) == {"alice": b"\x00\xff", "an:other": b"\xab"}


@pytest.mark.parametrize("line", ["alice", "alice:", ":00", "alice:0", "alice:xy"])
def test_a_wrong_line_is_named(tmp_path, line):
    (tmp_path / "keys.psk").write_text(f"bob:00\n{line}\n")
    with pytest.raises(UsageError, match=r"keys\.psk:2: not a user"):
        tls.read_psk_keys(tmp_path)
