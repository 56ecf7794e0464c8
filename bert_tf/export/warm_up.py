"""Takes a served model, returns the requests that warm a server up; next: saved_model.

Before a version takes its first request, TF Serving replays what it finds in
``assets.extra/tf_serving_warmup_requests``, a TFRecord file of ``PredictionLog``. Each signature
that takes texts is asked in several batch sizes and lengths; ``tokens`` and ``examples`` are not.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from bert_tf.export.served_model import ServedModel, longer

WARM_UP = "tf_serving_warmup_requests"
BATCH_SIZES = (1, 8, 32)
REPETITIONS = (1, 5, 20)  # of a sample's texts, for their lengths


def write_warm_up(served: ServedModel, path: pathlib.Path, *, batch_size: int | None) -> None:
    """Writes the requests.

    Args:
        served: the model; each of its samples is asked.
        path: the file.
        batch_size: the only one that the model takes; None for any.
    """
    sizes = BATCH_SIZES if batch_size is None else (batch_size,)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests(served.sample, sizes):
            log = prediction_log_pb2.PredictLog(request=request)
            entry = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(entry.SerializeToString())


def requests(
    samples: Mapping[str, Mapping[str, Any]], batch_sizes: tuple[int, ...]
) -> Iterator[predict_pb2.PredictRequest]:
    """The requests of some signatures, in every batch size and length.

    Args:
        samples: for each signature, one example's value for each input.
        batch_sizes: how many examples a request has.
    """
    for name, sample in samples.items():
        for size in batch_sizes:
            for repetitions in REPETITIONS:
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = name
                for key, value in sample.items():
                    values = [longer(value, repetitions)] * size
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
                yield request
