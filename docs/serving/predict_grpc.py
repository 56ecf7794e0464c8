"""Asks a served model over gRPC, with the packages tensorflow-serving-api and tensorflow.

    python predict_grpc.py --model support "Where is my parcel?" "I was charged twice."
    python predict_grpc.py --model pairs '{"text": "It rains.", "text_b": "It is wet outside."}'

An example is a text, or a JSON object of the signature's inputs by name. What the model says of
each is printed as one JSON object.
"""

import argparse
import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def predict(stub, model, examples, *, signature="", version=None, timeout=10.0):
    """Asks for one answer to each example.

    Args:
        stub: a PredictionServiceStub.
        model: the model's name on the server.
        examples: dicts of the signature's inputs by name, of the same names each. Lists of
            different lengths are filled up, see ``filled_up``.
        signature: of the model; serving_default if it is empty.
        version: of the model; None for the latest.
        timeout: seconds.

    Returns:
        The signature's outputs by name, arrays with one row for each example.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name in examples[0]:
        column = filled_up([example[name] for example in examples])
        # The numbers that a model takes are int32.
        is_text = np.array(column).dtype.kind == "U"
        dtype = tf.string if is_text else tf.int32
        request.inputs[name].CopyFrom(tf.make_tensor_proto(column, dtype))
    response = stub.Predict(request, timeout)
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def filled_up(column):
    """The values of an input, lists being as long as the longest.

    What a model takes for nothing, ``""`` for a choice or 0 for an id, is added at the end.
    """
    if not all(isinstance(value, list) for value in column):
        return column
    filling = "" if any(isinstance(part, str) for value in column for part in value) else 0
    most = max(map(len, column))
    return [value + [filling] * (most - len(value)) for value in column]


def plain(value):
    """What JSON has for a part of an output."""
    if isinstance(value, bytes):
        return value.decode()
    return [plain(part) for part in value] if isinstance(value, list) else value


def named(example):
    """The inputs of an example, by name: what a JSON object says, or else it is a text."""
    try:
        found = json.loads(example)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": example}


def main(arguments=None):
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("examples", nargs="+", help="texts, or JSON objects")
    parser.add_argument("--server", default="localhost:8500", help="host:port (%(default)s)")
    parser.add_argument("--model", required=True, help="the model's name on the server")
    parser.add_argument("--signature", default="serving_default", help="(%(default)s)")
    parser.add_argument("--version", type=int, help="of the model; by default the latest")
    given = parser.parse_args(arguments)
    examples = [named(example) for example in given.examples]
    with grpc.insecure_channel(given.server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            outputs = predict(
                stub, given.model, examples, signature=given.signature, version=given.version
            )
        except grpc.RpcError as error:
            print(f"{given.server}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    columns = {name: plain(values.tolist()) for name, values in sorted(outputs.items())}
    for row, example in enumerate(examples):
        answer = {name: values[row] for name, values in columns.items()}
        print(json.dumps({**example, **answer}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
