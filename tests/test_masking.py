"""Tests of bert_tf.masking: against the original's loops row by row, and its statistics.

Tolerances are five standard deviations or more of what is measured, and well under 2 points.
"""

import dataclasses
import itertools

import numpy as np
import pytest

from bert_tf.errors import InputError
from bert_tf.masking import UNITS, Masker, MaskingRule
from bert_tf.random_bits import key_of_seed, random_bits
from bert_tf.tokenization import Vocabulary

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"word{number}" for number in range(17)]
CONTINUATIONS = [f"##rest{number}" for number in range(10)] + ["##"]
PIECES = [*SPECIAL, *WORDS, *CONTINUATIONS, "a##b"]
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
WORD_IDS = np.arange(len(SPECIAL), len(SPECIAL) + len(WORDS))
CONTINUATION_IDS = np.arange(WORD_IDS[-1] + 1, WORD_IDS[-1] + 1 + len(CONTINUATIONS))
TEXT_IDS = [UNK, *range(len(SPECIAL), len(PIECES))]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return vocabulary_of(PIECES, tmp_path_factory.mktemp("vocabulary"))


def vocabulary_of(pieces, folder):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return Vocabulary(path)


def keys_of(seed, count):
    return random_bits(key_of_seed(seed), np.arange(count))


