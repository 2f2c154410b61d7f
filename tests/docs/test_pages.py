"""The README stays short, links lead somewhere, and numbers that stand on two pages are the same on both."""

import re
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DOCS, ROOT, pages

README_LINES = 150
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """Those of the site are checked when it is built, too; those of pages beside it are checked here alone."""
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    names = {str(page.relative_to(DOCS).with_suffix("")) for page in pages() if page.is_relative_to(DOCS)}
    listed = set(re.findall(r"^([a-z-]+/[a-z0-9-]+)$", index, re.M))
    assert listed == names - {"index"}


def test_the_demo_has_one_table() -> None:
    tables = [
        re.search(r"<!-- demo: begin -->.*<!-- demo: end -->", page.read_text(), re.S)
        for page in (ROOT / "README.md", DOCS / "tutorials" / "first-run.md")
    ]
    assert all(tables)
    assert len({table[0] for table in tables if table}) == 1


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    values = [found["value"] for work in citation["references"] for found in work["identifiers"]]
    assert values == ["arXiv:2310.15477", "arXiv:2302.04870"]
