from nbexport.plots import command_table

LOG = [
    (("stop", {}), {"return": {}}),
    (("blockdev-del", {"node-name": "n"}), {"error": {"class": "GenericError", "desc": "no"}}),
]


def test_commands_stand_as_they_were_sent():
    assert [tuple(row) for row in command_table(LOG).rows] == [
        ("stop", "{}", "✓"),
        ("blockdev-del", '{"node-name": "n"}', "no"),
    ]
    assert len(command_table(LOG, last=1).rows) == 1
    assert command_table(LOG, last=1).rows[0][0] == "blockdev-del"
