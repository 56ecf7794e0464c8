"""Takes nothing, returns which Hugging Face name is which of ours; next: huggingface_folder.

One table for both directions: `PARTS` has a row for each weight that both sides know.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Weight(NamedTuple):
    """A row of the table.

    Attributes:
        name: in a checkpoint of the original; ``{layer}`` stands for a layer's number.
        theirs: in a safetensors file.
        shape: in a checkpoint of the original: sizes, keys of BertConfig, or ``num_labels``.
        transposed: whether the file holds the transpose, as torch's linear layers do.
    """

    name: str
    theirs: str
    shape: tuple[str | int, ...]
    transposed: bool = False


def _table(name: str, theirs: str, rows: str) -> tuple[Weight, ...]:
    return (Weight(name, f"{theirs}.weight", (rows, "hidden_size")),)


def _layer_norm(name: str, theirs: str) -> tuple[Weight, ...]:
    return (
        Weight(f"{name}/gamma", f"{theirs}.weight", ("hidden_size",)),
        Weight(f"{name}/beta", f"{theirs}.bias", ("hidden_size",)),
    )


def _dense(
    name: str, theirs: str, inputs: str = "hidden_size", outputs: str = "hidden_size"
) -> tuple[Weight, ...]:
    return (
        Weight(f"{name}/kernel", f"{theirs}.weight", (inputs, outputs), transposed=True),
        Weight(f"{name}/bias", f"{theirs}.bias", (outputs,)),
    )


def _linear(scope: str, theirs: str, outputs: str | int) -> tuple[Weight, ...]:
    # The original's small heads hold their weights as torch does.
    return (
        Weight(f"{scope}output_weights", f"{theirs}.weight", (outputs, "hidden_size")),
        Weight(f"{scope}output_bias", f"{theirs}.bias", (outputs,)),
    )


def _layer(name: str, theirs: str) -> tuple[Weight, ...]:
    inner = "intermediate_size"
    return (
        *_dense(f"{name}/attention/self/query", f"{theirs}.attention.self.query"),
        *_dense(f"{name}/attention/self/key", f"{theirs}.attention.self.key"),
        *_dense(f"{name}/attention/self/value", f"{theirs}.attention.self.value"),
        *_dense(f"{name}/attention/output/dense", f"{theirs}.attention.output.dense"),
        *_layer_norm(f"{name}/attention/output/LayerNorm", f"{theirs}.attention.output.LayerNorm"),
        *_dense(f"{name}/intermediate/dense", f"{theirs}.intermediate.dense", outputs=inner),
        *_dense(f"{name}/output/dense", f"{theirs}.output.dense", inputs=inner),
        *_layer_norm(f"{name}/output/LayerNorm", f"{theirs}.output.LayerNorm"),
    )


def _embeddings(name: str, theirs: str) -> tuple[Weight, ...]:
    return (
        *_table(f"{name}/word_embeddings", f"{theirs}.word_embeddings", "vocab_size"),
        *_table(
            f"{name}/position_embeddings",
            f"{theirs}.position_embeddings",
            "max_position_embeddings",
        ),
        *_table(
            f"{name}/token_type_embeddings", f"{theirs}.token_type_embeddings", "type_vocab_size"
        ),
        *_layer_norm(f"{name}/LayerNorm", f"{theirs}.LayerNorm"),
    )


PARTS: dict[str, tuple[Weight, ...]] = {
    "embeddings": _embeddings("bert/embeddings", "bert.embeddings"),
    "layer": _layer("bert/encoder/layer_{layer}", "bert.encoder.layer.{layer}"),
    "pooler": _dense("bert/pooler/dense", "bert.pooler.dense"),
    "masked_lm": (
        *_dense("cls/predictions/transform/dense", "cls.predictions.transform.dense"),
        *_layer_norm("cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"),
        Weight("cls/predictions/output_bias", "cls.predictions.bias", ("vocab_size",)),
    ),
    "next_sentence": _linear("cls/seq_relationship/", "cls.seq_relationship", 2),
    "classifier": _linear("", "classifier", "num_labels"),  # of texts, of tokens, or of choices
    "span": _linear("cls/squad/", "qa_outputs", 2),
}
HEADS = ("masked_lm", "next_sentence", "classifier", "span")

# Tensors that transformers ties to others; a file may hold either or both.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}

# Their name of an activation -> ours; where several mean one of ours, the first is the usual one.
ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}


def expand(parts: Iterable[str], num_hidden_layers: int) -> list[Weight]:
    """The rows of some parts, those of ``layer`` once for each layer."""
    return [
        weight._replace(
            name=weight.name.format(layer=layer), theirs=weight.theirs.format(layer=layer)
        )
        for part in parts
        for layer in range(num_hidden_layers if part == "layer" else 1)
        for weight in PARTS[part]
    ]
