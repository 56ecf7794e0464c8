"""Times fine-tuning on MRPC with rows of fixed length, shared by examples, and of the batch's own.

The same steps on the same pairs, as in the benchmark finetune: length 128, batch 32, float32,
without XLA. With rows of a fixed length there is one graph and, under XLA or on a TPU, one program;
``--pack_examples`` has that too, but hardly any padding.
"""

import argparse
import pathlib
import tempfile

from finetune import BATCH_SIZE, run_bert_tf
from harness import REPOSITORY, add_device, choose_device, measure_in_turns, print_report

CONTENDERS = {
    "pack_examples": ["--pack_examples"],
    "fixed_length": ["--fixed_length"],
    "own_length": [],
}


def main() -> None:
    """Parses the arguments and runs one contender, or all of them in turns."""
    shared = REPOSITORY.parent / "shared"
    parser = argparse.ArgumentParser(prog="tools/bench padding", description=__doc__)
    for name, default, what in (
        ("data_dir", shared / "data" / "MRPC", "has train.tsv"),
        ("checkpoint", shared / "checkpoints" / "uncased_L-6_H-384_A-12", "a folder"),
    ):
        parser.add_argument(f"--{name}", default=str(default), help=what)
    parser.add_argument("--num_train_epochs", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    add_device(parser)
    parser.set_defaults(task_name="MRPC", precision="float32")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender is not None:
        with tempfile.TemporaryDirectory() as temporary:
            output = pathlib.Path(temporary) / "output"
            print(run_bert_tf(options, output, *CONTENDERS[options.contender]))
        return
    choose_device(options.device)
    names = ("data_dir", "checkpoint", "num_train_epochs")
    arguments = tuple(f"--{name}={getattr(options, name)}" for name in names)
    figures = measure_in_turns(__file__, list(CONTENDERS), options.rounds, arguments)
    print_report(
        f"padding, MRPC, batches of {BATCH_SIZE}",
        figures,
        "examples per second of the loop, from step 11 on",
        smaller_is_better=False,
    )


if __name__ == "__main__":
    main()
