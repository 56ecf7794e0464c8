"""Finds the largest micro-batch that fits in memory, by length, with and without --recompute.

For each length, two small micro-batches are measured: the peak of the resident memory of a process
of its own that takes two steps of a classifier, each of two micro-batches, in float32. The size
that just fits is read off the line through the two, and measured once. Where that measurement is
beyond the memory after all, the size is read off again, between the measurements on both sides.
"""

import argparse
import json
import math
import pathlib
import re
import resource
import subprocess
import sys
from typing import NamedTuple

from harness import machine, measure_in_turns

NUM_TOKENS = (1024, 2048)  # of the two micro-batches that are measured first
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


def peak_of_steps(case: Case, config_file: pathlib.Path | None) -> float:
    """GiB at most in this process's memory, two steps included."""
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
    update = tf.function(step, autograph=False)
    for _ in range(2):
        update(batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def free_gib() -> float:
    """Nine tenths of what the machine has to give."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    assert found is not None
    return 0.9 * int(found[1]) / 2**20


def fitting(one: tuple[int, float], other: tuple[int, float], memory: float) -> int:
    """The largest size whose memory, on the line through two (size, memory), is at most that."""
    slope = (other[1] - one[1]) / (other[0] - one[0])
    if slope <= 0:
        sys.exit(f"{other[0]} need no more memory than {one[0]}: give a larger configuration")
    return max(0, math.floor(one[0] + (memory - one[1]) / slope))


def measure(cases: list[Case], arguments: tuple[str, ...]) -> dict[Case, float]:
    """The peaks in GiB; infinite where the process ended before its steps did."""
    found = {}
    for case in cases:
        try:
            found[case] = measure_in_turns(__file__, [str(case)], 1, arguments)[str(case)][0]
        except subprocess.CalledProcessError:
            found[case] = math.inf
    return found


def largest(recompute: bool, length: int, memory: float, arguments: tuple[str, ...]) -> dict:
    """The largest micro-batch of a length, and how it was found."""
    sizes = [max(number + 1, tokens // length) for number, tokens in enumerate(NUM_TOKENS)]
    peaks = measure([Case(recompute, length, size) for size in sizes], arguments)
    points = [(case.micro_batch_size, peak) for case, peak in peaks.items()]
    if not all(math.isfinite(peak) for _, peak in points):
        return {"micro_batch_size": 0, "peak_gib": None, "measured": points}
    size = fitting(*points, memory)
    if size > 0:
        ((_, peak),) = measure([Case(recompute, length, size)], arguments).items()
        points.append((size, peak))
        if math.isfinite(peak) and peak <= memory:
            return {"micro_batch_size": size, "peak_gib": peak, "measured": points}
        below = [point for point in points if point[1] <= memory]
        size = size - 1
        if below and math.isfinite(peak):
            size = min(size, fitting(max(below), points[-1], memory))
    return {"micro_batch_size": size, "peak_gib": None, "measured": points}


def main() -> None:
    """Runs one measurement, or all of them and prints the table."""
    parser = argparse.ArgumentParser(prog="tools/bench memory", description=__doc__)
    parser.add_argument("--bert_config_file", type=pathlib.Path, help="by default BASE")
    parser.add_argument("--memory_gib", type=float, help="by default nine tenths of what is free")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 384, 512])
    parser.add_argument("--contender", type=Case.parse, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender is not None:
        print(peak_of_steps(options.contender, options.bert_config_file))
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
