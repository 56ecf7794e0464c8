"""Times fine-tuning on a GLUE task from end to end, here and with PyTorch's transformers.

All contenders start from the same weights and train on the same texts: length 128, batch 32, rate
5e-5 with warm-up over 10 % of the steps and linear decay, AdamW, clipping at global norm 1, dropout
0.1, all cores or one GPU, batches padded to their longest row. The first is this project's command
as it is; the peer has a bare loop, with its fused optimizer and its batches in random order or, as
this project has them, of similar lengths. Each run is a process of its own, and they take turns.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from harness import REPOSITORY, add_device, choose_device, last_lines_in_turns, print_report
from pytorch_peer import (
    STARTUP_STEPS,
    logged_rate,
    make_loader,
    note_on_mkl,
    run_peer,
    train,
    write_peer_folder,
)

CONTENDERS = ("bert_tf", "pytorch", "pytorch_by_length")
MEASURES = {
    "training": "examples per second of the loop, from step 11 on",
    "end_to_end": "examples per second of the process, from its start to the saved model",
}
BATCH_SIZE = 32
SEQ_LENGTH = 128
LEARNING_RATE = 5e-5
SEED = 12345
# The columns of label, first and second text in train.tsv.
COLUMNS = {"MRPC": ("Quality", "#1 String", "#2 String"), "SST-2": ("label", "sentence", None)}


def run_bert_tf(options: argparse.Namespace, output: pathlib.Path, *more: str) -> float:
    """Runs this project's command; returns its examples per second in training.

    Args:
        options: of the benchmark: ``task_name``, ``checkpoint``, ``data_dir``, ``precision``,
            ``num_train_epochs``.
        output: a folder for the run.
        more: flags.
    """
    checkpoint = pathlib.Path(options.checkpoint)
    flags = [
        "--do_train",
        f"--task_name={options.task_name}",
        f"--precision={options.precision}",
        f"--data_dir={options.data_dir}",
        f"--vocab_file={checkpoint / 'vocab.txt'}",
        f"--bert_config_file={checkpoint / 'bert_config.json'}",
        f"--init_checkpoint={checkpoint / 'bert_model.ckpt'}",
        f"--max_seq_length={SEQ_LENGTH}",
        f"--train_batch_size={BATCH_SIZE}",
        f"--learning_rate={LEARNING_RATE}",
        f"--num_train_epochs={options.num_train_epochs}",
        f"--log_steps={STARTUP_STEPS}",
        f"--seed={SEED}",
        f"--output_dir={output}",
        *more,
    ]
    command = [sys.executable, "-m", "bert_tf.cli.main", "run_classifier", *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return logged_rate(output / "train_log.jsonl")


def run_pytorch(options: argparse.Namespace, output: pathlib.Path, *, by_length: bool) -> float:
    """Runs `train_with_pytorch` in the peer's Python; returns its examples per second."""
    arguments = ["--contender", "pytorch_process", f"--output_dir={output}"]
    names = ("task_name", "data_dir", "precision", "num_train_epochs")
    arguments += [f"--{name}={getattr(options, name)}" for name in names]
    arguments += [f"--peer_folder={options.peer_folder}", *["--by_length"] * by_length]
    return float(run_peer(options.peer_python, __file__, arguments))


def train_with_pytorch(options: argparse.Namespace) -> float:
    """Fine-tunes transformers' BertForSequenceClassification; returns examples per second.

    Everything that this project's command does is in here: reading, tokenizing, training, saving.
    """
    import torch
    import transformers

    torch.manual_seed(SEED)
    torch.set_num_threads(os.cpu_count() or 1)
    rows = list(read_rows(options))
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.peer_folder)
    encoded = tokenizer(
        [first for _, first, _ in rows],
        None if rows[0][2] is None else [second for *_, second in rows],
        truncation=True,
        max_length=SEQ_LENGTH,
    )
    features = [
        {name: encoded[name][i] for name in encoded} | {"labels": label}
        for i, (label, *_) in enumerate(rows)
    ]
    loader = make_loader(
        features, BATCH_SIZE, options.by_length, transformers.DataCollatorWithPadding(tokenizer)
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        options.peer_folder, num_labels=2
    )
    num_steps = number_of_steps(len(rows), options.num_train_epochs)
    rate = BATCH_SIZE * train(model, loader, num_steps, LEARNING_RATE, options.precision)
    model.save_pretrained(options.output_dir)
    return rate


