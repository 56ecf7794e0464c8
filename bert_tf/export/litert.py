"""Takes a traced function, returns it as a LiteRT (TensorFlow Lite) file; next: other_runtimes.

Weights are float32, float16, or with ``int8`` rounded to 8 bits, as are activations in products
while it runs (dynamic range quantization). Batch and length are any.
"""

import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from bert_tf.export.saved_model import save
from bert_tf.export.served_model import Arrays, Run
from bert_tf.use_config import Export

FILE = "model.tflite"


def write(module: tf.Module, function: Any, settings: Export, path: pathlib.Path) -> None:
    """Writes a function as a file.

    Args:
        module: holds its weights, in float32.
        function: traced; see ``saveable``.
        settings: of the export.
        path: of the file.
    """
    # From a saved model, since from a function the weights are copied while they are read.
    with tempfile.TemporaryDirectory(dir=path.parent) as saved:
        save(module, pathlib.Path(saved), function)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        if settings.precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if settings.precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    path.write_bytes(content)


def runner(path: pathlib.Path, num_threads: int | None = None) -> Run:
    """What runs a file.

    Args:
        path: of the file.
        num_threads: by default as many as the runtime thinks right.
    """
    from ai_edge_litert.interpreter import Interpreter  # comes with tf-models-official

    signature = Interpreter(str(path), num_threads=num_threads).get_signature_runner()

    def run(inputs: Arrays) -> Arrays:
        outputs: Arrays = signature(**inputs)
        return outputs

    return run
