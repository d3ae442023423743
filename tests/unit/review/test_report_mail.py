"""The report as mail: a reply that another person would read."""

from __future__ import annotations

import contextlib
import difflib
import email
import email.policy
import mailbox
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reviews import BASE, SEPARATOR, diff, mail, reviewed

from nbexport.review.patch import parse_series
from nbexport.review.report import as_mail, replies
from nbexport.review.report.quoting import quoted

COMMENT = """\
--- a/qapi/control.json
+++ b/qapi/control.json
@@ -1,2 +1,3 @@
 # SPDX-License-Identifier: Apache-2.0
+# one more comment

"""


@pytest.fixture(scope="module")
def v5():
    return reviewed(mail(diff("base", "v5")))


@pytest.fixture(scope="module")
def reply(v5):
    return email.message_from_bytes(as_mail(v5).encode(), policy=email.policy.default)


def body_of(message):
    return message.get_content().split("\n")


def said_under(lines, quote):
    """Return the remark under a quoted line, on one line."""
    start = lines.index(quote) + 1
    remark = []
    for line in lines[start:]:
        if line.startswith((">", "[...]")):
            break
        remark.append(line)
    return " ".join(" ".join(remark).split())


def test_the_headers_are_those_of_a_reply(reply):
    assert reply["Subject"] == (
        "Re: [PATCH v5 1/1] nbd: Update qapi to support exporting multiple bitmaps"
    )
    assert reply["To"] == "A Contributor <contributor@example.org>"
    assert [address.addr_spec for address in reply["Cc"].addresses] == [
        "qemu-devel@example.org",
        "qemu-block@example.org",
        "reader@example.org",
    ]
    assert reply["Cc"].addresses[2].display_name == "B. Reader"
    assert reply["In-Reply-To"] == "<5-1@example.org>"
    assert str(reply["References"]).split() == [
        "<4-0@example.org>",
        "<5-0@example.org>",
        "<5-1@example.org>",
    ]
    assert reply.get_content_charset() == "utf-8"
    assert not reply.defects


def test_it_opens_with_who_is_quoted_and_ends_with_a_signature(reply):
    lines = body_of(reply)
    assert lines[0] == "On Mon, 26 Oct 2020 11:52:33 -0500, A Contributor wrote:"
    assert lines[-4:-2] == ["", "-- "]
    assert lines[-2].startswith("nbexport ")


def test_each_finding_stands_under_the_line_that_it_is_about(reply):
    lines = body_of(reply)
    leak = said_under(
        lines, "> +            '*bitmaps': [ 'str' ], '*allocation-depth': 'bool' } }"
    )
    assert "leaks into nbd-server-add, which is deprecated" in leak
    assert "'bitmaps'" in leak
    assert "nbd-server-add -> NbdServerAddOptions -> base BlockExportOptionsNbd -> " in leak
    assert leak.endswith("[leak-through-base, deprecated-gained-member]")
    phantom = said_under(lines, "> +#     @bitmaps, which new clients should prefer.")
    assert phantom.startswith("The documentation of 'bitmap' of nbd-server-add names @bitmaps")
    assert phantom.endswith("[doc-phantom-member]")


def test_what_the_patch_does_not_show_is_said_at_the_end_with_its_place(reply):
    text = " ".join(reply.get_content().partition("of this patch:")[2].split())
    assert text.startswith("qapi/block-export.json:105: nbd-server-add is deprecated in favour of")


def test_lines_without_remark_are_cut_out_and_marked(reply):
    lines = body_of(reply)
    quotes = [line for line in lines if line.startswith(">")]
    assert "> Why it is done." not in quotes
    assert not any("index 1..2" in line or "diff --git" in line for line in quotes)
    assert "> +++ b/qapi/block-export.json" in quotes
    assert "[...]" in lines
    assert len(quotes) < len(diff("base", "v5").splitlines())


def test_prose_is_not_wider_than_mail_is(reply):
    for line in body_of(reply):
        assert len(line) <= 72 or line.startswith(">")
        assert line == line.rstrip() or line in ("-- ", "> ")


