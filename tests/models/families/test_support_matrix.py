"""What the product's table says of each family is what is measured on tiny models, and the page says the same."""

import pytest

from tasks.models.families.known import DEPENDS, EXACT, LIMITED, NO_STAND_INS, failed_operations
from tests.places import ROOT
from tests.store.support_matrix import ALIASES, TRIED, known, measure, measured_configs, page

PAGE = ROOT / "docs" / "reference" / "families.md"
CONFIGS = measured_configs()


@pytest.mark.parametrize("family", CONFIGS)
def test_the_table_has_what_is_measured(family: str) -> None:
    failed, table = measure(CONFIGS[family]), failed_operations(family)
    if family in TRIED:
        assert table is None
        assert family in DEPENDS
    else:
        assert table is not None
        assert set(table) == set(failed), failed


def test_every_family_of_the_table_is_measured() -> None:
    assert not EXACT & LIMITED.keys()
    assert NO_STAND_INS.keys() <= EXACT | LIMITED.keys()
    assert {ALIASES.get(family, family) for family in EXACT | LIMITED.keys()} | set(TRIED) == set(CONFIGS)


def test_the_page_is_made_from_the_table() -> None:
    """`python -m tests.store.support_matrix docs/reference/families.md` makes it anew."""
    assert PAGE.read_text() == page(known())
