"""Times an exported classifier: float32, bfloat16, int8, beside ONNX Runtime and PyTorch.

All of them are of the same trained classifier (that of the quickstart, unless --model_dir names
another) and take ids of word pieces, in batches and lengths that are the same for all; texts are
given to the export as strings, which have as many pieces. The session is TensorFlow's own, as in TF
Serving. Each contender is a process of its own, and they take turns. A latency is that of one call
after another; the figures are the medians over the rounds of each round's percentiles.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from harness import REPOSITORY, last_lines_in_turns, machine
from pytorch_peer import note_on_mkl

SHAPES = ((1, 12), (8, 40), (32, 40))
TEXT = "The parcel was due on Monday, still nothing."  # 12 word pieces with [CLS] and [SEP]
LONGER = " ".join([TEXT] * 3 + ["It has not come at all yet."])  # 40
PERCENTILES = (50, 95, 99)
Call = Callable[[], Any]


def inputs_of(shape: tuple[int, int]) -> dict[str, Any]:
    """Rows of random pieces without padding."""
    import numpy as np

    ids = np.random.default_rng(shape[1]).integers(1000, 20000, shape, dtype=np.int32)
    return {"input_ids": ids, "input_mask": ids * 0 + 1, "segment_ids": ids * 0}


def exported(options: argparse.Namespace, folder: pathlib.Path, *flags: str) -> pathlib.Path:
    """Exports the model; returns the version's folder."""
    from bert_tf.cli.main import main

    command = ["export", f"--model_dir={options.model_dir}", f"--export_dir={folder}", *flags]
    if main(command) != 0:
        raise SystemExit(2)
    return folder / "1"


def session_calls(
    options: argparse.Namespace, folder: pathlib.Path, *flags: str
) -> dict[str, Call]:
    """TensorFlow's session, ids in, and one text in."""
    import tensorflow as tf

    version = exported(options, folder, *flags)
    v1 = tf.compat.v1
    config = v1.ConfigProto(intra_op_parallelism_threads=options.threads)
    session = v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        signatures = v1.saved_model.load(session, ["serve"], str(version)).signature_def

    def call(name: str, inputs: dict[str, Any]) -> Call:
        signature = signatures[name]
        feeds = [signature.inputs[key].name for key in inputs]
        run = session.make_callable(signature.outputs["probabilities"].name, feed_list=feeds)
        values = list(inputs.values())
        return lambda: run(*values)

    calls = {f"{b} x {n}": call("tokens", inputs_of((b, n))) for b, n in SHAPES}
    for b, n in SHAPES:
        text = {12: TEXT, 40: LONGER}[n]
        calls[f"{b} x {n}, text"] = call("serving_default", {"text": [text.encode()] * b})
    return calls


def file_calls(
    options: argparse.Namespace, folder: pathlib.Path, runtime: str, precision: str
) -> dict[str, Call]:
    """A converted file in its runtime, ids in."""
    from bert_tf.export import litert, onnx_file

    module = {"litert": litert, "onnx": onnx_file}[runtime]
    version = exported(options, folder, f"--runtime={runtime}", f"--precision={precision}")
    run = module.runner(version / module.FILE, options.threads)
    inputs = {f"{b} x {n}": inputs_of((b, n)) for b, n in SHAPES}
    return {name: lambda values=values: run(values) for name, values in inputs.items()}


def pytorch_calls(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Call]:
    """The same weights in PyTorch's transformers, ids in."""
    import torch
    import transformers

    from bert_tf.cli.main import main

    target = folder / "peer"
    command = ["convert_checkpoint", "--from", options.model_dir, "--to", str(target)]
    if main([*command, "--to_format=huggingface"]) != 0:
        raise SystemExit(2)
    torch.set_num_threads(options.threads)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(target).eval()
    names = {"input_ids": "input_ids", "input_mask": "attention_mask"}

    def call(shape: tuple[int, int]) -> Call:
        values = {
            theirs: torch.tensor(inputs_of(shape)[ours]).long() for ours, theirs in names.items()
        }

        def run() -> Any:
            with torch.inference_mode():
                return model(**values).logits.softmax(-1)

        return run

    return {f"{b} x {n}": call((b, n)) for b, n in SHAPES}


def without_onednn(*given: Any) -> dict[str, Call]:
    """As ``session_calls``, with TensorFlow's default on processors without AVX-512."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # read when TensorFlow is imported
    return session_calls(*given)


CONTENDERS: dict[str, Callable[..., dict[str, Call]]] = {
    "bert_tf": session_calls,
    "bert_tf_without_onednn": without_onednn,
    "bert_tf_bfloat16": lambda *given: session_calls(*given, "--precision=bfloat16"),
    "bert_tf_litert_int8": lambda *given: file_calls(*given, "litert", "int8"),
    "bert_tf_onnx_int8": lambda *given: file_calls(*given, "onnx", "int8"),
    "onnxruntime": lambda *given: file_calls(*given, "onnx", "float32"),
    "pytorch": pytorch_calls,
}


def latencies(call: Call, seconds: float) -> dict[str, float]:
    """Milliseconds by percentile, of calls for so long."""
    for _ in range(3):
        call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 10:
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return {f"p{percentile}": cuts[percentile - 1] for percentile in PERCENTILES}


def main() -> None:
    """Parses the arguments and runs one contender, or all of them in turns."""
    parser = argparse.ArgumentParser(prog="tools/bench serving", description=__doc__)
    parser.add_argument("--model_dir", default=str(REPOSITORY / "runs" / "quickstart"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5, help="of calls, for each case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (pathlib.Path(options.model_dir) / "bert_model.ckpt.index").is_file():
        parser.error(f"--model_dir {options.model_dir}: no model there; run tools/quickstart first")
    if options.contender is not None:
        with tempfile.TemporaryDirectory() as folder:
            calls = CONTENDERS[options.contender](options, pathlib.Path(folder))
            found = {name: latencies(call, options.seconds) for name, call in calls.items()}
        print(json.dumps(found))
        return
    names = options.contenders.split(",")
    arguments = (
        f"--model_dir={options.model_dir}", f"--threads={options.threads}",
        f"--seconds={options.seconds}",
    )  # fmt: skip
    lines = last_lines_in_turns(__file__, names, options.rounds, arguments)
    rounds = {name: [json.loads(line) for line in found] for name, found in lines.items()}
    print(f"serving: milliseconds a call, {options.threads} threads, on {machine()}")
    print(f"| | {' | '.join(rounds[names[0]][0])} |")
    print("|---|" + "---|" * len(rounds[names[0]][0]))
    table = {}
    for name, found in rounds.items():
        table[name] = {
            case: {p: statistics.median(one[case][p] for one in found) for p in found[0][case]}
            for case in found[0]
        }
        cells = [
            " / ".join(f"{value:.1f}" for value in table[name][case].values())
            if case in table[name]
            else ""
            for case in rounds[names[0]][0]
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(json.dumps({"benchmark": "serving", "machine": machine(), "milliseconds": table}))
    note_on_mkl()


if __name__ == "__main__":
    sys.exit(main())
