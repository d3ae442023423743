"""Mails and mailboxes: what the transport did is undone."""

from __future__ import annotations

import base64
import quopri
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.review.patch import PatchError, parse_series, read_patch
from nbexport.review.patch.mail import read_texts, unflow

DIFF = """\
diff --git a/x.json b/x.json
--- a/x.json
+++ b/x.json
@@ -1,2 +1,3 @@
 a
+ä = "b"
 c
"""


def mail(subject="[PATCH] Change x", body=f"Why.\n---\n{DIFF}-- \n2.39.5\n", headers=""):
    head = "From: A Contributor <contributor@example.org>\nDate: Mon, 26 Oct 2020 11:52:33 -0500\n"
    return f"{head}Subject: {subject}\n{headers}\n{body}".encode()


def mbox(*mails):
    separator = b"From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"
    return b"".join(separator + item + b"\n" for item in mails)


def added(series, number=0):
    hunk = series.patches[number].files[0].hunks[0]
    return [line.text for line in hunk.lines if line.sign == "+"]


def test_a_plain_diff_is_a_patch_without_headers():
    series = parse_series(DIFF.encode(), name="x.patch")
    assert series.patches[0].mail is None
    assert series.patches[0].title == "x.patch"
    assert added(series) == ['ä = "b"\n']


def test_a_mail_by_itself_has_its_headers_first():
    (patch,) = parse_series(mail(headers="Message-ID: <1@example.org>\n")).patches
    assert patch.title == "Change x"
    assert patch.mail.message_id == "<1@example.org>"
    assert patch.message == "Why."
    assert patch.mail.sender == "A Contributor <contributor@example.org>"


def test_a_diff_that_begins_with_a_word_and_a_colon_is_no_mail():
    (text,) = read_texts(f"Note: see below\n\n{DIFF}".encode())
    assert text.mail is None


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("quoted-printable", quopri.encodestring),
        ("base64", base64.encodebytes),
        ("8bit", lambda data: data),
    ],
)
def test_transfer_encodings_are_undone(name, encode):
    head = f"From: a@example.org\nSubject: [PATCH] x\nContent-Transfer-Encoding: {name}\n"
    head += "Content-Type: text/plain; charset=utf-8\n\n"
    series = parse_series(head.encode() + encode(DIFF.encode()))
    assert added(series) == ['ä = "b"\n']


def test_another_character_set_is_decoded():
    head = "From: a@example.org\nSubject: [PATCH] x\nContent-Transfer-Encoding: 8bit\n"
    head += "Content-Type: text/plain; charset=iso-8859-1\n\n"
    assert added(parse_series(head.encode() + DIFF.encode("iso-8859-1"))) == ['ä = "b"\n']


def test_carriage_returns_of_the_transport_go():
    data = mail().replace(b"\n", b"\r\n")
    assert added(parse_series(data)) == ['ä = "b"\n']
    assert added(parse_series(DIFF.replace("\n", "\r\n").encode())) == ['ä = "b"\n']


def test_carriage_returns_of_the_content_stay():
    diff = DIFF.replace("\n a\n", "\n a\r\n").replace('"b"\n', '"b"\r\n').replace(" c\n", " c\r\n")
    assert added(parse_series(diff.encode())) == ['ä = "b"\r\n']


def test_an_attached_patch_is_read():
    body = (
        textwrap.dedent("""\
        --b
        Content-Type: text/plain

        See the attachment.
        --b
        Content-Type: text/x-patch; name=x.patch
        Content-Disposition: attachment; filename=x.patch
        Content-Transfer-Encoding: base64

        %s--b
        Content-Type: text/html

        <p>no</p>
        --b--
        """)
        % base64.encodebytes(DIFF.encode()).decode()
    )
    data = mail(body=body, headers="MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n")
    (patch,) = parse_series(data).patches
    assert patch.message == "See the attachment."
    assert patch.files[0].new == "b/x.json"


def test_a_mail_without_text_is_named():
    data = mail(body="<p>no</p>", headers="Content-Type: text/html\n")
    with pytest.raises(PatchError, match=r"p: the mail '\[PATCH\] Change x' has no plain text"):
        parse_series(data, name="p")


