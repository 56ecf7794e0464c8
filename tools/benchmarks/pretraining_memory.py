"""Runs create_pretraining_data on 400 MB of text and reports the peak memory of every process.

The text is the corpus again and again, each time with every word but those of the first copy
replaced by another word of the corpus, drawn anew for each copy. Needs about 10 GB of disk.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from harness import REPOSITORY, machine, peak_memory

SHARED = REPOSITORY.parent / "shared"
DEFAULT_VOCAB = SHARED / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
DEFAULT_CORPUS = SHARED / "data" / "corpus.txt"


def write_text(corpus: pathlib.Path, num_bytes: int, path: pathlib.Path) -> None:
    """Writes copies of the corpus with changed words until there are so many bytes."""
    lines = [line.split() for line in corpus.read_text(encoding="utf-8").split("\n")]
    words = sorted({word for line in lines for word in line})
    with path.open("w", encoding="utf-8") as file:
        copy = 0
        while file.tell() < num_bytes:
            others = list(words)
            if copy:
                random.Random(copy).shuffle(others)
            changed = dict(zip(words, others, strict=True))
            file.writelines(" ".join(map(changed.__getitem__, line)) + "\n" for line in lines)
            file.write("\n")
            copy += 1


def peaks(process: subprocess.Popen[str]) -> dict[int, float]:
    """Process id -> MiB at most in memory, of a process and its children, until it ends."""
    found: dict[int, float] = {}
    while process.poll() is None:
        for pid in [process.pid, *_children(process.pid)]:
            peak = peak_memory(pid)
            if peak is not None:  # or else it has just ended
                found[pid] = peak
        time.sleep(0.1)
    return found


def _children(pid: int) -> list[int]:
    try:
        content = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in content.split()]


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=pathlib.Path, default=DEFAULT_VOCAB, help="vocab.txt")
    parser.add_argument("--corpus", type=pathlib.Path, default=DEFAULT_CORPUS, help="text file")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--dupe_factor", type=int, default=5)
    parser.add_argument(
        "--folder", type=pathlib.Path, help="where the files go; by default in /tmp"
    )
    options = parser.parse_args()
    for path in (options.vocab, options.corpus):
        if not path.is_file():
            parser.error(f"{path} is not there; give --vocab and --corpus")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        text = pathlib.Path(folder) / "text.txt"
        print(f"writing {options.megabytes} MB of text", file=sys.stderr)
        write_text(options.corpus, options.megabytes * 1_000_000, text)
        command = [sys.executable, "-m", "bert_tf.cli.main", "create_pretraining_data"]
        command += [f"--input_file={text}", f"--output_file={folder}/records"]
        command += [f"--vocab_file={options.vocab}", f"--num_workers={options.num_workers}"]
        command += [f"--dupe_factor={options.dupe_factor}", "--num_shards=16"]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            found = list(peaks(process).values())
            assert process.stdout is not None
            output = process.stdout.read()
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(process.returncode)
        statistics = json.loads(output)
        report = {
            "benchmark": "pretraining_memory",
            "machine": machine(),
            "text_bytes": text.stat().st_size,
            "records": statistics["num_records"],
            "seconds": seconds,
            "records_per_second": statistics["num_records"] / seconds,
            "peak_mib": found,
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
