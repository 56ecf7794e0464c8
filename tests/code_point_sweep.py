"""What the original's tokenizer made of every code point."""

import json

import numpy as np


def code_point_sweep(shared, casing, tokenizer):
    """Every code point but surrogates, between letters.

    Args:
        shared: the folder that has the goldens.
        casing: uncased or cased.
        tokenizer: whose ids there are.

    Returns:
        The texts; the ids of all their pieces, end to end; how many each text has, int64.
    """
    path = shared / "goldens" / "tokenizer" / f"unicode_sweep_{casing}.json"
    before, after = ("ab", "cd") if casing == "uncased" else ("Ab", "Cd")
    texts, ids, lengths = [], [], []
    for pieces, ranges in json.loads(path.read_text("utf-8")).items():
        found = tokenizer.convert_tokens_to_ids(pieces.split("\t"))
        for first, last in ranges:
            texts += [f"{before}{chr(c)}{after}" for c in range(first, last + 1)]
            ids.append(np.tile(found, last + 1 - first))
            lengths.append(np.full(last + 1 - first, len(found)))
    assert len(set(texts)) == len(texts) == 0x110000 - 0x800
    return texts, np.concatenate(ids), np.concatenate(lengths)
