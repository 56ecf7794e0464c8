"""Small folders of the original's layout, random weights in all their parts, and what they give."""

import numpy as np
import yaml

from bert_tf.checkpoint import Checkpoint, load_checkpoint, write_tensors
from bert_tf.config import BertConfig
from bert_tf.heads import BertClassifier, BertPretrainer, BertSpanLabeler, BertTagger
from bert_tf.interop.original_model import shapes_of
from bert_tf.interop.weights import expand
from bert_tf.modeling import BertModel

CONFIG = BertConfig(
    vocab_size=29,
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=20,
    max_position_embeddings=17,
    type_vocab_size=5,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.2,
)
NUM_LABELS = 7
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwx"]
ENCODER = ("embeddings", "layer", "pooler")
PRETRAINING = (*ENCODER, "masked_lm", "next_sentence")

INPUTS = {
    "input_ids": np.array([[2, 5, 7, 9, 3], [2, 4, 3, 0, 0]], np.int32),
    "input_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32),
    "segment_ids": np.array([[0, 0, 1, 4, 2], [0, 3, 3, 0, 0]], np.int32),
}
POSITIONS = np.array([[1, 3, 4], [2, 0, 1]], np.int32)


def make_folder(folder, parts=ENCODER, config=CONFIG, labels=(), num_labels=NUM_LABELS, **run):
    """Writes a folder and returns it; with ``run``, it is a run's, of these settings."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(7)
    shapes = shapes_of(expand(parts, config.num_hidden_layers), config, num_labels)
    tensors = {name: random.normal(0, 0.4, shape).astype("f") for name, shape in shapes.items()}
    write_tensors(tensors, folder / "bert_model.ckpt")
    (folder / "bert_config.json").write_text(config.to_json_string())
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    if labels:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    if run:
        (folder / "run_config.yaml").write_text(yaml.safe_dump(run))
    return folder


def read(folder):
    """Name -> values of a checkpoint of the original."""
    checkpoint = Checkpoint(folder)
    names = list(checkpoint.shapes)
    return dict(zip(names, (value.numpy() for value in checkpoint.read(names)), strict=True))


def assert_same_bits(folder, other, names=None):
    """That two folders have the same tensors, bit for bit; or all those of ``names``."""
    first, second = read(folder), read(other)
    assert sorted(second) == sorted(first if names is None else names)
    for name, value in second.items():
        assert (value.dtype, value.shape) == (first[name].dtype, first[name].shape), name
        assert value.tobytes() == first[name].tobytes(), name


def encode(folder):
    """BertModel's outputs for INPUTS."""
    model = BertModel(BertConfig.from_json_file(folder / "bert_config.json"), seed=1)
    load_checkpoint(model, folder)
    return model(INPUTS)


def classify(folder, inputs=INPUTS):
    """BertClassifier's logits."""
    config = BertConfig.from_json_file(folder / "bert_config.json")
    model = BertClassifier(config, len(read(folder)["output_bias"]), seed=1)
    load_checkpoint(model, folder)
    return model(inputs)


def tag(folder, inputs=INPUTS):
    """BertTagger's logits of all positions."""
    config = BertConfig.from_json_file(folder / "bert_config.json")
    model = BertTagger(config, len(read(folder)["output_bias"]), seed=1)
    load_checkpoint(model, folder, allow_missing=["bert/pooler/*"])
    return model({**inputs, "word_starts": all_positions(inputs)})


def label_spans(folder, inputs=INPUTS):
    """BertSpanLabeler's logits."""
    model = BertSpanLabeler(BertConfig.from_json_file(folder / "bert_config.json"), seed=1)
    load_checkpoint(model, folder, allow_missing=["bert/pooler/*"])
    return model(inputs)


def pretrain(folder, inputs=INPUTS, positions=POSITIONS):
    """BertPretrainer's outputs at the positions."""
    model = BertPretrainer(BertConfig.from_json_file(folder / "bert_config.json"), seed=1)
    load_checkpoint(model, folder, allow_missing=["cls/seq_relationship/*"])
    return model({**inputs, "masked_lm_positions": positions})


def all_positions(inputs):
    """int32 [B, S], the positions of each row."""
    rows, length = inputs["input_ids"].shape
    return np.tile(np.arange(length, dtype=np.int32), [rows, 1])


def assert_close(found, wanted, atol=2e-5):
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=atol)
