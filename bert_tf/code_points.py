"""Takes a code point, returns its properties and what it becomes; next: tokenization.

Almost all of the original's `BasicTokenizer` is a function of one code point, so one table holds
it, for the Python tokenizer and for the one in the graph. The table is pinned at Unicode 14, the
version of the original's goldens: Python 3.11, 3.12 and 3.13 carry Unicode 14, 15.0 and 15.1, and
a model's input must not depend on the Python that feeds it. `tools/make_code_points` writes it.

What a word needs besides its single code points (the final sigma, the order of marks) is in
`tokenization.py`; the properties those rules look at are here.
"""

import functools
import pathlib

import numpy as np

TABLE_FILE = pathlib.Path(__file__).with_name("code_points.npz")

COUNT = 0x110000
PAGE_SIZE = 256

# Properties of a code point, as bits.
WHITE_SPACE = 1  # separates words
DROPPED = 2  # control and format characters: removed before anything else is looked at
ISOLATED = 4  # a word of its own: punctuation and CJK ideographs
ISOLATED_LOWER = 8  # the same after lower-casing and stripping: U+2260 becomes "=", punctuation
STRIPPED = 16  # nothing is left of it once accents are stripped
STRIPPED_STARTER = 32  # ... but marks are not reordered across it: its combining class is 0
VISIBLE_MARK = 64  # is or ends in a mark that is not stripped and that reordering may move
CASED = 128  # cased and not case-ignorable (both as in the final-sigma rule of `str.lower()`)
CASE_IGNORABLE = 256


class CodePoints:
    """The table of all 1,114,112 code points, surrogates included, in two stages.

    Attributes (`page_numbers[c >> 8]` and `c & 255` lead to a code point's entry):
      page_numbers: uint16 [4352], the page of 256 code points; equal pages are stored once.
      properties: uint16 [num_pages, 256], the bits above.
      replacement_rows: uint16 [num_pages, 256], a row of `replacements`; 0 where lower-casing,
        decomposition and the stripping of accents change nothing or leave nothing (STRIPPED).
      replacements: int32 [num_rows, 3], up to three code points, then zeros.
      marks, mark_classes: int32 [num_marks], the marks that are not stripped though their
        canonical combining class is not 0, and that class.
    """

    def __init__(self) -> None:
        with np.load(TABLE_FILE) as arrays:
            self.page_numbers: np.ndarray = arrays["page_numbers"]
            self.properties: np.ndarray = arrays["properties"]
            self.replacement_rows: np.ndarray = arrays["replacement_rows"]
            self.replacements: np.ndarray = arrays["replacements"]
            self.marks: np.ndarray = arrays["marks"]
            self.mark_classes: np.ndarray = arrays["mark_classes"]

    def properties_of(self, code_point: int) -> int:
        """The bits of one code point."""
        return int(self.properties[self.page_numbers[code_point >> 8], code_point & 255])

    def replacement_of(self, code_point: int, do_lower_case: bool) -> str:
        """What one code point becomes: "" if it vanishes, " " for white space, else characters.

        Characters that are a word of their own are not yet set apart (`ISOLATED`).
        """
        properties = self.properties_of(code_point)
        if properties & WHITE_SPACE:
            return " "
        if properties & DROPPED or (do_lower_case and properties & STRIPPED):
            return ""
        row = self.replacement_rows[self.page_numbers[code_point >> 8], code_point & 255]
        if not do_lower_case or not row:
            return chr(code_point)
        return "".join(map(chr, self.replacements[row])).rstrip("\0")


def in_pages(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of one value for each code point in two stages, as arrays of one axis.

    Args:
      values: [COUNT].

    Returns:
      page_starts: int32 [COUNT / PAGE_SIZE].
      entries: [num_pages * PAGE_SIZE]; code point c has entries[page_starts[c >> 8] + (c & 255)].
    """
    pages, page_numbers = np.unique(values.reshape([-1, PAGE_SIZE]), axis=0, return_inverse=True)
    return page_numbers.reshape([-1]).astype(np.int32) * PAGE_SIZE, pages.reshape([-1])


@functools.cache
def code_points() -> CodePoints:
    """The one table of this process."""
    return CodePoints()
