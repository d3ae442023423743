import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import UsageError
from nbexport.nbd import Client, NbdUri
from nbexport.nbd.uri import TlsChoice


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("nbd://localhost", NbdUri()),
        ("nbd://localhost/", NbdUri()),
        ("nbd://example.com:99/disk", NbdUri("disk", None, "example.com", 99)),
        ("nbd://[::1]/a", NbdUri("a", None, "::1")),
        ("nbd://[::1]:5/a/b", NbdUri("a/b", None, "::1", 5)),
        ("nbd://127.0.0.1//a", NbdUri("/a", None, "127.0.0.1")),
        ("nbd:///a", NbdUri("a")),
        ("nbd://h/a%20b%3F%23%25", NbdUri("a b?#%", None, "h")),
        ("nbd://h/%C3%B6%FF", NbdUri("ö\udcff", None, "h")),
        ("nbd+unix:///?socket=/tmp/s", NbdUri("", "/tmp/s")),
        ("nbd+unix:///a?socket=/tmp/a%20b%26c", NbdUri("a", "/tmp/a b&c")),
        ("nbd+unix:///a?socket=relative", NbdUri("a", "relative")),
    ],
)
def test_reading(text, uri):
    assert NbdUri.parse(text) == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nbds+vsock://1/", "vsock is not supported"),
        ("nbds://h/?tls-verify-peer=maybe", "tls-verify-peer is true or false, not 'maybe'"),
        ("nbds://h/?tls-certificates=", "tls-certificates must have one value"),
        ("nbds://h/?tls-username=a&tls-username=b", "tls-username must have one value"),
        ("nbds://h/?tls-psk-file=/k&tls-certificates=/c", "exclude each other"),
        ("nbd+vsock://2/", "vsock is not supported"),
        ("http://h/", "not an NBD URI"),
        ("/tmp/s", "not an NBD URI"),
        ("", "not an NBD URI"),
        ("nbd+unix:///a", "names one socket"),
        ("nbd+unix:///a?socket=", "names one socket"),
        ("nbd+unix:///a?socket=/a&socket=/b", "names one socket"),
        ("nbd+unix:///a?socket=/a%00b", "no NUL"),
        ("nbd://h:port/", "not a URI"),
        ("nbd://h:99999/", "not a URI"),
        ("nbd://[::1/", "not a URI"),
    ],
)
def test_refusing(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        NbdUri.parse(text)
    assert str(caught.value).startswith(f"{text}: ")


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
PATHS = NAMES.filter(lambda text: text and "\0" not in text)


@given(NAMES, PATHS)
def test_what_is_printed_of_a_socket_reads_back(name, path):
    uri = NbdUri(name, path)
    assert str(uri).isascii()
    assert NbdUri.parse(str(uri)) == uri


@given(
    NAMES, st.sampled_from(("localhost", "127.0.0.1", "::1", "a.example")), st.integers(1, 65535)
)
def test_what_is_printed_of_an_address_reads_back(name, host, port):
    uri = NbdUri(name, None, host, port)
    assert NbdUri.parse(str(uri)) == uri


def test_the_default_port_is_left_out():
    assert str(NbdUri("a b", None, "::1")) == "nbd://[::1]/a%20b"
    assert str(NbdUri("", None, "h", 7)) == "nbd://h:7/"


@given(
    st.builds(
        NbdUri,
        export=st.text(max_size=10),
        socket=st.none() | PATHS,
        tls=st.none()
        | st.builds(
            TlsChoice,
            certificates=st.none() | st.text(min_size=1, max_size=10),
            hostname=st.none() | st.text(min_size=1, max_size=10),
            verify=st.booleans(),
            username=st.none() | st.text(min_size=1, max_size=10),
        ),
    )
)
def test_what_is_written_is_read_again(uri):
    assert NbdUri.parse(str(uri)) == uri


def test_tls_is_told_by_the_scheme_and_the_query():
    uri = NbdUri.parse("nbds://anna@h:1/x?tls-psk-file=/keys&tls-verify-peer=false")
    assert uri.tls == TlsChoice(verify=False, psk_file="/keys", username="anna")
    assert NbdUri.parse("nbds+unix:///?socket=/s&tls-certificates=/c").tls.certificates == "/c"
    assert NbdUri.parse("nbd://h/").tls is None


def test_a_plus_sign_is_itself():
    assert NbdUri.parse("nbd+unix:///x+y?socket=/tmp/a+b%2Bc%20d") == NbdUri("x+y", "/tmp/a+b+c d")


@pytest.mark.parametrize("host", ["a..example", "a" * 70 + ".example"])
def test_what_cannot_be_a_host(host):
    with pytest.raises(UsageError, match="not the name of a host"):
        Client.connect(f"nbd://{host}/")
