"""Pages of the repository outside docs/ in the site, and links that work both there and in the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")


def pages() -> dict[Path, str]:
    """Path in the site of each page that is not at its place in docs/."""
    named = {
        "README.md": "index.md",
        "docs/README.md": "contents.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "SECURITY.md": "security_policy.md",
        "CODE_OF_CONDUCT.md": "conduct.md",
        "benchmarks/README.md": "benchmarks.md",
        "experiments/README.md": "experiments/index.md",
    }
    found = {ROOT / source: uri for source, uri in named.items()}
    for page in sorted((ROOT / "experiments").glob("*/README.md")):
        found[page] = f"experiments/{page.parent.name}.md"
    return found


def on_files(files, config):
    """Add the pages outside docs/; docs/README.md, the list of all pages, leaves the place of the front page."""
    from mkdocs.structure.files import File

    files.remove(files.get_file_from_path("README.md"))
    for source, uri in pages().items():
        files.append(File.generated(config, uri, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links between pages of the site."""
    source = Path(page.file.abs_src_path).resolve()
    return _LINK.sub(lambda match: _in_site(match[1], source, page.file.src_uri), markdown)


def _in_site(target: str, source: Path, uri: str) -> str:
    """A link of the page `source`, which is `uri` in the site; unchanged where it leads to no file of the repository."""
    if "://" in target or target.startswith("mailto:"):
        return target
    path = (source.parent / target).resolve()
    there = pages().get(path)
    if there is None:
        if not (path.is_file() and path.is_relative_to(DOCS)):
            return target
        there = path.relative_to(DOCS).as_posix()
    return posixpath.relpath(there, posixpath.dirname(uri) or ".")
