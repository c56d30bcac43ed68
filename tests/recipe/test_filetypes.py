"""TYPE words: names in any case, whole-word numbers, aliases, and what is refused how."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguftool.errors import RecipeError
from gguftool.recipe.filetypes import FILE_TYPES, file_type_by_name

SECTION_1 = [
    "Q1_0",
    "Q2_0",
    "Q4_0",
    "Q4_1",
    "MXFP4_MOE",
    "Q5_0",
    "Q5_1",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "IQ1_S",
    "IQ1_M",
    "TQ1_0",
    "TQ2_0",
    "Q2_K",
    "Q2_K_S",
    "IQ3_XXS",
    "IQ3_S",
    "IQ3_M",
    "Q3_K",
    "IQ3_XS",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_K",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "F16",
    "BF16",
    "F32",
    "COPY",
]
IK = [
    "IQ2_K",
    "IQ2_KS",
    "IQ2_KL",
    "IQ3_K",
    "IQ3_KS",
    "IQ1_KT",
    "IQ2_KT",
    "IQ3_KT",
    "IQ4_KSS",
    "IQ4_KS",
    "IQ3_KL",
    "IQ4_K",
    "IQ5_K",
    "IQ5_KS",
    "IQ4_KT",
    "Q6_0",
    "IQ1_BN",
    "IQ2_BN",
    "IQ6_K",
    "Q8_KV",
]


@pytest.mark.parametrize("name", [*SECTION_1, *IK])
def test_every_name_is_known_in_any_case(name: str) -> None:
    assert file_type_by_name(name) == file_type_by_name(name.lower()) == file_type_by_name(f" {name.title()} ")


@pytest.mark.parametrize(
    ("word", "name", "base"),
    [
        ("0", "F32", "f32"),
        ("1", "F16", "f16"),
        ("7", "Q8_0", "q8_0"),
        ("10", "Q2_K", "q2_K"),
        ("15", "Q4_K_M", "q4_K"),
        ("015", "Q4_K_M", "q4_K"),
        ("28", "IQ2_S", "iq2_xs"),
        ("29", "IQ2_M", "iq2_s"),
        ("22", "IQ3_XS", "iq3_s"),
        ("27", "IQ3_M", "iq3_s"),
        ("32", "BF16", "bf16"),
        ("38", "MXFP4_MOE", "mxfp4"),
        ("40", "Q1_0", "q1_0"),
        ("41", "Q2_0", "q2_0"),
        ("146", "IQ3_KL", "iq3_k"),
        ("148", "IQ4_KSS", "iq4_kss"),
        ("q4_k", "Q4_K_M", "q4_K"),
        ("q3_k", "Q3_K_M", "q3_K"),
        ("q5_K", "Q5_K_M", "q5_K"),
    ],
)
def test_words_and_what_they_mean(word: str, name: str, base: str) -> None:
    found = file_type_by_name(word)
    assert (found.name, found.base and found.base.name) == (name, base)


def test_number_41_is_llama_cpps_and_the_other_has_a_name() -> None:
    other = file_type_by_name("q1_0_g128")
    assert (other.number, other.base and other.base.name) == (41, "q1_0")
    assert file_type_by_name("41").name == "Q2_0"
    shared = [t.number for t in FILE_TYPES if t.number is not None]
    assert sorted(n for n in shared if shared.count(n) > 1) == [41, 41]


def test_copy_has_no_number_and_zero_is_not_copy() -> None:
    copy = file_type_by_name("copy")
    assert copy.is_copy and copy.number is None and copy.base is None
    assert not file_type_by_name("0").is_copy


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("Q4_K_X", "Q4_K_"),
        ("7B-model.gguf", "unknown TYPE"),
        ("IQ4_KSS_R4", "IQ4_KSS"),
        ("Q4_K_R4", "make Q4_K and let"),
        ("NVFP4", "tensor type but no TYPE"),
        ("39", "NVFP4"),
        ("33", "use Q4_0"),
        ("99999999999999999999", "means nothing"),
        ("-1", "unknown TYPE"),
        ("", "unknown TYPE"),
        ("1024", "guessed"),
        ("\u0661", "unknown TYPE"),
    ],
)
def test_what_is_no_type_is_refused_with_a_way_out(word: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        file_type_by_name(word)


@given(st.text(max_size=60))
def test_any_text_is_a_type_or_a_recipe_error(text: str) -> None:
    try:
        found = file_type_by_name(text)
    except RecipeError:
        return
    assert found in FILE_TYPES
