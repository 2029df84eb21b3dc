"""The pages of the site beyond docs/: a hook of mkdocs.

README.md is the first page. Links are written as they work in the repository; those that leave
docs/ lead to copies of the files, under ``repository/``. Those to a folder become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FIRST = ROOT / "README.md"
LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md, and what it and the pages link to, also by way of one another."""
    known = [FIRST, *(ROOT / "docs").glob("*.md")]
    for path in known:  # which grows
        if path.suffix == ".md":
            known += [target for target in targets(path) if target not in known]
    for path in known:
        uri = address(path)
        if files.get_file_from_path(uri) is None:
            # Copies need not be in the navigation; they are found by links.
            level = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into those of the site."""
    del config
    uri = page.file.src_uri
    source = Path(page.file.abs_src_path or "")

    def site(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        target = (source.parent / path).resolve()
        if target.is_dir():
            return text
        if files.get_file_from_path(address(target)) is None:
            return link[0]  # mkdocs will say that it leads nowhere
        return f"[{text}]({posixpath.relpath(address(target), posixpath.dirname(uri))}{anchor})"

    return LINK.sub(site, markdown)


def targets(page: Path) -> set[Path]:
    """Return the files to which the relative links of a page lead."""
    links = LINK.findall(page.read_text())
    return {path for _, link, _ in links if (path := (page.parent / link).resolve()).is_file()}


def address(path: Path) -> str:
    """Return where in the site's sources a file of the repository is."""
    if path == FIRST:
        return "index.md"
    inside = path.relative_to(ROOT)
    page = inside.parts[0] == "docs"
    return str(inside.relative_to("docs") if page else "repository" / inside)
