from nbexport.emulator import StepAnswer, told

EVENT = {"event": "STOP", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}}


def test_what_was_told_is_plain_and_has_no_times():
    answers = {
        "first": StepAnswer("stop", {"return": {}}, before=(EVENT,)),
        "second": StepAnswer("x", {"error": {"class": "CommandNotFound", "desc": "no"}}),
        "third": StepAnswer("cont", {"return": {}}, after=(EVENT, EVENT)),
    }
    plain = {"event": "STOP", "data": {}}
    assert told(answers) == {
        "first": {"reply": {"return": {}}, "before": [plain]},
        "second": {"reply": {"error": {"class": "CommandNotFound", "desc": "no"}}},
        "third": {"reply": {"return": {}}, "after": [plain, plain]},
    }
