"""--override-kv: what each type takes, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguftool.errors import RecipeError
from gguftool.format.metadata import ValueType
from gguftool.recipe.overrides import parse_override, parse_overrides


@pytest.mark.parametrize(
    ("text", "key", "kind", "value"),
    [
        ("a.b=int:3", "a.b", ValueType.U32, 3),
        ("a.b=int:4294967295", "a.b", ValueType.U32, 4294967295),
        ("a.b=int:-5", "a.b", ValueType.I32, -5),
        ("a.b=float:1.5", "a.b", ValueType.F32, 1.5),
        ("a.b=float:1e3", "a.b", ValueType.F32, 1000.0),
        ("a.b=bool:true", "a.b", ValueType.BOOL, True),
        ("a.b=bool:false", "a.b", ValueType.BOOL, False),
        ("a.b=str:x = y: z", "a.b", ValueType.STRING, "x = y: z"),
        ("a.b=str:", "a.b", ValueType.STRING, ""),
    ],
)
def test_values(text: str, key: str, kind: ValueType, value: object) -> None:
    found, stored = parse_override(text)
    assert (found, stored.type, stored.value) == (key, kind, value)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a=",
        "a=3",
        "=int:3",
        "a=int:",
        "a=int:3x",
        "a=int:1.5",
        "a=int:4294967296",
        "a=int:-2147483649",
        "a=float:x",
        "a=float:nan",
        "a=float:inf",
        "a=float:1e99",
        "a=bool:True",
        "a=bool:1",
        "a=u8:3",
        "a=arr:1,2",
        "a=int:٣",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--override-kv"):
        parse_override(text)


def test_the_last_of_equal_keys_counts() -> None:
    assert parse_overrides(["a=int:1", "a=int:2"])["a"].value == 2


@given(
    st.one_of(
        st.text(max_size=40), st.builds("k={}:{}".format, st.sampled_from(["int", "float", "bool", "str"]), st.text())
    )
)
def test_any_text_is_a_value_or_a_recipe_error(text: str) -> None:
    try:
        key, value = parse_override(text)
    except RecipeError:
        return
    assert key and value.raw is not None