def padded(rows, seq_length=None):
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros([len(rows), seq_length or max(lengths)], np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, lengths


def random_rows(seed, count, longest, continuation_share=0.4):
    """Rows of one or two texts; the texts may start with a continuation, and may be empty."""
    rng = np.random.default_rng(seed)

    def text():
        length = rng.integers(0, longest + 1)
        continues = rng.random(length) < continuation_share
        return np.where(
            continues, rng.choice(CONTINUATION_IDS, length), rng.choice(TEXT_IDS, length)
        ).tolist()

    return [
        [CLS, *text(), SEP, *([*text(), SEP] if rng.random() < 0.7 else [])] for _ in range(count)
    ]


# The slow, obvious version: one row, plain Python, from the same bits.


def bits_of(key, number):
    return int(random_bits(np.uint64(key), number))


def draw(bits, bound):
    return ((bits >> 32) * bound) >> 32


def fraction(bits):
    return (bits >> 11) / 2**53


def shuffled(groups, key):
    groups = list(groups)
    for i in range(len(groups)):
        j = i + draw(bits_of(bits_of(key, 1), i), len(groups) - i)
        groups[i], groups[j] = groups[j], groups[i]
    return groups


def words_of(row, end_at_special):
    """Lists of the positions of each word, each with the number of the text it is in."""
    words, text, is_open = [], 0, False
    for position, piece_id in enumerate(row):
        if piece_id in (CLS, SEP):
            text += 1
            is_open = is_open and not end_at_special
        elif PIECES[piece_id].startswith("##") and is_open:
            words[-1][0].append(position)
        else:
            words.append(([position], text))
            is_open = True
    return words


def span_length(bits, p, longest):
    length = 1
    while fraction(bits) >= (1 - (1 - p) ** length) / (1 - (1 - p) ** longest) and length < longest:
        length += 1
    return length


def chosen_in(row, key, rule):
    """position -> the position whose bits decide what becomes of it."""
    wanted = min(rule.max_predictions_per_seq, max(1, round(len(row) * rule.masked_lm_prob)))
    chosen = {}
    if rule.unit == "span":
        words = words_of(row, end_at_special=True)
        for start in shuffled(range(len(words)), key):
            first = words[start][0][0]
            if first in chosen:
                continue
            bits = bits_of(bits_of(key, 2), first)
            length = span_length(bits, rule.span_geometric_p, rule.max_span_length)
            for positions, text in words[start : start + length]:
                for position in positions:
                    if text == words[start][1] and len(chosen) < wanted:
                        chosen.setdefault(position, first)
        return chosen
    groups = [[position] for position, piece_id in enumerate(row) if piece_id not in (CLS, SEP)]
    if rule.unit == "whole_word":
        groups = [positions for positions, _ in words_of(row, end_at_special=False)]
    for group in shuffled(groups, key):
        if len(chosen) >= wanted:
            break
        if len(chosen) + len(group) > wanted:
            continue
        for position in group:
            chosen[position] = position
    return chosen


def masked_row(row, key, rule):
    """The row masked, [(position, true id)], and how many became [MASK], stayed, were drawn."""
    masked, predictions, counts = list(row), [], [0, 0, 0]
    for position, deciding in sorted(chosen_in(row, key, rule).items()):
        share = fraction(bits_of(bits_of(key, 3), deciding))
        kind = 0 if share < 0.8 else 1 if share < 0.9 else 2
        drawn = draw(bits_of(bits_of(key, 4), position), len(PIECES))
        masked[position] = [MASK, row[position], drawn][kind]
        predictions.append((position, row[position]))
        counts[kind] += 1
    return masked, predictions, counts


def assert_equal_to_the_loops(result, rows, keys, rule, seq_length):
    shape = (len(rows), rule.max_predictions_per_seq)
    assert result.input_ids.dtype == result.masked_lm_positions.dtype == np.int32
    assert result.masked_lm_ids.dtype == np.int32
    assert result.masked_lm_weights.dtype == np.float32
    assert result.counts.dtype == np.int64
    assert result.input_ids.shape == (len(rows), seq_length)
    assert result.masked_lm_positions.shape == result.masked_lm_ids.shape == shape
    assert result.masked_lm_weights.shape == shape
    for i, (row, key) in enumerate(zip(rows, keys, strict=True)):
        masked, predictions, counts = masked_row(row, key, rule)
        unused = shape[1] - len(predictions)
        assert result.input_ids[i].tolist() == masked + [0] * (seq_length - len(row))
        assert result.masked_lm_positions[i].tolist() == [p for p, _ in predictions] + [0] * unused
        assert result.masked_lm_ids[i].tolist() == [t for _, t in predictions] + [0] * unused
        assert result.masked_lm_weights[i].tolist() == [1.0] * len(predictions) + [0.0] * unused
        assert result.counts[i].tolist() == counts


EDGE_ROWS = [
    [CLS, TEXT_IDS[3], SEP],  # fewer candidates than any rule could want
    [CLS, SEP],
    [CLS, SEP, SEP],
    [],
    [CLS, *CONTINUATION_IDS, SEP],  # one word that does not fit
    [CLS, *CONTINUATION_IDS[:2], SEP, *CONTINUATION_IDS[2:4], SEP],  # one, or two across [SEP]
    [CLS, 7, *CONTINUATION_IDS, SEP, 8, *CONTINUATION_IDS, SEP],  # long words only
    [CLS, 7, SEP, *CONTINUATION_IDS[:3], SEP],
    [CLS, SEP, CONTINUATION_IDS[0], SEP],
    [CLS, *[9] * 40, SEP],
    [6, 7, CONTINUATION_IDS[1], 8],  # no [CLS], no [SEP]
    [CONTINUATION_IDS[2], 6, 7],
    [CLS, PAD, MASK, UNK, SEP],  # these are candidates like any other
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"masked_lm_prob": 0.5, "max_predictions_per_seq": 7},  # fewer than the rate wants
        {"masked_lm_prob": 0.97, "max_predictions_per_seq": 61},  # nearly all, and skipping
        {"masked_lm_prob": 0.3, "span_geometric_p": 0.45, "max_span_length": 3},
        {"masked_lm_prob": 0.4, "span_geometric_p": 1.0, "max_predictions_per_seq": 9},
        {"masked_lm_prob": 0.4, "span_geometric_p": 0.05, "max_span_length": 1},
        {"masked_lm_prob": 0.01, "max_predictions_per_seq": 1},
    ],
)
def test_masking_equals_the_loops(vocabulary, unit, rates):
    rule = MaskingRule(unit=unit, **rates)
    rows = EDGE_ROWS + random_rows(seed=1, count=60, longest=29) + EDGE_ROWS
    keys = keys_of(2, len(rows))
    ids, lengths = padded(rows)
    given = ids.copy()
    result = Masker(vocabulary, rule)(ids, lengths, keys)
    assert_equal_to_the_loops(result, rows, keys, rule, ids.shape[1])
    np.testing.assert_array_equal(ids, given)  # what was given is left alone
    assert result.counts.sum() > 60


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_does_not_depend_on_its_batch_or_padding(vocabulary, unit):
    rows = random_rows(seed=3, count=41, longest=19)
    keys = keys_of(4, len(rows))
    masker = Masker(vocabulary, MaskingRule(masked_lm_prob=0.3, unit=unit))
    whole = dataclasses.asdict(masker(*padded(rows), keys))
    some = np.random.default_rng(5).permutation(len(rows))[:23]
    others = [
        (slice(None), masker(*padded(rows, 97), keys)),
        (some, masker(*padded([rows[i] for i in some], 53), keys[some])),
        ([17], masker(*padded([rows[17]]), keys[[17]])),
    ]
    for which, other in others:
        for name, values in dataclasses.asdict(other).items():
            expected = whole[name][which]
            width = min(values.shape[1], expected.shape[1])
            np.testing.assert_array_equal(values[:, :width], expected[:, :width], name)
            assert not values[:, width:].any() and not expected[:, width:].any()


