"""Times fine-tuning a tagger on CoNLL-2003, here and with PyTorch's transformers; compares F1.

All contenders start from the same weights and train on the same sentences: length 128, batch 32,
rate 5e-5 with warm-up over 10 % of the steps and linear decay, AdamW, clipping at global norm 1,
dropout 0.1, float32, all cores, batches padded to their longest row, and in each round a seed of
its own. The first is this project's command as it is; the peer has a bare loop, with its fused
optimizer and its batches in random order or, as this project has them, of similar lengths. Each run
is a process of its own, and they take turns. F1 is that of whole entities (seqeval, strict); here,
words beyond the limit of 128 pieces are shown in a second row, there they have no tag.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from harness import REPOSITORY, add_device, choose_device, last_lines_in_turns, print_report
from pytorch_peer import (
    STARTUP_STEPS,
    device_of_peer,
    logged_rate,
    make_loader,
    note_on_mkl,
    run_peer,
    train,
    write_peer_folder,
)

CONTENDERS = ("bert_tf", "pytorch", "pytorch_by_length")
MEASURES = {
    "training": "sentences per second of the loop, from step 11 on",
    "end_to_end": "sentences per second of the process, from its start to the evaluated model",
}
BATCH_SIZE = 32
SEQ_LENGTH = 128
LEARNING_RATE = 5e-5
SEED = 12345
IGNORED = -100  # the label of what the peer's loss leaves out

Sentence = dict[str, list[str]]  # "tokens" and "tags", in IOB2


def seed() -> int:
    """The round's."""
    return SEED + int(os.environ.get("BENCH_ROUND", "0"))


