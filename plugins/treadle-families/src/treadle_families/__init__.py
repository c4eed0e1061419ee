"""Four families of executors: research, publishing, generative and infra, each with the keys that its outputs must have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from treadle import Issue

from treadle_families._layered import LayeredExecutor, OutputStillInvalidError

__all__ = [
    "GenerativeExecutor",
    "InfraExecutor",
    "LayeredExecutor",
    "OutputStillInvalidError",
    "PublishingExecutor",
    "ResearchExecutor",
]


class ResearchExecutor(LayeredExecutor):
    """Gathers data; its output says what was asked for, or how much was found."""

    family: ClassVar[str] = "research"
    required_output_keys: ClassVar[Sequence[str | Collection[str]]] = (("post_count", "query"),)


class PublishingExecutor(LayeredExecutor):
    """Distributes content; its output says where, and either the address or how many were published."""

    family: ClassVar[str] = "publishing"
    required_output_keys: ClassVar[Sequence[str | Collection[str]]] = ("platform", ("post_url", "publish_count"))

    def validate_output(self, output: object) -> list[Issue | str]:
        """What the family's keys say, and in plain words when the platform is missing."""
        issues = super().validate_output(output)
        if isinstance(output, Mapping) and "platform" not in output:
            issues.append(f"{self.task_type}: missing 'platform' in output")
        return issues


class GenerativeExecutor(LayeredExecutor):
    """Makes media; its output says where the video is."""

    family: ClassVar[str] = "generative"
    required_output_keys: ClassVar[Sequence[str | Collection[str]]] = (("video_path", "video_url"),)


class InfraExecutor(LayeredExecutor):
    """Keeps data and state; its output says how that went."""

    family: ClassVar[str] = "infra"
    required_output_keys: ClassVar[Sequence[str | Collection[str]]] = ("status",)
