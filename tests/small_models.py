"""Folders of finished runs with strong random weights, so that each text has another answer."""

import string

import keras
import yaml

from bert_tf import run_folder
from bert_tf.checkpoint import save_checkpoint
from bert_tf.config import BertConfig
from bert_tf.tasks.model_files import write_model_files
from bert_tf.tokenization import Vocabulary

LETTERS = [mark + letter for letter in string.ascii_lowercase for mark in ("", "##")]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", *LETTERS, *"[]!.中"]
PIECES += ["the", "of", "river", "##able", "σ", "##ς", "##ο"]

# Texts that a user may send, and some that nobody would.
TEXTS = [
    "the river of the able",
    "",
    " \t\n ",
    "unable!",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g",
    "naïve Café ΟΔΟΣ 中文 🙂 \u200b",
    "[CLS] [SEP] [MASK] [PAD]",
    "x" * 250,
    "the",
    "no\x00thing\ufffd\u2028here",
]
PAIRS = [(text, other) for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]


def make_run(folder, model_of, command, settings, labels=(), **changes):
    """Writes what a finished run leaves.

    Args:
        folder: where, a new one.
        model_of: makes the model, given its configuration.
        command: the run's.
        settings: what they are, other than by default.
        labels: of the model.
        changes: ``pieces`` of another vocabulary, or of the configuration.
    """
    pieces = changes.pop("pieces", PIECES)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=20,
        **{
            "num_hidden_layers": 2,
            "max_position_embeddings": 41,
            "type_vocab_size": 2,
            "initializer_range": 0.7,
            **changes,
        },
    )
    write_model_files(folder, config, Vocabulary(folder / "vocab.txt"))
    keras.utils.set_random_seed(3)
    save_checkpoint(model_of(config), folder / run_folder.CHECKPOINT)
    if labels:
        run_folder.write_lines(folder / run_folder.LABELS, labels)
    stored = {"command": command, "do_train": True, "output_dir": str(folder), **settings}
    (folder / run_folder.RUN_CONFIG).write_text(yaml.safe_dump(stored))
    return folder
