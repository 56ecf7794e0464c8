"""Takes tags of entities in any scheme, returns them in IOB2 and back; next: tasks.tagging_data.

An entity is a run of words, and so is a chunk. A tag is `O`, outside of all of them, or a prefix,
a hyphen and a type:

* `iob1` (Ramshaw and Marcus 1995, cmp-lg/9505040): `I-` inside; `B-` only where an entity begins
  right after another one of its type. CoNLL-2003 is written so.
* `iob2` (Tjong Kim Sang and Veenstra 1999, cs/9907006): `B-` where an entity begins, `I-` after it.
* `bioes` (Ratinov and Roth 2009): as iob2, but `E-` where an entity ends and `S-` where it is a
  single word.

Everything between reading and writing is IOB2. Tags that are no entities, as parts of speech are,
have the scheme `none` and are left as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from bert_tf.errors import InputError

Scheme = Literal["iob1", "iob2", "bioes", "none"]

SCHEMES: tuple[Scheme, ...] = ("iob1", "iob2", "bioes", "none")
OUTSIDE = "O"
_PREFIXES = {"iob1": "BI", "iob2": "BI", "bioes": "BIES"}


class Span(NamedTuple):
    """An entity.

    Attributes:
        type: what it is.
        start: its first word.
        end: the word after its last.
    """

    type: str
    start: int
    end: int


def find_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme in which tags seem to be written.

    Tags with an `E-` or `S-` among them are bioes; where at least as many entities begin with `I-`
    as with a `B-` that iob1 would not have there, iob1; if there is a `B-` or nothing but `O`,
    iob2; without any of that, none. (A few tags may be wrong: CoNLL-2003 has two such `B-`.)

    Args:
        sentences: the tags of each.
    """
    prefixes = set()
    only_iob1 = only_iob2 = 0
    has_type = False
    for tags in sentences:
        previous = OUTSIDE
        for tag in tags:
            if tag[1:2] == "-" and len(tag) > 2:
                prefixes.add(tag[0])
                begins = previous[2:] != tag[2:]  # whatever its prefix
                only_iob1 += begins and tag[0] == "I"
                only_iob2 += begins and tag[0] == "B"
            elif tag != OUTSIDE:
                has_type = True
            previous = tag
    if prefixes & set("ES"):
        return "bioes"
    if only_iob1 and only_iob1 >= only_iob2:
        return "iob1"
    return "none" if has_type and "B" not in prefixes else "iob2"


def to_iob2(tags: Sequence[str], scheme: Scheme, where: Callable[[int], str]) -> list[str]:
    """The tags of a sentence in IOB2.

    Args:
        tags: as the file has them.
        scheme: in which they are written.
        where: the place of a tag in its file, for messages, given its number in the sentence.

    Raises:
        InputError: naming the place of a tag that the scheme does not have, or not after the tag
            before it.
    """
    if scheme == "none":
        return list(tags)
    converted: list[str] = []
    previous = OUTSIDE
    for number, tag in enumerate(tags):
        if tag != OUTSIDE and not (
            tag[1:2] == "-" and tag[0] in _PREFIXES[scheme] and len(tag) > 2
        ):
            prefixes = ", ".join(f"{prefix}-TYPE" for prefix in _PREFIXES[scheme])
            raise InputError(
                f"{where(number)}: {tag!r} is no tag of the scheme {scheme}, whose tags are O, "
                f"{prefixes}; mend the line, or give another --tag_scheme ({', '.join(SCHEMES)})"
            )
        is_open = previous[0] in "BI" and previous[2:] == tag[2:]
        if scheme == "bioes":
            _check_bioes(tag, previous, where(number))
        if tag == OUTSIDE:
            converted.append(tag)
        elif tag[0] == "B" or tag[0] == "S" or not is_open:
            if scheme == "iob2" and tag[0] == "I":
                raise InputError(
                    f"{where(number)}: {tag!r} after {previous!r}: in the scheme iob2 an entity "
                    "begins with B-; mend the line, or give --tag_scheme=iob1"
                )
            converted.append(f"B-{tag[2:]}")
        else:
            converted.append(f"I-{tag[2:]}")
        previous = tag
    if scheme == "bioes" and previous[0] in "BI":
        raise InputError(
            f"{where(len(tags) - 1)}: the sentence ends after {previous!r}: in the scheme bioes an "
            "entity ends with E- or S-; mend the line, or give another --tag_scheme"
        )
    return converted


def _check_bioes(tag: str, previous: str, where: str) -> None:
    """Checks that a tag may follow another one; a sentence begins as after O."""
    is_open = previous[0] in "BI"
    goes_on = tag[0] in "IE"
    if is_open != goes_on or (goes_on and previous[2:] != tag[2:]):
        raise InputError(
            f"{where}: {tag!r} after {previous!r}: in the scheme bioes an entity is S-, or begins "
            "with B-, goes on with I- and ends with E-; mend the line, or give another --tag_scheme"
        )


def from_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The tags of a sentence in another scheme: the inverse of ``to_iob2``.

    Args:
        tags: in IOB2.
        scheme: to write them in.
    """
    if scheme in ("none", "iob2"):
        return list(tags)
    converted = []
    for number, tag in enumerate(tags):
        before = tags[number - 1] if number else OUTSIDE
        after = tags[number + 1] if number + 1 < len(tags) else OUTSIDE
        prefix, kind = tag[0], tag[1:]
        if tag == OUTSIDE:
            kind = ""
        elif scheme == "iob1":
            prefix = "B" if prefix == "B" and before[1:] == kind else "I"
        elif after != f"I{kind}":
            prefix = "S" if prefix == "B" else "E"
        converted.append(prefix + kind)
    return converted


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence.

    Args:
        tags: in IOB2.
    """
    found = []
    start = None
    for number, tag in enumerate([*tags, OUTSIDE]):
        if start is not None and tag[0] != "I":
            found.append(Span(tags[start][2:], start, number))
            start = None
        if tag[0] == "B":
            start = number
    return found


def may_follow(tag: str, previous: str | None) -> bool:
    """Whether IOB2 has a tag after another one, or, after None, as a sentence's first."""
    if tag[0] != "I" or tag[1:2] != "-":
        return True
    return previous is not None and previous in (f"B{tag[1:]}", tag)
