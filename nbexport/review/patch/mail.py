"""Mails to texts: mailboxes taken apart, transfer encodings undone, headers read.

A mailbox is what ``git format-patch``, mailing list archives and mail programs save: messages one
after another, each with a ``From `` line before it. A message by itself has its headers first.
What RFC 2045 (transfer encodings), RFC 2047 (words in headers) and RFC 3676 (``format=flowed``)
do to a text is undone; the CR of CRLF, which is the transport's, goes as it does in ``git am``.
"""

from __future__ import annotations

import email
import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from typing import TYPE_CHECKING

from nbexport.review.patch.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

# As git tells a mailbox's line from a sentence: a sender, a time and a year.
_FROM = re.compile(rb"^From \S.*\d{1,2}:\d\d:\d\d.* (?:19|20)\d\d(?: .*)?\r?$", re.MULTILINE)
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:[ \t]")
_PATCH_TYPES = ("text/x-patch", "text/x-diff", "text/plain")
_PATCH_NAMES = (".patch", ".diff")


@dataclass(frozen=True, slots=True)
class Mail:
    """The headers of a mail that a reply needs; what is missing is empty.

    Attributes:
        subject: unfolded and decoded.
        sender: the ``From`` header.
        to: the ``To`` header.
        cc: the ``Cc`` header.
        reply_to: the ``Reply-To`` header.
        date: the ``Date`` header as sent.
        message_id: with its angle brackets.
        references: the message ids of the thread, oldest first.
    """

    subject: str = ""
    sender: str = ""
    to: str = ""
    cc: str = ""
    reply_to: str = ""
    date: str = ""
    message_id: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of input: one mail, or a whole file that is none.

    Attributes:
        mail: its headers; None for a plain text.
        lines: the decoded text, line by line, without ends of lines.
    """

    mail: Mail | None
    lines: tuple[str, ...]


def read_texts(data: bytes, *, name: str = "") -> list[Text]:
    """Take an input apart.

    Args:
        data: a diff, a mail or a mailbox.
        name: what errors call it.

    Returns:
        One text for each mail, in the order of the input; a plain diff is the only one.

    Raises:
        PatchError: a mail has no text to read.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if _FROM.match(data.lstrip(b"\r\n")):
        return [_mail(message, name) for message in _messages(data)]
    if _HEADER.match(data) and _is_mail(data):
        return [_mail(data, name)]
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    # a diff that went through a mail program as a whole; if only content has CR, files have it
    if lines and all(line.endswith("\r") for line in lines):
        lines = [line[:-1] for line in lines]
    return [Text(None, tuple(lines))]


def _is_mail(data: bytes) -> bool:
    """Whether headers stand at the top: a diff may begin with a word and a colon, too."""
    head = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[0].split(b"\n")
    names = {line.split(b":", 1)[0].strip().lower() for line in head if _HEADER.match(line)}
    return len(names & {b"from", b"subject", b"date", b"message-id", b"to", b"received"}) >= 2


def _messages(data: bytes) -> Iterator[bytes]:
    starts = [match.start() for match in _FROM.finditer(data)]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        yield data[start:end].split(b"\n", 1)[-1]


def _mail(data: bytes, name: str) -> Text:
    message = email.message_from_bytes(data)
    mail = Mail(
        subject=_header(message, "Subject"),
        sender=_header(message, "From"),
        to=_header(message, "To"),
        cc=_header(message, "Cc"),
        reply_to=_header(message, "Reply-To"),
        date=_header(message, "Date"),
        message_id=_header(message, "Message-ID"),
        references=_references(message),
    )
    parts = [text for part in message.walk() if (text := _part(part)) is not None]
    if not parts:
        title = mail.subject or mail.message_id or "without subject"
        raise PatchError(f"the mail '{title}' has no plain text", name=name)
    text = "\n".join(part.removesuffix("\n") for part in parts)
    return Text(mail, tuple(text.split("\n")))


def _header(message: Message, name: str) -> str:
    """Return a header decoded and on one line; undecodable characters are replaced."""
    raw = message.get(name)
    if raw is None:
        return ""
    try:
        decoded = decode_header(raw)
    except (HeaderParseError, ValueError):
        decoded = [(str(raw), None)]
    text, was_encoded = "", False
    for word, charset in decoded:
        # the space between encoded and other words is no part of either
        if (charset is not None) != was_encoded:
            text += " "
        was_encoded = charset is not None
        text += word if isinstance(word, str) else _decoded(word, charset)
    return " ".join(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())


def _references(message: Message) -> tuple[str, ...]:
    found = re.findall(r"<[^<>\s]+>", _header(message, "References"))
    answered = re.findall(r"<[^<>\s]+>", _header(message, "In-Reply-To"))
    return tuple(dict.fromkeys([*found, *answered[:1]]))


def _part(part: Message) -> str | None:
    """Return the text of a part of a mail; None for what is no text or no patch."""
    if part.is_multipart():
        return None
    kind = part.get_content_type()
    file_name = part.get_filename() or ""
    if kind not in _PATCH_TYPES and not file_name.endswith(_PATCH_NAMES):
        return None
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return None
    text = _decoded(payload, part.get_content_charset()).replace("\r\n", "\n")
    if kind == "text/plain" and str(part.get_param("format", "")).lower() == "flowed":
        text = unflow(text, delete_space=str(part.get_param("delsp", "")).lower() == "yes")
    return text


def _decoded(data: bytes, charset: str | None) -> str:
    """Decode by the named character set, or as UTF-8 where it is missing, unknown or wrong."""
    if charset is not None and charset.lower() not in ("us-ascii", "unknown-8bit", "utf-8"):
        try:
            return data.decode(charset)
        except (LookupError, UnicodeDecodeError):
            pass
    return data.decode("utf-8", "surrogateescape")


def unflow(text: str, *, delete_space: bool = False) -> str:
    """Join the lines that a mail program broke (RFC 3676, sections 4.2 to 4.5).

    A line that ends with a space goes on in the next, the signature's ``-- `` apart; a space that
    was stuffed before a line goes.

    Args:
        text: the body of a mail with ``format=flowed``.
        delete_space: whether the space at the break is no part of the text (``delsp=yes``).
    """
    joined: list[str] = []
    open_line = False
    for line in text.split("\n"):
        # the quote marks of a reply are not touched: what is quoted is no patch
        content = line.removeprefix(" ") if not line.startswith(">") else line
        flows = content.endswith(" ") and content != "-- "
        shown = content[:-1] if flows and delete_space else content
        if open_line and content != "-- ":
            joined[-1] += shown
        else:
            joined.append(shown)
        open_line = flows
    return "\n".join(joined)
