"""The code-point table: that it is what the generator makes, and what a few entries mean."""

import importlib.machinery
import importlib.util
import pathlib
import types
import unicodedata

import numpy as np
import pytest
from reference_tokenizer import IS_REFERENCE

from bert_tf import code_points

TOOL = pathlib.Path(__file__).resolve().parent.parent / "tools" / "make_code_points"


@pytest.fixture(scope="module")
def generator() -> types.ModuleType:
    loader = importlib.machinery.SourceFileLoader("make_code_points", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.mark.skipif(not IS_REFERENCE, reason="this Python's Unicode data is not version 14")
def test_table_is_what_the_generator_makes(generator: types.ModuleType) -> None:
    with np.load(code_points.TABLE_FILE) as shipped:
        made = generator.build()
        assert sorted(shipped.files) == sorted(made)
        for name, value in made.items():
            np.testing.assert_array_equal(shipped[name], value, err_msg=name)
            assert shipped[name].dtype == value.dtype, name


def test_generator_refuses_another_unicode_version(
    generator: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unicodedata, "unidata_version", "15.1.0")
    with pytest.raises(SystemExit, match=r"needs Unicode 14\.0\.0, this Python has 15\.1\.0"):
        generator.build()


@pytest.mark.parametrize(
    ("char", "cased", "lower"),
    [
        ("a", "a", "a"),
        ("A", "A", "a"),
        ("é", "é", "e"),
        ("ß", "ß", "ß"),
        ("İ", "İ", "i"),
        ("Σ", "Σ", "σ"),
        ("ﬁ", "ﬁ", "ﬁ"),
        ("≠", "≠", "="),
        ("한", "한", "\u1112\u1161\u11ab"),
        ("\u0301", "\u0301", ""),
        ("\u302e", "\u302e", "\u302e"),
        ("\U0001d160", "\U0001d160", "\U0001d158\U0001d165\U0001d16e"),
        ("\uf900", "\uf900", "\u8c48"),
        ("\xad", "", ""),
        ("\0", "", ""),
        ("\ufffd", "", ""),
        ("\x1c", "", ""),
        ("\t", " ", " "),
        ("\xa0", " ", " "),
        ("\u2028", " ", " "),
        ("\ud800", "\ud800", "\ud800"),
        ("\U0010ffff", "\U0010ffff", "\U0010ffff"),
    ],
)
def test_replacements(char: str, cased: str, lower: str) -> None:
    table = code_points.code_points()
    assert table.replacement_of(ord(char), do_lower_case=False) == cased
    assert table.replacement_of(ord(char), do_lower_case=True) == lower


@pytest.mark.parametrize(
    ("char", "properties"),
    [
        ("x", code_points.CASED),
        ("中", code_points.ISOLATED | code_points.ISOLATED_LOWER),
        (",", code_points.ISOLATED | code_points.ISOLATED_LOWER),
        ("'", code_points.ISOLATED | code_points.ISOLATED_LOWER | code_points.CASE_IGNORABLE),
        ("≠", code_points.ISOLATED_LOWER),
        ("\u2029", code_points.WHITE_SPACE),
        ("\u200d", code_points.DROPPED),
        ("\u0301", code_points.STRIPPED | code_points.CASE_IGNORABLE),
        (
            "\u0941",  # a vowel sign, Mn of combining class 0
            code_points.STRIPPED | code_points.STRIPPED_STARTER | code_points.CASE_IGNORABLE,
        ),
        ("\u302f", code_points.VISIBLE_MARK),
        ("7", 0),
    ],
)
def test_properties(char: str, properties: int) -> None:
    assert code_points.code_points().properties_of(ord(char)) == properties


def test_marks_and_their_classes() -> None:
    table = code_points.code_points()
    # Unicode never changes a combining class once it is given, so this holds for any version.
    assert table.mark_classes.tolist() == [unicodedata.combining(chr(c)) for c in table.marks]
    assert {0x302E, 0x302F, 0x1D165, 0x16FF0} <= set(table.marks.tolist())
