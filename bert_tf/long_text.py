"""Takes the pieces of texts that may be too long, returns what is shown of them; next: tasks.

The ways to shorten a text are those that Sun et al. 2019 (arXiv 1905.05583, section 5.3.1) compare:
its beginning, its end, or both, 128 and 382 pieces of 510 in all. The fourth is to show all of it,
in windows, each a row of its own.
"""

import numpy as np

from bert_tf.packing import RaggedIds, runs

# Of the pieces of a shortened text those that are of its beginning, with head_tail.
HEAD_SHARE = 128 / 510


def shortened(texts: RaggedIds, most: int, how: str) -> RaggedIds:
    """Texts of at most so many pieces.

    Args:
        texts: their pieces.
        most: pieces that are kept of one that has more.
        how: ``head``, ``tail`` or ``head_tail``.
    """
    lengths = np.minimum(texts.lengths, most)
    heads = {"head": most, "tail": 0, "head_tail": round(most * HEAD_SHARE)}[how]
    heads = np.minimum(lengths, heads)  # of a text that is whole, both parts are all of it
    tails = lengths - heads
    starts = np.stack([texts.row_splits[:-1], texts.row_splits[1:] - tails], axis=1)
    parts = runs(texts.values, starts.ravel(), np.stack([heads, tails], axis=1).ravel())
    return RaggedIds(parts.values, parts.row_splits[::2])


def windows(
    texts: RaggedIds, size: int, stride: int, max_windows: int
) -> tuple[RaggedIds, np.ndarray, np.ndarray]:
    """Windows over texts.

    Args:
        texts: their pieces.
        size: pieces of a window.
        stride: pieces between the starts of two windows, at most ``size``.
        max_windows: windows of a text; what is beyond them is not shown.

    Returns:
        The windows, the first of each text and after them all the end, int64 [number of texts + 1],
        and the pieces of each text that are shown, int64 [number of texts].
    """
    lengths = texts.lengths
    needed = 1 + -(-np.maximum(lengths - size, 0) // stride)
    counts = np.minimum(needed, max_windows)
    row_splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    text = np.repeat(np.arange(len(counts)), counts)
    offset = (np.arange(row_splits[-1]) - row_splits[text]) * stride
    rows = runs(
        texts.values, texts.row_splits[text] + offset, np.minimum(lengths[text] - offset, size)
    )
    return rows, row_splits, np.minimum(lengths, (counts - 1) * stride + size)