@pytest.mark.parametrize("unit", UNITS)
def test_full_rows_without_special_pieces_do_not_run_into_each_other(vocabulary, unit):
    rows = [[6, 7, 8], [CONTINUATION_IDS[0], 9, 10], [11, CONTINUATION_IDS[1], 12]] * 20
    keys = keys_of(16, len(rows))
    rule = MaskingRule(masked_lm_prob=0.7, unit=unit)
    assert_equal_to_the_loops(
        Masker(vocabulary, rule)(*padded(rows), keys), rows, keys, rule, seq_length=3
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 13), (3, 0), (3, 13)])
def test_rows_of_padding_are_left_alone(vocabulary, unit, shape):
    masker = Masker(vocabulary, MaskingRule(unit=unit))
    result = masker(np.zeros(shape, np.int32), np.zeros(shape[0], np.int64), keys_of(0, shape[0]))
    assert result.input_ids.shape == shape
    assert result.masked_lm_positions.shape == (shape[0], 20)
    assert not any(values.any() for values in dataclasses.asdict(result).values())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("masked_lm_prob", [0.15, 0.05, 0.5, 0.125, 0.99])
def test_as_many_are_chosen_as_the_formula_says(vocabulary, unit, masked_lm_prob):
    # Words of one piece, so that no unit skips any. Halves: 10 and 30 at 0.15, 50 at 0.05.
    rows = [[CLS, *[6] * number, SEP] for number in range(70)]
    masker = Masker(vocabulary, MaskingRule(masked_lm_prob, 23, unit))
    result = masker(*padded(rows), keys_of(6, len(rows)))
    expected = [min(len(row) - 2, 23, max(1, round(len(row) * masked_lm_prob))) for row in rows]
    assert result.masked_lm_weights.sum(axis=1).tolist() == expected
    assert result.counts.sum(axis=1).tolist() == expected


def test_whole_words_are_never_chosen_in_part(vocabulary):
    rows = random_rows(seed=7, count=500, longest=37, continuation_share=0.6)
    result = Masker(vocabulary, MaskingRule(unit="whole_word"))(*padded(rows), keys_of(8, 500))
    sizes = []
    for i, row in enumerate(rows):
        number = int(result.masked_lm_weights[i].sum())
        chosen = set(result.masked_lm_positions[i, :number].tolist())
        assert len(chosen) == number <= max(1, round(0.15 * len(row)))
        for word, _ in words_of(row, end_at_special=False):
            assert chosen.isdisjoint(word) or chosen.issuperset(word)
            sizes.append(len(word) * chosen.issuperset(word))
    assert max(sizes) >= 4 and sizes.count(2) > 100


def test_a_span_ends_at_a_separator_and_is_cut_where_it_is_enough(vocabulary):
    # 5 pieces are wanted, of two texts of 4 words of 2 pieces each.
    word = [6, CONTINUATION_IDS[0]]
    row = [CLS, *word * 4, SEP, *word * 4, SEP]
    rule = MaskingRule(0.26, 20, "span", span_geometric_p=0.2, max_span_length=9)
    ids, lengths = padded([row] * 3000)
    masker = Masker(vocabulary, rule)
    result = masker(ids, lengths, keys_of(9, 3000))
    assert set(result.masked_lm_weights.sum(axis=1)) == {5.0}
    positions = result.masked_lm_positions[:, :5]
    assert not np.isin(positions, [0, 9, 18]).any()
    # So exactly one word is cut, after its first piece: 3 first pieces and 2 second ones.
    is_first = (positions % 9) % 2 == 1
    assert (is_first.sum(axis=1) == 3).all()


