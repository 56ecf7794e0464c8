"""Takes nothing, returns the names and shapes of the original's weights; next: original_model.

Every format is described by what it calls these: `PARTS` has a row for each weight of the encoder
and of the heads that some other library knows too.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Weight(NamedTuple):
    """A row of the table.

    Attributes:
        name: in a checkpoint of the original; ``{layer}`` stands for a layer's number.
        shape: in a checkpoint of the original: sizes, keys of BertConfig, or ``num_labels``.
    """

    name: str
    shape: tuple[str | int, ...]


def _layer_norm(name: str) -> tuple[Weight, ...]:
    return Weight(f"{name}/gamma", ("hidden_size",)), Weight(f"{name}/beta", ("hidden_size",))


def _dense(
    name: str, inputs: str = "hidden_size", outputs: str = "hidden_size"
) -> tuple[Weight, ...]:
    return Weight(f"{name}/kernel", (inputs, outputs)), Weight(f"{name}/bias", (outputs,))


def _linear(scope: str, outputs: str | int) -> tuple[Weight, ...]:
    # The original's small heads hold their weights the other way round.
    return (
        Weight(f"{scope}output_weights", (outputs, "hidden_size")),
        Weight(f"{scope}output_bias", (outputs,)),
    )


def _layer(name: str) -> tuple[Weight, ...]:
    return (
        *_dense(f"{name}/attention/self/query"),
        *_dense(f"{name}/attention/self/key"),
        *_dense(f"{name}/attention/self/value"),
        *_dense(f"{name}/attention/output/dense"),
        *_layer_norm(f"{name}/attention/output/LayerNorm"),
        *_dense(f"{name}/intermediate/dense", outputs="intermediate_size"),
        *_dense(f"{name}/output/dense", inputs="intermediate_size"),
        *_layer_norm(f"{name}/output/LayerNorm"),
    )


PARTS: dict[str, tuple[Weight, ...]] = {
    "embeddings": (
        Weight("bert/embeddings/word_embeddings", ("vocab_size", "hidden_size")),
        Weight("bert/embeddings/position_embeddings", ("max_position_embeddings", "hidden_size")),
        Weight("bert/embeddings/token_type_embeddings", ("type_vocab_size", "hidden_size")),
        *_layer_norm("bert/embeddings/LayerNorm"),
    ),
    "layer": _layer("bert/encoder/layer_{layer}"),
    "pooler": _dense("bert/pooler/dense"),
    "masked_lm": (
        *_dense("cls/predictions/transform/dense"),
        *_layer_norm("cls/predictions/transform/LayerNorm"),
        Weight("cls/predictions/output_bias", ("vocab_size",)),
    ),
    "next_sentence": _linear("cls/seq_relationship/", 2),
    "classifier": _linear("", "num_labels"),  # of texts, of tokens, or of choices
    "span": _linear("cls/squad/", 2),
}
HEADS = ("masked_lm", "next_sentence", "classifier", "span")


def expand(parts: Iterable[str], num_hidden_layers: int) -> list[Weight]:
    """The rows of some parts, those of ``layer`` once for each layer."""
    return [
        weight._replace(name=weight.name.format(layer=layer))
        for part in parts
        for layer in range(num_hidden_layers if part == "layer" else 1)
        for weight in PARTS[part]
    ]


class Names:
    """What another format calls the original's weights.

    Args:
        scopes: what a name begins with -> what it begins with there; both may hold ``{layer}``.
        words: the last word of a name -> the last word there.
        separator: what stands before the last word there.
        others: whole names, where these rules do not hold.
    """

    def __init__(
        self,
        scopes: Mapping[str, str],
        words: Mapping[str, str],
        separator: str,
        others: Mapping[str, str],
    ) -> None:
        self._scopes = scopes
        self._words = words
        self._separator = separator
        self._others = others

    def __getitem__(self, name: str) -> str:
        if name in self._others:
            return self._others[name]
        scope, _, word = re.sub(r"/layer_\d+/", "/layer_{layer}/", name).rpartition("/")
        theirs = f"{self._scopes[scope]}{self._separator}{self._words[word]}"
        layer = re.search(r"/layer_(\d+)/", name)
        return theirs.format(layer=layer.group(1)) if layer else theirs
