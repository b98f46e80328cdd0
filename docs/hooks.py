"""What `mkdocs build` needs to know: pages at the top of the repository belong to the documentation as well."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES_OF_THE_TOP = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files at the top and their names among the pages; a README.md there would count as the index."""

LINK = re.compile(r"(?P<mark>!?)(?<![\w\])])\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the repository's top."""
    top = Path(config.config_file_path).parent
    for source, name in PAGES_OF_THE_TOP.items():
        files.append(File.generated(config, name, abs_src_path=str(top / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links, which fit the repository's own site, fit the built pages.

    A link to a file that is no page (a preset, a licence) becomes its text: the built pages stand without the source.
    """
    sources = {name: source for source, name in PAGES_OF_THE_TOP.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))

    def rewrite(link: re.Match[str]) -> str:
        if "://" in link["path"]:
            return link[0]
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        name = PAGES_OF_THE_TOP.get(target, target.removeprefix("docs/"))
        if name == target:
            return link["text"]
        path = posixpath.relpath(name, posixpath.dirname(here) or ".")
        return f"{link['mark']}[{link['text']}]({path}{link['anchor'] or ''})"

    return LINK.sub(rewrite, markdown)
