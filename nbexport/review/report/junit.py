"""The report as JUnit's XML: a suite for the change, or for each patch of a series.

A finding at or above the failing level is a failed case; one below passes and speaks on its
output. Rules without findings pass, so that a test runner shows what was looked at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from nbexport.review.report.model import route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.review.finding import Finding
    from nbexport.review.report.model import Review

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
# Characters that XML 1.0 has no form for (production 2, Char).
_NO_CHARACTER = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(review: Review) -> str:
    """Return the report as an XML document."""
    suites = ET.Element("testsuites", name="nbexport review")
    if len(review.steps) > 1:
        for step in review.steps:
            _suite(suites, review, step.step.patch.shown, step.findings)
    _suite(suites, review, f"{review.old} -> {review.new}", review.findings)
    for key in ("tests", "failures"):
        suites.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    ET.indent(suites)
    return f"{_DECLARATION}\n{ET.tostring(suites, encoding='unicode')}\n"


def _suite(suites: ET.Element, review: Review, name: str, findings: Sequence[Finding]) -> None:
    suite = ET.SubElement(suites, "testsuite", name=_clean(name))
    found = {finding.rule for finding in findings}
    for rule in review.rules:
        if rule not in found:
            ET.SubElement(suite, "testcase", classname=f"review.{rule}", name=rule)
    for finding in findings:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"review.{finding.rule}",
            name=_clean(f"{finding.rule}: {finding.element}"),
        )
        place = finding.new or finding.old
        if place is not None:
            case.set("file", _clean(place.file))
            case.set("line", str(place.line))
        parts = [str(place) if place is not None else "", route(finding), finding.advice]
        body = _clean("\n".join(part for part in parts if part))
        message = _clean(f"{finding.level}: {finding.message}")
        if finding.level >= review.fail_on:
            failure = ET.SubElement(case, "failure", type=str(finding.level), message=message)
            failure.text = body
        else:
            ET.SubElement(case, "system-out").text = f"{message}\n{body}"
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in suite)))
    suite.set("errors", "0")


def _clean(text: str) -> str:
    return _NO_CHARACTER.sub("\ufffd", text)
