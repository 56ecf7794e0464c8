"""The original BERT recipe on TensorFlow 2 and Keras 3.

Importing this package imports neither TensorFlow nor Keras; the first use of a name does.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "AdamWeightDecay": "optimization",
    "BertClassifier": "heads",
    "BertConfig": "config",
    "BertModel": "modeling",
    "BertMultipleChoice": "heads",
    "BertPretrainer": "heads",
    "BertSpanLabeler": "heads",
    "BertTagger": "heads",
    "FullTokenizer": "tokenization",
    "GraphTokenizer": "graph_tokenization",
    "InputError": "errors",
    "Lamb": "optimization",
    "LoadReport": "checkpoint",
    "Predictor": "predictor",
    "create_optimizer": "optimization",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bert_tf' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bert_tf.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
