"""Reports of a review: one module a form, all made from the same `Review`."""

from __future__ import annotations

from nbexport.review.report.github import as_github
from nbexport.review.report.junit import as_junit
from nbexport.review.report.mail import Reply, as_mail, replies
from nbexport.review.report.markdown import as_markdown
from nbexport.review.report.model import Review, StepReview
from nbexport.review.report.structured import as_json, json_schema
from nbexport.review.report.text import as_text

__all__ = [
    "Reply",
    "Review",
    "StepReview",
    "as_github",
    "as_json",
    "as_junit",
    "as_mail",
    "as_markdown",
    "as_text",
    "json_schema",
    "replies",
]
