"""Times create_pretraining_data beside Model Garden's, on the first 3 MB of the corpus.

Seconds for length 128, 20 predictions, dupe_factor 5, one output file. This project's command is
timed as a whole, from the start of Python; of Model Garden's, which has one process, the several
seconds that its imports take are left out. `--rounds` of all contenders, in turns.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

from harness import REPOSITORY, measure_in_turns, print_report

SHARED = REPOSITORY.parent / "shared"
DEFAULT_VOCAB = SHARED / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
DEFAULT_CORPUS = SHARED / "data" / "corpus.txt"
NUM_BYTES = 3_000_000

# Contender -> number of worker processes; the peer has no such flag.
WORKERS = {"two_workers": 2, "one_worker": 1}
PEER = "model_garden"


def seconds(contender: str, vocab: pathlib.Path, text: pathlib.Path, output: pathlib.Path) -> float:
    """One contender's figure."""
    flags = [
        f"--input_file={text}",
        f"--output_file={output}",
        f"--vocab_file={vocab}",
        "--do_lower_case=true",
        "--max_seq_length=128",
        "--max_predictions_per_seq=20",
        "--dupe_factor=5",
        "--random_seed=12345",
    ]
    if contender == PEER:
        return _seconds_of_peer(flags)
    command = [sys.executable, "-m", "bert_tf.cli.main", "create_pretraining_data", *flags]
    start = time.perf_counter()
    subprocess.run(
        [*command, f"--num_workers={WORKERS[contender]}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def _seconds_of_peer(flags: list[str]) -> float:
    from absl import flags as absl_flags
    from absl import logging
    from official.nlp.data import create_pretraining_data

    absl_flags.FLAGS([PEER, *flags])
    logging.set_verbosity(logging.ERROR)  # printing its examples is not what is measured
    start = time.perf_counter()
    create_pretraining_data.main(None)
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark, or one contender of it."""
    contenders = [*WORKERS, PEER]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=pathlib.Path, default=DEFAULT_VOCAB, help="vocab.txt")
    parser.add_argument("--corpus", type=pathlib.Path, default=DEFAULT_CORPUS, help="text file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=contenders, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for path in (options.vocab, options.corpus):
        if not path.is_file():
            parser.error(f"{path} is not there; give --vocab and --corpus")
    if options.contender:
        with tempfile.TemporaryDirectory() as folder:
            text = pathlib.Path(folder) / "text.txt"
            with options.corpus.open("rb") as file:
                text.write_bytes(file.read(NUM_BYTES))
            output = pathlib.Path(folder) / "records"
            print(seconds(options.contender, options.vocab, text, output))
        return
    arguments = ("--vocab", str(options.vocab), "--corpus", str(options.corpus))
    figures = measure_in_turns(__file__, contenders, options.rounds, arguments)
    print_report("pretraining_data", figures, "seconds", smaller_is_better=True)
    of_one = {name: figures[name] for name in ("one_worker", PEER)}
    print_report("pretraining_data, one worker", of_one, "seconds", smaller_is_better=True)


if __name__ == "__main__":
    main()
