"""Bounds and choices of settings: which values are allowed, and how the refusal of another reads."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tasks.core.bounds import Bounds, Count, check_fields
from tasks.core.errors import SettingError, in_table


@dataclass(frozen=True)
class Options:
    count: Count | None = None
    share: Annotated[float, Bounds(gt=0, lt=1)] = 0.5
    rank: Annotated[int, Bounds(ge=1)] | Annotated[float, Bounds(gt=0, lt=1)] | None = None
    pair: tuple[Annotated[float, Bounds(ge=0)], Annotated[float, Bounds(le=1)]] = (0.0, 1.0)
    kind: Literal["one", "other"] = "one"
    name: str = ""


@pytest.mark.parametrize(
    "allowed",
    [
        {},
        {"count": 3},
        {"rank": 2},
        {"rank": 2.0},
        {"rank": 0.5},
        {"pair": (5.0, -5.0)},
        {"kind": "other", "name": "x"},
    ],
)
def test_what_is_allowed(allowed):
    check_fields(Options(**allowed))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"count": 0}, "count = 0; it must be larger than 0"),
        ({"count": 2.5}, "count = 2.5; it must be a whole number"),
        ({"share": float("nan")}, "share = nan; it must be larger than 0 and less than 1"),
        ({"rank": 0}, "rank = 0; it must be at least 1, or larger than 0 and less than 1"),
        ({"rank": 1.5}, "rank = 1.5; it must be a whole number, or larger than 0 and less than 1"),
        ({"pair": (0.0, 2.0)}, r"pair = (0.0, 2.0); it must be at most 1"),
        ({"kind": "third"}, "kind = 'third'; choose from one, other"),
    ],
)
def test_what_is_refused(refused, message):
    with pytest.raises(SettingError) as caught:
        check_fields(Options(**refused))
    assert str(caught.value) == message


@given(st.floats(), st.sampled_from([{"gt": 0}, {"ge": 0}, {"gt": 0, "lt": 1}, {"ge": -1, "le": 1}]))
def test_pydantic_reads_the_same_bounds(value, bounds):
    try:
        TypeAdapter(Annotated[float, Bounds(**bounds)]).validate_python(value)
        taken = True
    except ValidationError:
        taken = False
    assert taken == (value in Bounds(**bounds))


def test_an_error_names_settings_where_the_user_wrote_them():
    def refuse() -> None:
        raise SettingError('`patience` = 3 and `learning_rate` = 0, not "patience"')

    with pytest.raises(SettingError, match=r'^patience = 3 and learning_rate = 0, not "patience"$'):
        refuse()
    with (
        pytest.raises(SettingError, match=r'^tune\.patience = 3 and full_tune\.learning_rate = 0, not "patience"$'),
        in_table("outer"),
        in_table("tune", learning_rate="full_tune.learning_rate"),
    ):
        refuse()
