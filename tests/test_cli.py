"""The command line itself: flags, help, errors."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from bert_tf.cli import flags
from bert_tf.cli.main import COMMANDS, main
from bert_tf.config import Classification, ModelFiles, PretrainingData, lower_case_of, setting
from bert_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    do_train: bool = setting(False, "Whether.")
    size: int = setting(3, "How many.")
    rate: float = setting(0.5, "How fast.")
    name: str | None = setting(None, "What it is called.")
    kind: str = setting("red", "Which.", choices=("red", "blue"))
    source: str | None = setting(None, "Where from.", flag="from")


def parse(*arguments):
    return flags.parse(Settings, arguments, "usage: …")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--do_train"], {"do_train": True}),
        (["--do_train=true"], {"do_train": True}),
        (["--do_train=false"], {"do_train": False}),
        (["--do_train", "--nodo_train"], {"do_train": False}),
        (["--size=7", "--rate", "2e-5"], {"size": 7, "rate": 2e-5}),
        (["--name=a b", "--kind=blue", "--from", "x"],
         {"name": "a b", "kind": "blue", "source": "x"}),
    ],
)  # fmt: skip
def test_flags_take_the_forms_of_the_original(arguments, expected):
    settings, positional = parse(*arguments)
    assert settings == Settings(**expected)
    assert positional == []


def test_arguments_may_stand_between_flags():
    settings, positional = parse("one", "--size=2", "two", "--", "--three")
    assert settings.size == 2
    assert positional == ["one", "two", "--three"]
    with pytest.raises(InputError, match="unexpected argument 'one'"):
        flags.refuse_positional(positional)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sise=3", "sise.*size"),
        ("--size=three", "size=three"),
        ("--kind=green", "kind=green.*red"),
        ("--name", "name"),
    ],
)
def test_a_wrong_flag_is_an_input_error(argument, message):
    with pytest.raises(InputError, match=message):
        parse(argument)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run_classifier", "--do_train", "--output_dir=gs://bucket/run"],
        ["run_pretraining", "--do_train", "--output_dir=x", "--input_file=a,gs://bucket/b*"],
        ["run_squad", "--do_train", "--output_dir=x", "--checkpoint=gs://bucket/base"],
        ["extract_features", "--input_file=x", "--output_file=s3://bucket/x.jsonl"],
        ["create_pretraining_data", "--input_file=gs://b/x", "--output_file=y", "--vocab_file=v"],
        ["predict", "--model_dir=gs://bucket/run", "a text"],
        ["convert_checkpoint", "--from=gs://bucket/base", "--to=x"],
    ],
)
def test_a_bucket_is_not_taken_for_a_folder(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert re.search(r"bert-tf: --\w+=.*://.*; mount the bucket", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_beam_has_file_systems_of_its_own():
    arguments = ["--input_file=gs://b/x", "--output_file=gs://b/y", "--vocab_file=v"]
    settings, _ = flags.parse(PretrainingData, [*arguments, "--runner=DataflowRunner"], "usage: …")
    assert settings.output_file == "gs://b/y"
    with pytest.raises(InputError, match="mount the bucket"):
        flags.parse(PretrainingData, arguments, "usage: …")


def test_config_file_is_overruled_by_flags(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("command: anything\nsize: 11\nrate: 5e-5\nfrom: 7\nname: null\n")
    settings, _ = parse(f"--config={path}", "--size=12")
    assert settings == Settings(size=12, rate=5e-5, source="7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise: 3", "unknown setting 'sise'"),
        ("size: x", "size must be of type int"),
        ("do_train: 1", "do_train must be of type bool"),
        ("[1, 2]", "expected lines like"),
        ("a: [", "not a YAML file"),
    ],
)
def test_a_wrong_config_file_is_an_input_error(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        parse(f"--config={path}")


class TestCheckpointFlag:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("BERT_TF_CACHE", str(tmp_path / "cache"))
        for place in ("checkpoints/cased_L-2_H-4_A-2", "cache/uncased_L-2_H-4_A-2"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "bert_config.json").write_text("{}")
        return tmp_path

    def parse(self, *arguments):
        return flags.parse(ModelFiles, arguments, "")[0]

    def test_sets_the_four_flags(self, folder):
        settings = self.parse("--checkpoint=cased_L-2_H-4_A-2")
        assert settings.vocab_file == "checkpoints/cased_L-2_H-4_A-2/vocab.txt"
        assert settings.bert_config_file == "checkpoints/cased_L-2_H-4_A-2/bert_config.json"
        assert settings.init_checkpoint == "checkpoints/cased_L-2_H-4_A-2/bert_model.ckpt"
        assert settings.do_lower_case is False
        in_cache = self.parse("--checkpoint=uncased_L-2_H-4_A-2", "--vocab_file=mine.txt")
        assert in_cache.vocab_file == "mine.txt"
        assert in_cache.init_checkpoint == str(folder / "cache/uncased_L-2_H-4_A-2/bert_model.ckpt")
        assert in_cache.do_lower_case is True

    def test_a_checkpoint_flag_overrules_the_files_of_a_stored_configuration(self, folder):
        stored = "\n".join(
            f"{name}: old/{name}"
            for name in ("checkpoint", "vocab_file", "bert_config_file", "init_checkpoint")
        )
        (folder / "run_config.yaml").write_text(f"{stored}\ndo_lower_case: true\n")
        alone = self.parse("--config=run_config.yaml")
        assert alone.vocab_file == "old/vocab_file"  # no need for the released folder any more
        settings = self.parse("--config=run_config.yaml", "--checkpoint=cased_L-2_H-4_A-2")
        assert settings.vocab_file == "checkpoints/cased_L-2_H-4_A-2/vocab.txt"
        assert settings.init_checkpoint == "checkpoints/cased_L-2_H-4_A-2/bert_model.ckpt"
        assert settings.do_lower_case is False

    def test_wrong_casing_and_unknown_name(self, folder):
        with pytest.raises(InputError, match="trained with false"):
            self.parse("--checkpoint=cased_L-2_H-4_A-2", "--do_lower_case")
        with pytest.raises(InputError, match="checkpoints/nothing"):
            self.parse("--checkpoint=nothing")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uncased_L-12_H-768_A-12", True),
        ("wwm_uncased_L-24_H-1024_A-16", True),
        ("cased_L-24_H-1024_A-16", False),
        ("wwm_cased_L-24_H-1024_A-16", False),
        ("multi_cased_L-12_H-768_A-12", False),
        ("multilingual_L-12_H-768_A-12", True),
        ("chinese_L-12_H-768_A-12", True),
        ("my_model", None),
    ],
)
def test_casing_of_the_released_checkpoints(name, expected):
    assert lower_case_of(name) is expected


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_does_without_tensorflow(command):
    code = (
        "import sys; from bert_tf.cli.main import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as error: status = error.code\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(status)"
    )
    arguments = ["--help"] if command is None else [command, "--help"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "usage: bert-tf" in result.stdout
    if command == "run_classifier":
        for field in dataclasses.fields(Classification):
            assert field.name in result.stdout
    if command is None:
        assert all(name in result.stdout for name in COMMANDS)


def test_results_are_utf_8_wherever_they_go():
    code = "from bert_tf.cli import main\nmain.main = lambda: print('\\u732b')\nmain.entry_point()"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert run.stdout.decode("utf-8").strip() == "\u732b"


def test_an_unknown_command_names_the_known_ones(capsys):
    assert main(["run_clasifier"]) == 2
    printed = capsys.readouterr()
    assert "run_classifier" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_train": False}, "at least one of --do_train"),
        ({"output_dir": None}, "--output_dir is missing"),
        ({"use_tpu": True, "strategy": "one_device"}, "--strategy=one_device and a TPU"),
        ({"train_batch_size": 0}, "--train_batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "--learning_rate"),
        ({"learning_rate": float("nan")}, "--learning_rate"),
        ({"num_train_epochs": float("inf")}, "--num_train_epochs"),
        ({"weight_decay_rate": -1.0}, "--weight_decay_rate"),
        ({"warmup_proportion": 1.5}, "--warmup_proportion"),
        ({"seed": -1}, "--seed"),
        ({"eval_steps": 0}, "--eval_steps must be at least 1"),
        ({"eval_steps": 9}, "--eval_steps=9: evaluation while training is that of --do_eval"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        Classification(**{"do_train": True, "output_dir": "x", **changes})
