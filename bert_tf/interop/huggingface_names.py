"""Takes nothing, returns which Hugging Face name is which of ours; next: huggingface_folder."""

from bert_tf.interop.weights import PARTS, Names

# The layers are called alike: bert/encoder/layer_3/output/dense, bert.encoder.layer.3.output.dense.
_SCOPES = {
    scope: scope.replace("layer_{layer}", "layer.{layer}").replace("/", ".")
    for weights in PARTS.values()
    for scope in (weight.name.rpartition("/")[0] for weight in weights)
}
NAMES = Names(
    _SCOPES,
    {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"},
    ".",
    {
        "bert/embeddings/word_embeddings": "bert.embeddings.word_embeddings.weight",
        "bert/embeddings/position_embeddings": "bert.embeddings.position_embeddings.weight",
        "bert/embeddings/token_type_embeddings": "bert.embeddings.token_type_embeddings.weight",
        "cls/predictions/output_bias": "cls.predictions.bias",
        "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
        "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
        "output_weights": "classifier.weight",
        "output_bias": "classifier.bias",
        "cls/squad/output_weights": "qa_outputs.weight",
        "cls/squad/output_bias": "qa_outputs.bias",
    },
)

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

# Our task type of a classifier of texts -> their name of it.
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def is_transposed(name: str) -> bool:
    """Whether a safetensors file holds a weight's transpose, as torch's linear layers do."""
    return name.endswith("/kernel")
