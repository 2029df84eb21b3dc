"""The site is built from the pages, and needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.test_readme import DOCUMENTS, ROOT


def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A link or an anchor that leads nowhere, and a page that no menu has, are warnings."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > len(DOCUMENTS)
    for path, page in pages.items():
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*=[\"']?(?:https?:)?//[^>]*>", page)
        assert fetched == [], path
    first = pages[tmp_path / "site" / "index.html"]
    assert 'href="quick-start/"' in first
    assert 'href="repository/config.example.yaml"' in first
    assert 'href="repository/deploy/"' in first