def run_bert_tf(options: argparse.Namespace, output: pathlib.Path) -> dict[str, float]:
    """Runs this project's command; returns its sentences per second in training, and F1."""
    checkpoint = pathlib.Path(options.checkpoint)
    flags = [
        "--do_train",
        "--do_eval",
        f"--data_dir={options.data_dir}",
        f"--vocab_file={checkpoint / 'vocab.txt'}",
        f"--bert_config_file={checkpoint / 'bert_config.json'}",
        f"--init_checkpoint={checkpoint / 'bert_model.ckpt'}",
        f"--max_seq_length={SEQ_LENGTH}",
        f"--train_batch_size={BATCH_SIZE}",
        f"--learning_rate={LEARNING_RATE}",
        f"--num_train_epochs={options.num_train_epochs}",
        f"--log_steps={STARTUP_STEPS}",
        f"--seed={seed()}",
        f"--output_dir={output}",
    ]
    command = [sys.executable, "-m", "bert_tf.cli.main", "run_tagger", *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((output / "eval_results.json").read_text())
    return {"training": logged_rate(output / "train_log.jsonl"), "f1": results["eval_f1"]}


def run_pytorch(
    options: argparse.Namespace, output: pathlib.Path, *, by_length: bool
) -> dict[str, float]:
    """Runs `train_with_pytorch` in the peer's Python."""
    arguments = ["--contender", "pytorch_process", f"--output_dir={output}"]
    arguments += [
        f"--data_dir={options.data_dir}",
        f"--num_train_epochs={options.num_train_epochs}",
    ]
    arguments += [f"--peer_folder={options.peer_folder}", *["--by_length"] * by_length]
    found: dict[str, float] = json.loads(run_peer(options.peer_python, __file__, arguments))
    return found


def train_with_pytorch(options: argparse.Namespace) -> dict[str, float]:
    """Fine-tunes transformers' BertForTokenClassification; returns its speed and its F1."""
    import torch
    import transformers
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    torch.manual_seed(seed())
    torch.set_num_threads(os.cpu_count() or 1)
    sentences = {split: read_sentences(options.data_dir, split) for split in ("train", "dev")}
    labels = sorted({tag for s in sentences["train"] for tag in s["tags"]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.peer_folder)
    features = {
        split: [encode(tokenizer, sentence, labels) for sentence in of_split]
        for split, of_split in sentences.items()
    }
    collate = transformers.DataCollatorForTokenClassification(tokenizer)
    loader = make_loader(features["train"], BATCH_SIZE, options.by_length, collate)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        options.peer_folder, num_labels=len(labels)
    )
    num_steps = int(len(sentences["train"]) / BATCH_SIZE * options.num_train_epochs)
    rate = BATCH_SIZE * train(model, loader, num_steps, LEARNING_RATE)
    model.save_pretrained(options.output_dir)

    model.eval()
    order = sorted(range(len(features["dev"])), key=lambda i: len(features["dev"][i]["input_ids"]))
    predicted: dict[int, list[str]] = {}
    with torch.inference_mode():
        for first in range(0, len(order), BATCH_SIZE):
            rows = order[first : first + BATCH_SIZE]
            batch = collate([features["dev"][row] for row in rows])
            inputs = {name: values.to(device_of_peer()) for name, values in batch.items()}
            best = model(**inputs).logits.argmax(-1).cpu()
            for row, ids, wanted in zip(rows, best, batch["labels"], strict=True):
                tags = [labels[number] for number in ids[wanted != IGNORED]]
                missing = len(sentences["dev"][row]["tags"]) - len(tags)
                predicted[row] = tags + ["O"] * missing
    right = [sentence["tags"] for sentence in sentences["dev"]]
    found = [predicted[row] for row in range(len(right))]
    return {"training": rate, "f1": float(f1_score(right, found, mode="strict", scheme=IOB2))}


def encode(tokenizer: Any, sentence: Sentence, labels: list[str]) -> dict[str, list[int]]:
    """A sentence as its pieces, with the label of each word at its first one."""
    encoded = tokenizer(
        sentence["tokens"], is_split_into_words=True, truncation=True, max_length=SEQ_LENGTH
    )
    words = encoded.word_ids()
    of_pieces = [
        IGNORED if word is None or word == before else labels.index(sentence["tags"][word])
        for before, word in zip([None, *words], words, strict=False)
    ]
    return {**encoded, "labels": of_pieces}


def read_sentences(data_dir: str, split: str) -> list[Sentence]:
    """The sentences that `write_sentences` wrote."""
    lines = (pathlib.Path(data_dir) / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def write_sentences(source: str, folder: pathlib.Path, num_sentences: int | None) -> int:
    """Writes the data in a form that all contenders read, tags in IOB2; returns the number."""
    from bert_tf.tasks.tagging_data import read_sentences as read

    numbers = {}
    for split in ("train", "dev"):
        found = read(pathlib.Path(source) / f"{split}.txt", None, "auto")
        rows = list(zip(found.words, found.tags or [], strict=True))
        rows = rows[:num_sentences] if split == "train" else rows
        lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        numbers[split] = len(rows)
    return numbers["train"]


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Runs one contender once; returns its MEASURES and F1."""
    num_sentences = len(read_sentences(options.data_dir, "train"))
    num_steps = int(num_sentences / BATCH_SIZE * options.num_train_epochs)
    with tempfile.TemporaryDirectory() as temporary:
        output = pathlib.Path(temporary) / "output"
        start = time.perf_counter()
        if options.contender == "bert_tf":
            found = run_bert_tf(options, output)
        else:
            by_length = options.contender == "pytorch_by_length"
            found = run_pytorch(options, output, by_length=by_length)
        seconds = time.perf_counter() - start
    return {**found, "end_to_end": num_steps * BATCH_SIZE / seconds}


def main() -> None:
    """Parses the arguments and runs one contender, or all of them in turns."""
    shared = REPOSITORY.parent / "shared"
    parser = argparse.ArgumentParser(prog="tools/bench tagging", description=__doc__)
    parser.add_argument(
        "--data_dir",
        default=str(shared / "data" / "conll2003"),
        help="has train.txt and dev.txt, in columns",
    )
    parser.add_argument(
        "--checkpoint",
        default=str(shared / "checkpoints" / "uncased_L-6_H-384_A-12"),
        help="folder of the original's layout",
    )
    parser.add_argument(
        "--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS, help="run these only"
    )
    parser.add_argument("--num_sentences", type=int, help="train on the first so many only")
    parser.add_argument("--num_train_epochs", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    add_device(parser)
    parser.add_argument(
        "--peer_python", default=sys.executable, help="a Python with torch, transformers, seqeval"
    )
    parser.add_argument(
        "--contender", choices=(*CONTENDERS, "pytorch_process"), help=argparse.SUPPRESS
    )
    for flag in ("--peer_folder", "--output_dir"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    parser.add_argument("--by_length", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender == "pytorch_process":
        print(json.dumps(train_with_pytorch(options)))
        return
    if options.contender is not None:
        print(json.dumps(measure(options)))
        return

    choose_device(options.device)
    with tempfile.TemporaryDirectory() as temporary:
        peer_folder, data_dir = (pathlib.Path(temporary) / name for name in ("peer", "data"))
        peer_folder.mkdir()
        data_dir.mkdir()
        write_peer_folder(pathlib.Path(options.checkpoint), peer_folder)
        num_sentences = write_sentences(options.data_dir, data_dir, options.num_sentences)
        num_steps = int(num_sentences / BATCH_SIZE * options.num_train_epochs)
        if num_steps <= STARTUP_STEPS:
            parser.error(f"--num_train_epochs: makes {num_steps} steps; more than 10 are needed")
        arguments = [f"--data_dir={data_dir}", f"--checkpoint={options.checkpoint}"]
        arguments += [f"--num_train_epochs={options.num_train_epochs}"]
        arguments += [f"--peer_python={options.peer_python}", f"--peer_folder={peer_folder}"]
        lines = last_lines_in_turns(
            __file__, list(options.contenders), options.rounds, tuple(arguments)
        )
    results = {name: [json.loads(line) for line in found] for name, found in lines.items()}
    name = pathlib.Path(options.checkpoint).name
    print(f"{num_steps} steps of {BATCH_SIZE} of {num_sentences} sentences, {name}")
    for measured, unit in MEASURES.items():
        figures = {name: [round[measured] for round in rounds] for name, rounds in results.items()}
        print_report(f"tagging, {measured}", figures, unit, smaller_is_better=False)
    for name, rounds in results.items():
        scores = [round["f1"] for round in rounds]
        mean = sum(scores) / len(scores)
        print(f"  {name:24} dev F1 {mean:.4f} ({min(scores):.4f} to {max(scores):.4f})")
    note_on_mkl()


if __name__ == "__main__":
    main()
