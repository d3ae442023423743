"""Filters that jobs put above a disk for as long as they last; every request passes."""

from __future__ import annotations

from typing import ClassVar

from nbexport.block.passing import FilterNode


class JobFilterNode(FilterNode):
    """A filter that changes nothing about a request."""

    def read_now(self, offset: int, buffer: memoryview) -> bool:
        """Ask the node below."""
        return self.file.read_now(offset, buffer)


class CommitTopNode(JobFilterNode):
    """What a commit puts above the images whose data go down."""

    driver: ClassVar[str] = "commit_top"


class MirrorTopNode(JobFilterNode):
    """What a mirror puts above its source."""

    driver: ClassVar[str] = "mirror_top"


class StreamTopNode(JobFilterNode):
    """What a stream puts above the image that gets the data."""

    driver: ClassVar[str] = "copy-on-read"
