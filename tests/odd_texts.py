"""Small texts that hold everything odd a text can hold, for tests of making pretraining data."""

import gzip
import random

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ","]
PIECES += [first + second for first in "bcdfg" for second in "aeiou"]
PIECES += [f"##{second}{first}" for first in "klmn" for second in "aeiou"]


def sentence(rng, num_words):
    words = [rng.choice("bcdfg") + rng.choice("aeiou") for _ in range(num_words)]
    tails = ["", "", "ak", "elim", "on.", ","]
    return " ".join(word + rng.choice(tails) for word in words)


def text(seed, num_documents, line_end="\n"):
    """Documents of 1 to 9 sentences, with up to 3 blank lines before, between and after them."""
    rng = random.Random(seed)
    lines = []
    for _ in range(num_documents):
        lines += rng.choice([[""], ["", ""], ["", " ", ""]])
        lines += [sentence(rng, rng.randint(1, 12)) for _ in range(rng.randint(1, 9))]
        if rng.random() < 0.2:
            lines.append("\u200b")  # which no word piece comes of
        if rng.random() < 0.2:
            lines.append(lines[-1])
        if rng.random() < 0.1:
            lines.append(sentence(rng, 90))
    return line_end.join(lines)


def write_texts(folder):
    """Writes a vocabulary and three texts, and returns the flags that name them."""
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "a.txt").write_bytes(b"\n\n" + text(1, 23).encode() + b"\nba \xff be\n\n")
    (folder / "b.txt.gz").write_bytes(gzip.compress(text(2, 17, "\r\n").encode()))
    (folder / "c.txt").write_bytes(b" \n\n")
    names = ("a.txt", "b.txt.gz", "c.txt")
    return {
        "input_file": ",".join(str(folder / name) for name in names),
        "vocab_file": str(folder / "vocab.txt"),
        "max_seq_length": 31,
        "max_predictions_per_seq": 6,
        "dupe_factor": 3,
        "random_seed": 17,
    }
