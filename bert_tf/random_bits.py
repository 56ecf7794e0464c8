"""Takes a seed and what is to be decided, returns random bits for it; next: masking.

Every random choice in making pretraining data is a function of the seed and of what is decided
(this sentence, that copy, this token), not of what was decided before it. So any part of the data
can be made anywhere, in any order, by any number of processes, and comes out the same.

The generator is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"): bits number i of a key are ``mix(key + i * GAMMA)``. It is written out because
NumPy's own streams may change from version to version.
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def random_bits(key: np.ndarray | np.uint64, number: np.ndarray | int) -> np.ndarray:
    """The bits with a number that belong to a key.

    They are a good key themselves, so decisions can be nested.

    Args:
        key: uint64, any shape.
        number: integers of a shape that broadcasts with the key's.

    Returns:
        uint64 of the broadcast shape, uniform over all values.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64, and means to be
        bits = np.asarray(number).astype(np.uint64) * _GAMMA + key
        bits = (bits ^ (bits >> _SHIFTS[0])) * _MULTIPLIERS[0]
        bits = (bits ^ (bits >> _SHIFTS[1])) * _MULTIPLIERS[1]
        return bits ^ (bits >> _SHIFTS[2])


def key_of_seed(seed: int) -> np.uint64:
    """The key that a run's seed stands for."""
    return np.uint64(random_bits(np.uint64(seed & 0xFFFFFFFFFFFFFFFF), 1))


def below(bits: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Integers uniform over 0 … bound - 1, int64, from the upper half of the bits.

    Args:
        bits: uint64.
        bound: integers from 1 to 2**32 of a shape that broadcasts with the bits'. No value is
            likelier than another by more than ``bound / 2**32`` of its probability.
    """
    half = np.uint64(32)
    return (((bits >> half) * np.asarray(bound).astype(np.uint64)) >> half).astype(np.int64)


def happens(bits: np.ndarray, probability: float) -> np.ndarray:
    """Whether something of a probability happens, bool, from the upper 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < probability