@pytest.mark.parametrize("unit", UNITS)
def test_replacements_are_80_10_10(vocabulary, unit):
    """Of 76,000 pieces, or about 22,000 spans."""
    ids, lengths = padded([[CLS, *[6] * 126, SEP]] * 4000)
    result = Masker(vocabulary, MaskingRule(unit=unit))(ids, lengths, keys_of(10, 4000))
    shares = result.counts.sum(axis=0) / result.counts.sum()
    tolerance = 0.015 if unit == "span" else 0.007
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], rtol=0, atol=tolerance)
    chosen = np.take_along_axis(result.input_ids, result.masked_lm_positions, axis=1)
    is_used = result.masked_lm_weights > 0
    # What came of them: the random ones may be [MASK] or the piece itself too.
    assert np.mean(chosen[is_used] == MASK) == pytest.approx(0.8 + 0.1 / len(PIECES), abs=tolerance)
    assert np.mean(chosen[is_used] == 6) == pytest.approx(0.1 + 0.1 / len(PIECES), abs=tolerance)


def test_what_becomes_of_a_span_is_decided_once(vocabulary):
    """Of neighbors that are both chosen, nearly all are of one span."""
    ids, lengths = padded([[CLS, *[6] * 126, SEP]] * 4000)
    agreeing = {}
    for unit in ("token", "span"):
        result = Masker(vocabulary, MaskingRule(unit=unit))(ids, lengths, keys_of(11, 4000))
        positions, is_used = result.masked_lm_positions, result.masked_lm_weights > 0
        is_mask = np.take_along_axis(result.input_ids, positions, axis=1) == MASK
        pairs = (np.diff(positions) == 1) & is_used[:, 1:]
        agreeing[unit] = np.mean((is_mask[:, 1:] == is_mask[:, :-1])[pairs])
    assert agreeing["token"] == pytest.approx(0.8**2 + 0.2**2, abs=0.02)
    assert agreeing["span"] > 0.95


@pytest.mark.parametrize("unit", UNITS)
def test_random_pieces_are_uniform_over_the_whole_vocabulary(vocabulary, unit):
    ids, lengths = padded([[CLS, *[6] * 126, SEP]] * 8000)
    result = Masker(vocabulary, MaskingRule(unit=unit))(ids, lengths, keys_of(12, 8000))
    pieces = result.input_ids[:, 1:-1].ravel()
    counts = np.bincount(pieces, minlength=len(PIECES))
    counts = np.delete(counts, [MASK, 6])  # of these there are others
    assert len(counts) == len(PIECES) - 2 and counts.min() > 0
    expected = 0.1 * result.counts.sum() / len(PIECES)  # 447
    np.testing.assert_allclose(counts, expected, rtol=0, atol=5 * np.sqrt(expected))
    degrees = len(counts) - 1
    chi_square = np.sum((counts - counts.mean()) ** 2 / counts.mean())
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("unit", ["token", "whole_word"])
def test_positions_and_pairs_of_positions_are_uniform(vocabulary, unit):
    """5 of 13: each position in 5 / 13 of the rows, each pair in 5 * 4 / (13 * 12) of them."""
    count = 20_000
    ids, lengths = padded([[CLS, *[6] * 9, SEP, *[7] * 4, SEP]] * count)
    rule = MaskingRule(masked_lm_prob=0.33, unit=unit)
    result = Masker(vocabulary, rule)(ids, lengths, keys_of(13, count))
    is_chosen = np.zeros(ids.shape, np.int64)
    np.put_along_axis(is_chosen, result.masked_lm_positions[:, :5], 1, axis=1)
    together = (is_chosen.T @ is_chosen) / count
    candidates = [*range(1, 10), *range(11, 15)]
    assert together.sum() == pytest.approx(25)  # none but the 13
    for i, j in itertools.combinations_with_replacement(candidates, 2):
        expected = 5 / 13 if i == j else 5 * 4 / (13 * 12)
        tolerance = 5 * np.sqrt(expected * (1 - expected) / count)  # 0.017, 0.012
        assert together[i, j] == pytest.approx(expected, abs=tolerance)


