"""The table of what large models need is what the formulas of `crash plan-cost` say."""

import pytest

from docs.generate.large_models import updated
from docs.generate.markers import replace_between
from tests.docs.pages import DOCS


def test_the_page_has_the_numbers_of_the_formulas() -> None:
    text = (DOCS / "how-to" / "cost.md").read_text()
    assert updated(text) == text, "run `make readme`"


def test_a_page_without_its_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no part between BEGIN and END"):
        replace_between("a page with BEGIN alone", "BEGIN", "END", "numbers")
