"""Tests of bert_tf.random_bits: against SplitMix64 in plain integers, and its statistics."""

import numpy as np
import pytest

from bert_tf.random_bits import below, happens, key_of_seed, random_bits

ALL_ONES = 2**64 - 1


def splitmix64(state):
    """The generator as its authors wrote it: a state that is counted up, and mixed."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & ALL_ONES
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL_ONES
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL_ONES
        yield z ^ (z >> 31)


def first(state, count):
    generator = splitmix64(state)
    return [next(generator) for _ in range(count)]


def chi_square(counts):
    """Excess of the statistic over its mean, in its standard deviations."""
    expected = np.sum(counts) / len(counts)
    degrees = len(counts) - 1
    return (np.sum((counts - expected) ** 2 / expected) - degrees) / np.sqrt(2 * degrees)


@pytest.mark.parametrize(
    ("seed", "published"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ],
)
def test_the_numbers_that_are_published_for_splitmix64(seed, published):
    assert first(seed, 3) == published
    assert random_bits(np.uint64(seed), np.arange(1, 4)).tolist() == published


@pytest.mark.parametrize("key", [0, 1, 37, 2**63, ALL_ONES - 5, ALL_ONES])
def test_bits_equal_the_generator_in_plain_integers(key):
    bits = random_bits(np.uint64(key), np.arange(1, 41))
    assert bits.dtype == np.uint64
    assert bits.tolist() == first(key, 40)


def test_a_number_alone_gives_what_it_gives_among_others():
    keys = np.array([5, 2**60, 17], np.uint64)
    numbers = np.array([0, 3, 2**31 - 1, 7], np.int32)
    bits = random_bits(keys[:, np.newaxis], numbers)
    assert bits.shape == (3, 4)
    for i, key in enumerate(keys):
        for j, number in enumerate(numbers):
            assert random_bits(key, number) == random_bits(key, int(number)) == bits[i, j]


def test_bits_are_uniform():
    bits = random_bits(np.uint64(3), np.arange(2**16))
    for shift in range(0, 64, 8):
        values = (bits >> np.uint64(shift)) & np.uint64(0xFF)
        assert abs(chi_square(np.bincount(values.astype(np.int64), minlength=256))) < 5
    assert len(np.unique(bits)) == len(bits)


def test_nested_bits_are_uniform_and_do_not_repeat():
    outer = random_bits(np.uint64(4), np.arange(256))
    nested = random_bits(outer[:, np.newaxis], np.arange(256))
    assert nested[3, 5] == random_bits(random_bits(np.uint64(4), 3), 5)
    # Nor are they those of the key itself, or of the key under which they are nested.
    assert len(np.unique(np.concatenate([outer, nested.ravel()]))) == 256 + 256**2
    # Neighbours in either direction say nothing of each other: their top 4 bits, together.
    top = (nested >> np.uint64(60)).astype(np.int64)
    for one, other in [(top[1:], top[:-1]), (top[:, 1:], top[:, :-1])]:
        assert abs(chi_square(np.bincount((one * 16 + other).ravel(), minlength=256))) < 5


def test_every_seed_is_a_key():
    assert key_of_seed(1234567) == first(1234567, 1)[0]
    assert isinstance(key_of_seed(0), np.uint64)
    seeds = [*range(100), -1, 2**63, ALL_ONES - 1]
    assert len({int(key_of_seed(seed)) for seed in seeds}) == len(seeds)
    assert key_of_seed(-1) == key_of_seed(ALL_ONES)


def test_below_is_the_upper_half_scaled():
    bits = np.array([0, 2**31, 2**32, 2**63, 0x123456789ABCDEF0, ALL_ONES], np.uint64)
    for bound in (1, 2, 3, 30522, 2**31 + 1, 2**32):
        values = below(bits, bound)
        assert values.dtype == np.int64
        assert values.tolist() == [((int(b) >> 32) * bound) >> 32 for b in bits]
        assert values.min() == 0
        assert values.max() == bound - 1
    bounds = np.array([[1], [5]])
    assert below(bits, bounds).tolist() == [below(bits, 1).tolist(), below(bits, 5).tolist()]


@pytest.mark.parametrize("bound", [2, 37, 1000])
def test_below_is_uniform(bound):
    values = below(random_bits(key_of_seed(bound), np.arange(100 * bound)), bound)
    counts = np.bincount(values)
    assert len(counts) == bound
    assert abs(chi_square(counts)) < 5


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_things_happen_as_often_as_is_said(probability):
    happened = happens(random_bits(np.uint64(6), np.arange(100_000)), probability)
    assert happened.dtype == np.bool_
    assert np.mean(happened) == pytest.approx(probability, abs=0.008)  # five standard deviations


def test_what_is_certain_happens_and_what_is_impossible_does_not():
    bits = np.array([0, 2**63 - 1, 2**63, ALL_ONES], np.uint64)
    assert happens(bits, 1.0).all()
    assert not happens(bits, 0.0).any()
    assert happens(bits, 0.5).tolist() == [True, True, False, False]
