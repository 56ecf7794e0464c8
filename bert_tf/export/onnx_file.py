"""Takes a traced function, returns it as an ONNX file; next: other_runtimes.

With ``int8`` the weights of products are 8 bits, as are activations in them while it runs (ONNX
Runtime's dynamic quantization). Batch and length are any. Needs the extra ``onnx``.
"""

import logging
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf.errors import InputError
from bert_tf.export.served_model import Arrays, Run
from bert_tf.use_config import Export

FILE = "model.onnx"
_OPSET = 18


def write(module: tf.Module, function: Any, settings: Export, path: pathlib.Path) -> None:
    """Writes a function as a file.

    Args:
        module: holds its weights, in float32.
        function: traced; see ``saveable``.
        settings: of the export.
        path: of the file.

    Raises:
        InputError: if the extra is not installed.
    """
    try:
        import tf2onnx
        from onnxruntime.quantization import quantize_dynamic
    except ImportError as error:
        raise InputError(
            f"--runtime=onnx needs packages that are not installed ({error}): "
            "pip install -e '.[onnx]' -c constraints.txt"
        ) from error
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    specs = function.structured_input_signature[1]

    def model(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = function(**dict(zip(specs, inputs, strict=True)))
        return outputs

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        exact = pathlib.Path(scratch) / FILE
        tf2onnx.convert.from_function(
            tf.function(model, autograph=False),
            input_signature=list(specs.values()),
            opset=_OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
            output_path=str(exact),
        )
        if settings.precision == "int8":
            logging.disable(logging.WARNING)  # it would have the graph optimized first; it is
            try:
                # A scale for each output of a product; and 7 bits, as sums of 8 x 8 bits overflow
                # on processors without VNNI.
                quantize_dynamic(exact, path, per_channel=True, reduce_range=True)
            finally:
                logging.disable(logging.NOTSET)
        else:
            exact.rename(path)


def _erfc(graph: Any, node: Any, name: str, args: list[Any]) -> Any:
    """Makes ``1 - erf(x)`` of ``erfc(x)``, which is in gelu_erf, and which ONNX does not have.

    Args:
        graph: of tf2onnx, that is changed.
        node: Erfc, of float32.
        name: of the node.
        args: none.
    """
    erf = graph.make_node("Erf", node.input)
    one = graph.make_const(f"{name}/one", np.float32(1))
    (output,) = node.output
    dtype, shape = graph.get_dtype(output), graph.get_shape(output)
    graph.remove_node(name)
    terms = [one.output[0], erf.output[0]]
    return graph.make_node(
        "Sub", terms, name=name, outputs=[output], dtypes=[dtype], shapes=[shape]
    )


def runner(path: pathlib.Path, num_threads: int | None = None) -> Run:
    """What runs a file.

    Args:
        path: of the file.
        num_threads: by default one for each core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    session: Any = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run
