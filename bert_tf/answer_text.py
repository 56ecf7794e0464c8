"""Takes the pieces of an answer, returns its text as the original makes it; next: tasks.

An answer's text is the characters of the context from its first piece's to its last one's. The
original, which has no offsets, takes the words between white space that the pieces are in, and
looks in them for the pieces' own text (get_final_text in run_squad.py of google-research/bert).
This is the same, to be compared with; see there for why it is as it is.
"""

import re

from bert_tf.tokenization import Words

# What the original splits contexts at: not all white space.
_WHITE_SPACE = re.compile("[ \t\r\n\u202f]+")


def whitespace_words(text: str) -> list[tuple[int, int]]:
    """The places of a context's words, as the original splits it: [start, end) each."""
    words, start = [], 0
    for match in _WHITE_SPACE.finditer(text):
        if match.start() > start:
            words.append((start, match.start()))
        start = match.end()
    if start < len(text):
        words.append((start, len(text)))
    return words


def realigned(piece_text: str, word_text: str, words: Words) -> str:
    """The part of an answer's words that its pieces stand for.

    Args:
        piece_text: the pieces, put together to words again.
        word_text: the words between white space that the pieces are in, with spaces between them.
        words: what splits a text into words, cased as the pieces are.

    Returns:
        That part of ``word_text``, or all of it where the original finds none.
    """
    tokenized = " ".join(words.split(word_text))
    start = tokenized.find(piece_text)
    if start < 0:
        return word_text
    places, original = _visible(tokenized), _visible(word_text)
    if len(places) != len(original):
        return word_text
    # The same visible characters in both, one for one; case and accents may differ.
    number = {place: k for k, place in enumerate(places)}
    first, last = number.get(start), number.get(start + len(piece_text) - 1)
    if first is None or last is None:
        return word_text
    return word_text[original[first] : original[last] + 1]


def joined(pieces: list[str]) -> str:
    """Pieces put together to words, with one space between two."""
    return " ".join(" ".join(pieces).replace(" ##", "").replace("##", "").split())


def _visible(text: str) -> list[int]:
    """Where a text's characters are that are no spaces."""
    return [place for place, char in enumerate(text) if char != " "]