def test_words_are_chosen_alike_whatever_their_length(vocabulary):
    """2 pieces of 4 words, of 1, 1, 2 and 2 pieces.

    A word of 2 is chosen if it is the first (2 in 4), or never: after a word of 1 it does not fit.
    """
    row = [CLS, 6, 7, 8, CONTINUATION_IDS[0], SEP, 9, CONTINUATION_IDS[0], SEP]
    ids, lengths = padded([row] * 20_000)
    rule = MaskingRule(masked_lm_prob=0.22, unit="whole_word")
    result = Masker(vocabulary, rule)(ids, lengths, keys_of(14, 20_000))
    first, shares = np.unique(result.masked_lm_positions[:, :2], axis=0, return_counts=True)
    assert first.tolist() == [[1, 2], [3, 4], [6, 7]]
    np.testing.assert_allclose(shares / 20_000, [0.5, 0.25, 0.25], rtol=0, atol=0.018)


@pytest.mark.parametrize(("p", "longest", "mean"), [(0.2, 10, 3.797), (0.5, 3, 11 / 7), (1, 4, 1)])
def test_span_lengths_are_geometric(vocabulary, p, longest, mean):
    """The mean of p = 0.2 up to 10 words is 3.8 in the paper."""
    rule = MaskingRule(unit="span", span_geometric_p=p, max_span_length=longest)
    lengths = Masker(vocabulary, rule)._span_lengths(keys_of(15, 200_000))
    shares = np.array([p * (1 - p) ** (length - 1) for length in range(1, longest + 1)])
    counts = np.bincount(lengths, minlength=longest + 1)
    assert len(counts) == longest + 1 and counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 200_000, shares / shares.sum(), rtol=0, atol=0.005)
    assert np.mean(lengths) == pytest.approx(mean, abs=0.03)


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "[MASK]"])
def test_the_vocabulary_must_have_the_special_pieces(missing, tmp_path):
    vocabulary = vocabulary_of([piece for piece in PIECES if piece != missing], tmp_path)
    with pytest.raises(InputError, match=rf"vocab\.txt: .*no piece '\{missing[:-1]}\]'"):
        Masker(vocabulary, MaskingRule())


@pytest.mark.parametrize("wrong", [-1, len(PIECES), 2**31 - 1])
@pytest.mark.parametrize("unit", UNITS)
def test_ids_of_another_vocabulary_are_refused(vocabulary, unit, wrong):
    ids, lengths = padded([[CLS, 6, 7, SEP], [CLS, len(PIECES) - 1, SEP]])
    Masker(vocabulary, MaskingRule(unit=unit))(ids, lengths, keys_of(0, 2))
    ids[1, 1] = wrong
    with pytest.raises(InputError, match=rf"id {wrong} is not in .*vocab\.txt, .* 0 to 33;"):
        Masker(vocabulary, MaskingRule(unit=unit))(ids, lengths, keys_of(0, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"masked_lm_prob": 0.0}, "--masked_lm_prob must lie between 0 and 1, but is 0.0"),
        ({"masked_lm_prob": 1.0}, "--masked_lm_prob must lie between 0 and 1, but is 1.0"),
        ({"masked_lm_prob": float("nan")}, "--masked_lm_prob must lie between 0 and 1, but is nan"),
        ({"max_predictions_per_seq": 0}, "--max_predictions_per_seq must be at least 1, but is 0"),
        ({"max_span_length": 0}, "--max_span_length must be at least 1, but is 0"),
        ({"span_geometric_p": 0.0}, "--span_geometric_p must be above 0 and at most 1, but is 0.0"),
        ({"span_geometric_p": 1.1}, "--span_geometric_p must be above 0 and at most 1, but is 1.1"),
        (
            {"unit": "whole_words"},
            "unit must be one of token, whole_word, span, but is 'whole_words'; "
            "did you mean 'whole_word'?",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(InputError) as raised:
        MaskingRule(**values)
    assert str(raised.value) == message