def test_words_in_headers_are_decoded():
    (patch,) = parse_series(mail(subject="=?utf-8?q?=5BPATCH=5D_=C3=9Cber?=\n x")).patches
    assert patch.title == "Über x"
    (patch,) = parse_series(mail(subject="[PATCH] Über x")).patches
    assert patch.title == "Über x"
    (patch,) = parse_series(mail(subject="[PATCH] =?utf-8?b?broken?=")).patches
    assert patch.files


def test_a_flowed_mail_is_joined_again():
    flowed = (
        DIFF.replace("\n a", "\n  a").replace("\n c", "\n  c").replace('+ä = "b"', '+ä = \n"b"')
    )
    data = mail(body=flowed, headers="Content-Type: text/plain; charset=utf-8; format=flowed\n")
    assert added(parse_series(data)) == ['ä = "b"\n']


def flow(text, width):
    """Write a text as a mail program does that flows: long lines broken at spaces, stuffed."""
    out = []
    for line in text.split("\n"):
        line = line.rstrip(" ") if line != "-- " else line
        pieces = []
        while len(line) > width and " " in line[1:width].rstrip():
            cut = line[:width].rstrip().rindex(" ") + 1
            # a piece may not end where only its stuffing or nothing stands
            if not line[:cut].strip() or not line[cut:].strip():
                break
            pieces.append(line[:cut])
            line = line[cut:]
        out += [f" {piece}" if piece[:1] in (" ", ">", "F") else piece for piece in [*pieces, line]]
    return "\n".join(out)


@given(
    st.lists(st.text("ab >-F ", max_size=40).map(lambda t: t.rstrip(" ")), max_size=8),
    st.integers(4, 20),
)
def test_what_was_flowed_is_what_it_was(lines, width):
    text = "\n".join(lines)
    assert unflow(flow(text, width)) == text


# -- series ---------------------------------------------------------------------------------------


def test_a_series_is_put_in_order_by_its_numbers():
    series = parse_series(
        mbox(
            mail("[PATCH v5 2/2] second"),
            mail("[PATCH v5 0/2] cover", "Words.\n\n x.json | 1 +\n"),
            mail("[PATCH v5 1/2] first"),
        )
    )
    assert [patch.shown for patch in series.patches] == ["1/2 first", "2/2 second"]
    assert series.cover.title == "cover"
    assert series.patches[0].version == 5


def test_replies_and_older_revisions_are_left_aside():
    series = parse_series(
        mbox(
            mail("[PATCH v2 1/1] new"),
            mail("Re: [PATCH v2 1/1] new"),
            mail("[PATCH 1/1] old"),
            mail("[PATCH v2 3/1] words", "no diff\n"),
        )
    )
    assert [patch.title for patch in series.patches] == ["new"]
    assert series.notes == (
        "left aside, as it is a reply: Re: [PATCH v2 1/1] new",
        "left aside, as there is no diff in it: words",
        "left aside for revision 2: v1 1/1 old",
    )


def test_a_gap_in_a_series_is_told():
    with pytest.raises(PatchError, match="p: patch 2 of 3 missing from the series"):
        parse_series(mbox(mail("[PATCH 1/3] a"), mail("[PATCH 3/3] c")), name="p")
    with pytest.raises(PatchError, match="p: patch 1/2 is there more than once"):
        parse_series(mbox(mail("[PATCH 1/2] a"), mail("[PATCH 1/2] b")), name="p")


def test_one_mail_out_of_a_series_is_a_patch():
    (patch,) = parse_series(mail("[PATCH 2/7] alone")).patches
    assert patch.shown == "2/7 alone"


def test_mails_without_numbers_keep_their_order():
    series = parse_series(mbox(mail("b"), mail("a")))
    assert [patch.title for patch in series.patches] == ["b", "a"]


@pytest.mark.parametrize("data", [b"", b"nothing\n", b"\xff\xfe", mail(body="only words\n")])
def test_where_no_patch_is_one_is_missed(data):
    with pytest.raises(PatchError, match="p: no patch in it"):
        parse_series(data, name="p")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PatchError, match=r"none\.patch: No such file or directory"):
        read_patch(str(tmp_path / "none.patch"))
    with pytest.raises(PatchError, match="Is a directory"):
        read_patch(str(tmp_path))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_series_or_a_clear_error(data):
    for given_ in (data, b"From: a@b\nSubject: x\n" + data, mbox(data), DIFF.encode() + data):
        try:
            parse_series(given_, name="p")
        except PatchError as error:
            assert str(error).startswith("p")  # noqa: PT017 - either is right
