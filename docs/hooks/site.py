"""Hooks of MkDocs: the front page is the README, and links to files outside of the guide become their paths.

On a code host these links lead to the files; the site does not hold them. A link to nothing fails the build.
"""

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LOG = logging.getLogger("mkdocs.hooks.site")
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+|examples/|[A-Z]+\.md)(?:#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the README as the front page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links to files outside of the guide by their text and path."""
    docs = ROOT / "docs"
    folder = ROOT if page.file.src_uri == "index.md" else (docs / page.file.src_uri).parent

    def path(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            LOG.warning("%s: link to '%s', which is not there", page.file.src_uri, match[2])
        name = f"`{target.relative_to(ROOT)}`"
        return name if match[1].strip("`") in (name.strip("`"), target.name) else f"{match[1]} ({name})"

    return OUTSIDE.sub(path, markdown)
