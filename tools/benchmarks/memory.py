"""Finds the largest micro-batch that fits in memory, by length, with and without --recompute.

Measured is the peak of the resident memory of a process of its own that takes a step of a
classifier, of two micro-batches, in float32. From a small micro-batch on, the size is doubled
until a third of the room is used; the size that just fits is read off the line through the last
two, and measured once. Where that measurement is beyond the memory after all, the size is read off
again, between the measurements on both sides of it, and the table says that it is not measured.
"""

import argparse
import json
import math
import pathlib
import re
import signal
import subprocess
from typing import Any, NamedTuple

from harness import machine, measure_in_turns, peak_memory

NUM_TOKENS = 1024  # of the micro-batch that is measured first
BASE = {"vocab_size": 30522, "type_vocab_size": 2}


class Case(NamedTuple):
    """A step to measure; as a word, a contender of the harness."""

    recompute: bool
    length: int
    micro_batch_size: int

    def __str__(self) -> str:
        return f"{'recompute' if self.recompute else 'plain'}-{self.length}-{self.micro_batch_size}"

    @classmethod
    def parse(cls, word: str) -> "Case":
        """Inverse of ``str``."""
        kind, length, size = word.split("-")
        return cls(kind == "recompute", int(length), int(size))


def peak_of_step(case: Case, config_file: pathlib.Path | None) -> float:
    """GiB at most in this process's memory, a step included."""
    import numpy as np
    import tensorflow as tf

    import bert_tf
    from bert_tf.losses import Loss, examples_weight, single_label_loss
    from bert_tf.training import TrainStep

    config = bert_tf.BertConfig(**BASE)
    if config_file is not None:
        config = bert_tf.BertConfig.from_json_file(config_file)
    step = TrainStep(
        bert_tf.BertClassifier(config, num_labels=2),
        bert_tf.create_optimizer(5e-5, 1000, 100),
        Loss(
            lambda logits, batch: {"loss": single_label_loss(logits, batch["label_ids"])},
            lambda batch: {"loss": examples_weight(batch["label_ids"])},
        ),
        seed=1,
        micro_batch_size=case.micro_batch_size,
        recompute=case.recompute,
    )
    shape = (2 * case.micro_batch_size, case.length)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, shape, dtype=np.int32)
    batch = {
        "input_ids": tf.constant(ids),
        "input_mask": tf.ones_like(ids),
        "segment_ids": tf.zeros_like(ids),
        "label_ids": tf.zeros(shape[:1], tf.int32),
    }
    tf.function(step, autograph=False)(batch)
    peak = peak_memory()
    assert peak is not None
    return peak / 1024


def free_gib() -> float:
    """Nine tenths of what the machine has to give."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    assert found is not None
    return 0.9 * int(found[1]) / 2**20


def fitting(one: tuple[int, float], other: tuple[int, float], memory: float) -> int:
    """The largest size whose memory, on the line through two (size, memory), is at most that."""
    if not math.isfinite(other[1]):
        return one[0]
    slope = (other[1] - one[1]) / (other[0] - one[0])
    return max(0, math.floor(one[0] + (memory - one[1]) / slope))


def measured(case: Case, arguments: tuple[str, ...]) -> float:
    """The peak in GiB; infinite where the kernel ended the process, for want of memory."""
    try:
        return measure_in_turns(__file__, [str(case)], 1, arguments)[str(case)][0]
    except subprocess.CalledProcessError as error:
        if error.returncode != -signal.SIGKILL:
            raise
        return math.inf


def largest(
    recompute: bool, length: int, memory: float, arguments: tuple[str, ...]
) -> dict[str, Any]:
    """The largest micro-batch of a length, its peak if it was measured, and all measurements."""
    size = max(1, NUM_TOKENS // length)
    points = [(size, measured(Case(recompute, length, size), arguments))]
    room = memory - points[0][1]
    if room <= 0:
        return {"micro_batch_size": size - 1, "peak_gib": None, "measured": points}
    # Small ones hide behind what building the model took.
    while points[-1][1] < points[0][1] + room / 3:
        size *= 2
        points.append((size, measured(Case(recompute, length, size), arguments)))
    size = fitting(points[-2], points[-1], memory)
    if size in dict(points):
        size = max(known for known, peak in points if peak <= memory)
        return {"micro_batch_size": size, "peak_gib": dict(points)[size], "measured": points}
    points.append((size, measured(Case(recompute, length, size), arguments)))
    if points[-1][1] <= memory:
        return {"micro_batch_size": size, "peak_gib": points[-1][1], "measured": points}
    below = max((point for point in points if point[1] <= memory), default=(0, 0.0))
    size = min(size - 1, fitting(below, points[-1], memory))
    return {"micro_batch_size": size, "peak_gib": dict(points).get(size), "measured": points}


def main() -> None:
    """Runs one measurement, or all of them and prints the table."""
    parser = argparse.ArgumentParser(prog="tools/bench memory", description=__doc__)
    parser.add_argument("--bert_config_file", type=pathlib.Path, help="by default BASE")
    parser.add_argument("--memory_gib", type=float, help="by default nine tenths of what is free")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 384, 512])
    parser.add_argument("--contender", type=Case.parse, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender is not None:
        print(peak_of_step(options.contender, options.bert_config_file))
        return
    config_file = options.bert_config_file
    arguments = () if config_file is None else (f"--bert_config_file={config_file.resolve()}",)
    memory = free_gib() if options.memory_gib is None else options.memory_gib
    found = {
        length: {
            name: largest(name == "recompute", length, memory, arguments)
            for name in ("plain", "recompute")
        }
        for length in options.lengths
    }
    print(f"Largest --micro_batch_size in {memory:.1f} GiB (measured peak), on {machine()}:\n")
    print("| --max_seq_length | without --recompute | with --recompute |")
    print("|---|---|---|")
    for length, results in found.items():
        cells = [
            f"{result['micro_batch_size']} "
            + (f"({result['peak_gib']:.1f} GiB)" if result["peak_gib"] else "(not measured)")
            for result in results.values()
        ]
        print(f"| {length} | {' | '.join(cells)} |")
    report = {"benchmark": "memory", "memory_gib": memory, "machine": machine(), "found": found}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
