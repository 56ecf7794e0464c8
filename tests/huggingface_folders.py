"""Small folders that transformers saved, and what transformers makes of texts with them.

    python tests/huggingface_folders.py

makes those of tests/testdata/huggingface anew; it needs the extra 'bench'. The tests import the
rest, which does without.
"""

import pathlib
import sys

import numpy as np
from original_folders import INPUTS

FOLDER = pathlib.Path(__file__).resolve().parent / "testdata" / "huggingface"

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "É", "E", "e", "é", "t", "##t", "##É"]
PIECES += ["##e", "a", "##a", "##b", "##B", "B", "b", "ab", "##ab", "中", "国", ".", "?", "of"]
PIECES += ["##of", "one", "two", "##s", "O"]
# Marks, capitals, unknown words, and rows of three lengths.
FIRST = ["Étab aÉ. 中国", "ab ones?", "B"]
SECOND = ["Ea bB two", "of zebra", "a"]

# The sizes differ, so that a swapped axis fails.
SIZES = {
    "vocab_size": len(PIECES),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 11,
    "max_position_embeddings": 17,
    "type_vocab_size": 3,
}
CHOICES = ["never", "no", "perhaps", "yes", "always"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
# A class of transformers -> whether its texts are lower-cased, and its configuration.
CLASSES = {
    "BertForPreTraining": (True, {"hidden_act": "gelu"}),
    "BertForSequenceClassification": (
        False,
        {
            "hidden_act": "gelu_new",
            "hidden_dropout_prob": 0.2,
            "id2label": dict(enumerate(CHOICES)),
            "problem_type": "single_label_classification",
        },
    ),
    "BertForTokenClassification": (
        False,
        {"hidden_act": "gelu", "id2label": dict(enumerate(TAGS))},
    ),
    "BertForQuestionAnswering": (True, {"hidden_act": "gelu_new"}),
}


def make_folder(transformers, folder, architecture):
    """Has transformers save a model of random weights and its tokenizer."""
    import torch

    do_lower_case, settings = CLASSES[architecture]
    if "id2label" in settings:
        names = settings["id2label"]
        settings = {**settings, "label2id": {label: i for i, label in names.items()}}
    model = getattr(transformers, architecture)(transformers.BertConfig(**SIZES, **settings))
    random = np.random.default_rng(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            # Rows of embeddings are short, as in real models, so that an epsilon counts.
            spread = 0.02 if name.endswith("_embeddings.weight") else 0.4
            values = random.normal(0, spread, tuple(parameter.shape)).astype("f")
            parameter.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(
        vocab={piece: i for i, piece in enumerate(PIECES)},
        do_lower_case=do_lower_case,
        model_max_length=SIZES["max_position_embeddings"],
    )
    tokenizer.save_pretrained(folder)
    return folder


def make_golden(transformers, folder, architecture):
    """Name -> array: what FIRST and SECOND become, under our names; the outputs, under theirs."""
    tokenizer = transformers.BertTokenizer.from_pretrained(str(folder))
    rows = tokenizer(FIRST, SECOND, padding=True)
    theirs = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: np.array(rows[key], np.int32) for name, key in zip(INPUTS, theirs, strict=True)}
    outputs, missing, unexpected = outputs_of(transformers, folder, architecture, inputs)
    assert (missing, unexpected) == ([], [])
    return inputs | {name: value.numpy() for name, value in outputs.items()}


def outputs_of(transformers, folder, architecture, inputs=INPUTS):
    """What the class makes of the inputs, and what it did not find in the file, or not use."""
    import torch

    cls = getattr(transformers, architecture)
    model, report = cls.from_pretrained(str(folder), output_loading_info=True)
    model.eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        outputs = model(
            **{
                name: torch.tensor(value.astype(np.int64))
                for name, value in zip(names, inputs.values(), strict=True)
            }
        )
    return outputs, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def main():
    import transformers

    for architecture in CLASSES:
        folder = make_folder(transformers, FOLDER / architecture, architecture)
        golden = make_golden(transformers, folder, architecture)
        np.savez_compressed(FOLDER / f"{architecture}.npz", **golden)
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in golden.items())
        print(f"{folder}: {shapes}", file=sys.stderr)


if __name__ == "__main__":
    main()
