"""Write a post."""

from __future__ import annotations


def render(channel: str, title: str, text: str, tags: list[str]) -> str:
    """A post in Markdown, as the channel likes it."""
    heading = f"# {title}\n\n" if channel == "blog" else ""
    labels = " ".join(f"#{tag}" for tag in tags)
    return f"{heading}{text}\n\n{labels}\n"