def test_advice_is_given_once():
    review = reviewed(mail(diff("base", "v5")), audit=True)
    text = " ".join(as_mail(review).split())
    assert text.count("Ship the replacement first") == 1
    assert text.count("is deprecated in favour of") == 2


def test_findings_of_no_weight_are_no_remarks(v5):
    assert any(str(finding.level) == "info" for finding in v5.findings)
    assert "is new" not in as_mail(v5)


def test_the_sixth_revision_has_no_leak_left():
    text = as_mail(reviewed(mail(diff("base", "v6"))))
    assert "leak" not in text
    assert "phantom" not in text


def test_where_nothing_is_found_it_says_so():
    (reply,) = replies(reviewed(mail("diff --git a/x.c b/x.c\nold mode 1\nnew mode 2\n")))
    assert "No file of the schema is changed" in str(reply)
    (reply,) = replies(reviewed(mail(COMMENT), "release:7.2", release="8.0"))
    assert "Nothing to object to in the interface for 8.0." in str(reply)


def test_a_patch_without_headers_is_answered_as_well():
    (reply,) = replies(reviewed(diff("base", "v5")))
    names = [name for name, _ in reply.headers]
    assert names[0] == "Subject"
    assert "To" not in names
    assert "In-Reply-To" not in names
    assert reply.body[0] == "[...]" or reply.body[0].startswith(">")


def test_names_and_subjects_beyond_ascii_are_encoded():
    text = mail(diff("base", "v5"))
    text = text.replace("A Contributor <", "=?utf-8?q?J=C3=BCrgen?= <").replace(
        "nbd: Update", "=?utf-8?q?=C3=9Cber?= nbd: Update"
    )
    shown = as_mail(reviewed(text))
    assert shown.partition("\n\n")[0].isascii()
    reply = email.message_from_bytes(shown.encode(), policy=email.policy.default)
    assert reply["To"].addresses[0].display_name == "Jürgen"
    assert "Über nbd: Update" in reply["Subject"]
    assert "Jürgen wrote:" in reply.get_content()


# -- series ---------------------------------------------------------------------------------------


def series():
    cover = mail("", "0/2").replace("---\n", "")
    return "".join(
        SEPARATOR + text
        for text in (cover, mail(diff("base", "v5"), "1/2"), mail(diff("v5", "v6"), "2/2"))
    )


def test_each_patch_with_remarks_gets_its_reply():
    review = reviewed(series())
    first, *_ = replies(review)
    assert dict(first.headers)["In-Reply-To"] == "<5-1@example.org>"
    text = " ".join(str(first).split())
    assert "The series as a whole does not do this." in text
    # what a later patch mends needs no advice
    assert "Split the type" not in text


def test_several_replies_are_a_mailbox(tmp_path):
    (tmp_path / "schema.json").write_text(ONE)
    review = reviewed(patches([ONE, NONE, NONE.replace("'stay'", "'leave'")]), str(tmp_path))
    assert len(replies(review)) == 2
    path = tmp_path / "replies"
    path.write_text(as_mail(review))
    with contextlib.closing(mailbox.mbox(path)) as box:
        assert len(box) == 2


ONE = """\
{ 'command': 'go', 'data': { 'name': 'str', '*map': 'str' } }
{ 'command': 'stay' }
"""
NONE = ONE.replace(", '*map': 'str'", "")
OTHER = ONE.replace("'*map': 'str'", "'*map': 'int'")


def patches(parts):
    """The mails of a series, from each text to the next."""
    count = len(parts) - 1
    mails = [mail("", f"0/{count}").replace("---\n", "")]
    for number in range(1, len(parts)):
        old, new = (text.splitlines(keepends=True) for text in parts[number - 1 : number + 1])
        text = "".join(difflib.unified_diff(old, new, "a/schema.json", "b/schema.json"))
        mails.append(mail(text, f"{number}/{count}"))
    return "".join(SEPARATOR + text for text in mails)