def read_rows(options: argparse.Namespace) -> Iterator[tuple[int, str, str | None]]:
    """Label, first and second text of each line of the task's train.tsv."""
    label, first, second = COLUMNS[options.task_name]
    path = pathlib.Path(options.data_dir) / "train.tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield int(row[label]), row[first], row[second] if second else None


def number_of_steps(num_examples: int, num_train_epochs: float) -> int:
    """The steps of a run, counted as the original does."""
    return int(num_examples / BATCH_SIZE * num_train_epochs)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Runs one contender once; returns its MEASURES."""
    num_steps = number_of_steps(sum(1 for _ in read_rows(options)), options.num_train_epochs)
    with tempfile.TemporaryDirectory() as temporary:
        output = pathlib.Path(temporary) / "output"
        start = time.perf_counter()
        if options.contender == "bert_tf":
            rate = run_bert_tf(options, output)
        else:
            rate = run_pytorch(options, output, by_length=options.contender == "pytorch_by_length")
        seconds = time.perf_counter() - start
    return {"training": rate, "end_to_end": num_steps * BATCH_SIZE / seconds}


def main() -> None:
    """Parses the arguments and runs one contender, or all of them in turns."""
    shared = REPOSITORY.parent / "shared"
    parser = argparse.ArgumentParser(prog="tools/bench finetune", description=__doc__)
    parser.add_argument("--task_name", choices=COLUMNS, default="MRPC")
    parser.add_argument("--data_dir", help="has train.tsv")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--checkpoint",
        default=str(shared / "checkpoints" / "uncased_L-6_H-384_A-12"),
        help="folder of the original's layout",
    )
    parser.add_argument("--num_train_epochs", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    add_device(parser)
    parser.add_argument(
        "--peer_python", default=sys.executable, help="a Python that has torch and transformers"
    )
    parser.add_argument(
        "--contender", choices=(*CONTENDERS, "pytorch_process"), help=argparse.SUPPRESS
    )
    for flag in ("--peer_folder", "--output_dir"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    parser.add_argument("--by_length", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data_dir = options.data_dir or str(shared / "data" / options.task_name)
    if options.contender == "pytorch_process":
        print(train_with_pytorch(options))
        return
    if options.contender is not None:
        print(json.dumps(measure(options)))
        return

    num_steps = number_of_steps(sum(1 for _ in read_rows(options)), options.num_train_epochs)
    if num_steps <= STARTUP_STEPS:
        parser.error(f"--num_train_epochs: makes {num_steps} steps; more than 10 are needed")
    choose_device(options.device)
    with tempfile.TemporaryDirectory() as peer_folder:
        write_peer_folder(pathlib.Path(options.checkpoint), pathlib.Path(peer_folder))
        names = ("task_name", "data_dir", "precision", "checkpoint", "num_train_epochs")
        arguments = [f"--{name}={getattr(options, name)}" for name in names]
        arguments += [f"--peer_python={options.peer_python}", f"--peer_folder={peer_folder}"]
        lines = last_lines_in_turns(__file__, list(CONTENDERS), options.rounds, tuple(arguments))
    results = {name: [json.loads(line) for line in found] for name, found in lines.items()}
    what = f"{options.task_name}, {options.precision}"
    checkpoint = pathlib.Path(options.checkpoint).name
    print(f"{what}, {num_steps} steps of {BATCH_SIZE} examples, {checkpoint}")
    for measured, unit in MEASURES.items():
        figures = {name: [round[measured] for round in rounds] for name, rounds in results.items()}
        print_report(f"finetune, {what}, {measured}", figures, unit, smaller_is_better=False)
    note_on_mkl()


if __name__ == "__main__":
    main()
