"""The original's tokenization written out step by step, slow and obvious; what tests compare with.

It uses Python's own Unicode data, so it is a reference only where that is Unicode 14, the version
of the original's goldens (Python 3.11).
"""

import pathlib
import unicodedata

UNICODE_VERSION = "14.0.0"
IS_REFERENCE = unicodedata.unidata_version == UNICODE_VERSION

IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def clean(text: str) -> str:
    output = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r " or category == "Zs":
            output.append(" ")
        elif char not in "\0\ufffd" and category not in ("Cc", "Cf"):
            output.append(char)
    return "".join(output)


def space_ideographs(text: str) -> str:
    output = []
    for char in text:
        is_ideograph = any(first <= ord(char) <= last for first, last in IDEOGRAPHS)
        output.append(f" {char} " if is_ideograph else char)
    return "".join(output)


def strip_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def is_punctuation(char: str) -> bool:
    code_point = ord(char)
    for first, last in ((33, 47), (58, 64), (91, 96), (123, 126)):
        if first <= code_point <= last:
            return True
    return unicodedata.category(char).startswith("P")


def split_punctuation(word: str) -> list[str]:
    spaced = "".join(f" {char} " if is_punctuation(char) else char for char in word)
    return [part for part in spaced.split(" ") if part]


class ReferenceTokenizer:
    def __init__(self, vocab_file: str | pathlib.Path, do_lower_case: bool = True) -> None:
        lines = pathlib.Path(vocab_file).read_text(encoding="utf-8").split("\n")
        self.vocab = {line.strip(): number for number, line in enumerate(lines) if line}
        self.do_lower_case = do_lower_case

    def words(self, text: str) -> list[str]:
        words = []
        for token in space_ideographs(clean(text)).split():
            if self.do_lower_case:
                token = strip_accents(token.lower())
            words += split_punctuation(token)
        return words

    def pieces(self, word: str) -> list[str]:
        if len(word) > 200:
            return ["[UNK]"]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.vocab:
                    break
            else:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces

    def tokenize(self, text: str) -> list[str]:
        return [piece for word in self.words(text) for piece in self.pieces(word)]
