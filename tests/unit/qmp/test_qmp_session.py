"""The engine of a monitor's connection: negotiation, envelopes, queue, events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import CommandError
from nbexport.qapi import load_release
from nbexport.qmp import Session

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "p"}
CAPS = b'{"execute":"qmp_capabilities"}'
OOB = b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}'


def session(*, negotiated=True, enable=None, **options):
    made = Session(load_release("7.2"), version=VERSION, release=(7, 2), **options)
    if negotiated:
        made.data_to_send()
        made.receive_data(enable or CAPS)
        assert made.next_request() is None
        assert sent(made) == [{"return": {}}]
    return made


def sent(made):
    return [json.loads(line) for line in made.data_to_send().decode().splitlines()]


def ask(made, data):
    made.receive_data(data)
    request = made.next_request()
    return request, sent(made)


def test_greeting():
    made = session(negotiated=False)
    assert made.data_to_send() == (
        b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "p"},'
        b' "capabilities": ["oob"]}}\r\n'
    )
    assert made.data_to_send() == b""
    assert b'"capabilities": []' in session(negotiated=False, capabilities=()).data_to_send()


@pytest.mark.parametrize(
    ("data", "error_class", "desc"),
    [
        (b'{"execute":"quit"}', "CommandNotFound", "Expecting capabilities negotiation"),
        (b'{"execute":"nope"}', "CommandNotFound", "with 'qmp_capabilities'"),
        (b"[]", "GenericError", "QMP input must be a JSON object"),
        (b"nope ", "GenericError", "JSON parse error, invalid keyword 'nope'"),
        (
            b'{"execute":"qmp_capabilities","arguments":{"x":1}}',
            "GenericError",
            "'x' is unexpected",
        ),
        (b'{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}', "GenericError", "'null'"),
    ],
)
def test_a_failed_negotiation_leaves_it_open(data, error_class, desc):
    made = session(negotiated=False)
    made.data_to_send()
    request, (answer,) = ask(made, data)
    assert request is None
    assert answer["error"]["class"] == error_class
    assert desc in answer["error"]["desc"]
    assert not made.negotiated
    assert ask(made, CAPS) == (None, [{"return": {}}])
    assert made.negotiated


def test_a_capability_that_is_not_offered():
    made = session(negotiated=False, capabilities=())
    made.data_to_send()
    _, (answer,) = ask(made, OOB)
    assert answer == {"error": {"class": "GenericError", "desc": "Capability oob not available"}}
    assert made.enabled == frozenset()


def test_a_second_negotiation():
    _, (answer,) = ask(session(), CAPS)
    assert answer["error"] == {
        "class": "CommandNotFound",
        "desc": "Capabilities negotiation is already complete, command ignored",
    }


def test_requests_come_one_by_one_and_answers_carry_their_ids():
    made = session()
    made.receive_data(b"{'execute':'a','id':1}{'execute':'b','arguments':{'x':2}}nope ")
    first = made.next_request()
    assert (first.command, first.arguments, first.id, first.has_id) == ("a", {}, 1, True)
    assert made.next_request() is None
    assert not made.wants_data
    made.reply(first, None)
    second = made.next_request()
    assert (second.command, second.arguments, second.has_id) == ("b", {"x": 2}, False)
    made.fail(second, CommandError("no", error_class="DeviceNotFound"))
    assert made.next_request() is None
    assert made.wants_data
    assert sent(made) == [
        {"return": {}, "id": 1},
        {"error": {"class": "DeviceNotFound", "desc": "no"}},
        {"error": {"class": "GenericError", "desc": "JSON parse error, invalid keyword 'nope'"}},
    ]


def test_no_answer_at_all():
    made = session()
    request, _ = ask(made, b"{'execute':'a'}")
    made.finish(request)
    assert sent(made) == []
    assert made.wants_data


@pytest.mark.parametrize(
    ("data", "desc"),
    [
        (b"{}", "QMP input lacks member 'execute'"),
        (b"{'execute':1}", "QMP input member 'execute' must be a string"),
        (b"{'execute':'a','arguments':null}", "QMP input member 'arguments' must be an object"),
        (b"{'execute':'a','x':1}", "QMP input member 'x' is unexpected"),
        (b"{'exec-oob':'a'}", "QMP input member 'exec-oob' is unexpected"),
    ],
)
def test_envelopes(data, desc):
    request, (answer,) = ask(session(), data[:-1] + b",'id':null}" if len(data) > 2 else data)
    assert request is None
    assert answer["error"]["desc"] == desc
    assert ("id" in answer) == (len(data) > 2)


def test_out_of_band_requests_overtake():
    made = session(enable=OOB)
    made.receive_data(b"{'execute':'a'}{'execute':'b'}{'exec-oob':'c','id':3}")
    assert made.next_request().command == "c"
    running = made.next_request()
    assert running.command == "a"
    made.receive_data(b"{'exec-oob':'d'}")
    urgent = made.next_request()
    assert (urgent.command, urgent.oob) == ("d", True)
    assert made.next_request() is None
    made.reply(urgent, {})
    assert made.next_request() is None
    made.reply(running, {})
    assert made.next_request().command == "b"


def test_the_queue_is_bounded():
    made = session(enable=OOB)
    made.receive_data(b"{'execute':'a'}" * 20)
    assert made.next_request() is not None
    assert made.next_request() is None
    # one runs, 8 wait, the others are still text
    assert not made.wants_data
    assert made._stream.buffered == 11 * len(b"{'execute':'a'}")


def test_events():
    made = session(negotiated=False)
    made.data_to_send()
    made.event("BLOCK_EXPORT_DELETED", {"id": "e"}, (1, 2))
    assert sent(made) == []
    ask(made, CAPS)
    made.event("BLOCK_EXPORT_DELETED", {"id": "e"}, (1, 2))
    assert made.data_to_send() == (
        b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BLOCK_EXPORT_DELETED",'
        b' "data": {"id": "e"}}\r\n'
    )
    made.event("OTHER", None, (1, 2))
    assert "data" not in sent(made)[0]


def test_pretty():
    assert (
        session(negotiated=False, pretty=True).data_to_send().startswith(b'{\r\n    "QMP": {\r\n')
    )


PIECES = [b"{'execute':'a'}", b"{'exec-oob':'b'}", CAPS, OOB, b"{", b"}", b"[", b"'", b"1", b"\xff"]


@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)), max_size=20),
    st.integers(1, 40),
)
def test_any_input_in_any_pieces_is_answered_alike(pieces, step):
    data = b"".join(pieces)

    def talk(chunks):
        made = session(negotiated=False)
        for chunk in chunks:
            made.receive_data(chunk)
            while (request := made.next_request()) is not None:
                made.reply(request, {"c": request.command})
        return made.data_to_send()

    whole = talk([data])
    assert talk([data[i : i + step] for i in range(0, len(data), step)]).count(
        b"\n"
    ) == whole.count(b"\n")
    for line in whole.decode("ascii").splitlines():
        assert set(json.loads(line)) & {"QMP", "return", "error"}
