"""From text to a pretrained model that fills in blanks, by the commands that a user gives."""

import json
import random

import pytest

from bert_tf.cli.main import main

CONFIG = {
    "vocab_size": 60,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}
PEOPLE = ["anna", "boris", "clara", "dmitri"]
THINGS = ["bread", "milk", "tea", "coal", "salt"]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs a command in the test's folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(command, *texts):
        assert main([*command.split(), *texts]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def write_text(path, num_documents, seed):
    """Each document is about one person, who buys things and sells them again."""
    rng = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        person = rng.choice(PEOPLE)
        deals = [(rng.choice(["buys", "sells"]), rng.choice(THINGS)) for _ in range(7)]
        documents.append("".join(f"{person} {deal} some {thing} .\n" for deal, thing in deals))
    path.write_text("\n".join(documents))


def test_from_text_to_a_model_that_fills_in_blanks(run, tmp_path):
    write_text(tmp_path / "a.txt", 41, 0)
    write_text(tmp_path / "b.txt", 23, 1)
    write_text(tmp_path / "held_out.txt", 7, 2)

    run(
        "build_vocab --input_file=*.txt --output_file=vocab.txt --vocab_size=60"
        " --num_unused_tokens=3"
    )
    size = len((tmp_path / "vocab.txt").read_text().splitlines())
    (tmp_path / "bert_config.json").write_text(json.dumps({**CONFIG, "vocab_size": size}))
    records = "--vocab_file=vocab.txt --max_seq_length=32 --max_predictions_per_seq=5"
    statistics = json.loads(
        run(
            f"create_pretraining_data --input_file=a.txt,b.txt --output_file=train {records}"
            " --num_shards=3 --num_workers=1"
        )
    )
    run(
        f"create_pretraining_data --input_file=held_out.txt --output_file=dev {records}"
        " --num_workers=1"
    )
    assert statistics["num_records"] > 41 + 23
    results = json.loads(
        run(
            "run_pretraining --do_train --do_eval --input_file=train-* --eval_input_file=dev"
            " --bert_config_file=bert_config.json --vocab_file=vocab.txt --output_dir=out"
            " --max_seq_length=32 --max_predictions_per_seq=5 --train_batch_size=16"
            " --num_train_steps=300 --num_warmup_steps=30 --learning_rate=0.01"
            " --log_steps=100 --eval_steps=100"
        )
    )
    # Words of one kind follow each other at random: a model that knows the kinds has 0.2 to 0.5 of
    # the blanks right, the commonest piece alone 0.2 at most.
    assert results["masked_lm_accuracy"] > 0.4

    filled = json.loads(
        run("predict --task=fill_mask --model_dir=out --top_k=2", "anna buys some [MASK] .")
    )
    pieces = [answer["piece"] for answer in filled["masks"][0]["predictions"]]
    assert pieces[0] in THINGS

    run("plot_training --log=out --output=curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