def test_what_only_the_whole_does_goes_to_the_cover_letter(tmp_path):
    (tmp_path / "schema.json").write_text(ONE)
    review = reviewed(patches([ONE, NONE, OTHER]), str(tmp_path))
    assert [finding.element for finding in review.whole_only] == ["go.map"] * len(review.whole_only)
    assert "argument-type-changed" in {finding.rule for finding in review.whole_only}
    whole, first = replies(review)
    assert dict(whole.headers)["In-Reply-To"] == "<5-0@example.org>"
    text = " ".join(whole.body)
    assert "No patch by itself, but the series as a whole does this:" in text
    assert "schema.json:1: " in text
    assert dict(first.headers)["In-Reply-To"] == "<5-1@example.org>"
    assert "as a whole does not do this" in " ".join(first.body)


# -- quoting --------------------------------------------------------------------------------------

PATCH = parse_series(mail(diff("base", "v3")).encode()).patches[0]


@given(st.sets(st.integers(0, len(PATCH.lines) - 1), max_size=6))
def test_quotes_are_the_patch_in_order_and_hold_every_line_spoken_of(targets):
    out = quoted(PATCH, {line: [f"remark {line}"] for line in targets})
    rest = iter(PATCH.lines)
    for line in out:
        if line.startswith(">"):
            text = line[2:]
            assert any(text == other for other in rest), "a quote that is not next in the patch"
    for target in targets:
        at = out.index(f"remark {target}")
        assert out[at - 1] == ""
        assert out[at - 2][2:] == PATCH.lines[target]
    assert "[...]\n[...]" not in "\n".join(out)


def test_what_cannot_be_printed_is_replaced():
    (patch,) = parse_series(b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+\x1b[31m\xff\n").patches
    (line,) = [line for line in quoted(patch, {4: ["r"]}) if "[31m" in line]
    assert line == "> +\ufffd[31m\ufffd"


def test_the_base_is_not_written():
    before = sorted((path, path.read_bytes()) for path in Path(BASE).iterdir())
    reviewed(mail(diff("base", "v5")))
    after = sorted((path, path.read_bytes()) for path in Path(BASE).iterdir())
    assert before == after


def small(tmp_path, old, new):
    """Return the body of the reply to a patch of a small schema, without line breaks."""
    (tmp_path / "schema.json").write_text(old)
    sides = (text.splitlines(keepends=True) for text in (old, new))
    text = "".join(difflib.unified_diff(*sides, "a/schema.json", "b/schema.json"))
    (reply,) = replies(reviewed(mail(text), str(tmp_path)))
    return reply.body


def test_what_happens_many_times_is_told_once_and_listed(tmp_path):
    old = "".join(f"{{ 'command': 'c{n}' }}\n" for n in range(20))
    body = small(tmp_path, old, "{ 'command': 'c0' }\n")
    text = " ".join(body)
    assert text.count("goes without having been deprecated") == 1
    assert text.count("[removed-without-deprecation") == 1
    assert "Likewise c2, c3, c4, " in text
    assert "and 6 more." in text
    assert body[body.index("> -{ 'command': 'c1' }") + 2].startswith("The command c1 goes without")


def test_few_of_a_kind_are_told_each_under_its_line(tmp_path):
    old = "".join(f"{{ 'command': 'c{n}' }}\n" for n in range(3))
    text = " ".join(small(tmp_path, old, "{ 'command': 'c0' }\n"))
    assert text.count("goes without having been deprecated") == 2
    assert "Likewise" not in text


def test_the_sender_is_not_copied_and_nobody_twice():
    text = mail(diff("base", "v5")).replace(
        "Cc: ", "Cc: Contributor@example.org, qemu-devel@example.org, "
    )
    (reply,) = replies(reviewed(text))
    headers = dict(reply.headers)
    assert headers["Cc"].lower().count("qemu-devel@") == 1
    assert "contributor" not in headers["Cc"].lower()


def test_replies_to_are_sent_where_the_sender_wants_them():
    text = mail(diff("base", "v5")).replace("To: qemu", "Reply-To: other@example.org\nTo: qemu")
    (reply,) = replies(reviewed(text))
    assert dict(reply.headers)["To"] == "other@example.org"
