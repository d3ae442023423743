import io

import numpy as np
import pytest

from nbexport.errors import UsageError
from nbexport.plots import draw_availability

RELEASES = ["3.1", "4.0", "5.2", "6.0"]


def test_each_kind_is_drawn_and_told():
    found = {"old": ["", "yes", "deprecated", "deprecated"], "new": ["", "", "yes", "unstable"]}
    plot = draw_availability(found, RELEASES, title="Calls")
    assert plot.alt == (
        "Calls. old: absent in 3.1, present in 4.0, deprecated from 5.2 to 6.0; "
        "new: absent from 3.1 to 4.0, present from 5.2 to 6.0."
    )
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(plot.png())).convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (213, 94, 0), (228, 228, 228)):
        assert (abs(picture - colour).max(axis=2) <= 3).any(), colour
    assert [text.get_text() for text in plot.figure.axes[0].get_yticklabels()] == ["old", "new"]


@pytest.mark.parametrize(
    ("found", "message"),
    [({}, "no call"), ({"a": ["yes"]}, "'a' has 1 answers for 4 releases")],
)
def test_what_does_not_fit_together_is_refused(found, message):
    with pytest.raises(UsageError, match=message):
        draw_availability(found, RELEASES, title="")
