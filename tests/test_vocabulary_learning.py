"""Tests of bert_tf.vocabulary_learning and of the command ``bert-tf build_vocab``."""

import collections
import gzip
import logging
import os
import random
import subprocess
import sys

import pytest

from bert_tf.cli.main import main
from bert_tf.errors import InputError
from bert_tf.tokenization import FullTokenizer, Vocabulary, Words
from bert_tf.vocabulary_learning import (
    PieceLearner,
    build_vocabulary,
    count_words,
    frequent_characters,
    learn_pieces,
    measure,
    special_pieces,
)

SYLLABLES = ["un", "re", "play", "ing", "ed", "er", "s", "ment", "a", "be", "lie", "ver", "y"]


def random_words(seed, count):
    """word -> how often, of syllables that recur, some words much more frequent than others."""
    rng = random.Random(seed)
    counts = collections.Counter()
    for _ in range(count):
        counts["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4)))] += int(rng.paretovariate(0.8))
    return dict(counts)


def slow_pieces(word_counts, threshold, rounds=4):
    """The method as one would write it down: every substring in a dictionary, the longest first."""
    kept = {}
    for round_number in range(rounds):
        totals = collections.Counter()
        for word, count in word_counts.items():
            starts = slow_starts(word, kept) if round_number else range(len(word))
            for start in starts:
                for end in range(start + 1, len(word) + 1):
                    totals["##" * (start > 0) + word[start:end]] += count
        kept = {}
        for piece in sorted(totals, key=lambda p: -len(p.removeprefix("##"))):
            if totals[piece] >= threshold:
                kept[piece] = totals[piece]
                for end in range(len(piece) - len(piece.removeprefix("##")) + 1, len(piece)):
                    totals[piece[:end]] -= kept[piece]
    return kept


def slow_starts(word, pieces):
    start = 0
    while start < len(word):
        yield start
        ends = range(len(word), start, -1)
        matches = (end for end in ends if "##" * (start > 0) + word[start:end] in pieces)
        start = next(matches, start + 1)


@pytest.mark.parametrize("threshold", [2, 3, 5, 11, 40, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_are_those_of_the_slow_method(seed, threshold):
    words = random_words(seed, 230)
    assert PieceLearner(words).pieces(threshold) == slow_pieces(words, threshold)


def test_beginnings_that_are_no_words_are_found():
    words = {f"pre{rest}": 3 for rest in ("lude", "cept", "fix", "sent")}
    whole = PieceLearner(words).pieces(3)
    assert {"prelude", "prefix"} <= whole.keys()
    assert "pre" not in whole  # they use it up
    assert {"pre": 12}.items() <= PieceLearner(words).pieces(4).items()


@pytest.mark.parametrize("wanted", [0, 1, 7, 30, 55])
def test_the_threshold_is_the_highest_that_gives_enough(wanted):
    learner = PieceLearner(random_words(3, 150))

    def size(threshold):
        return sum(len(p.removeprefix("##")) > 1 for p in learner.pieces(threshold))

    threshold = learner.threshold(wanted)
    assert size(threshold) >= wanted
    assert size(threshold) == wanted or size(threshold + 1) < wanted


def test_a_vocabulary_has_exactly_the_size_that_is_asked_for():
    words = random_words(4, 400)
    characters = frequent_characters(words, 1)
    for num_pieces in (2 * len(characters), 41, 58, 97, 133):
        pieces = learn_pieces(words, characters, num_pieces)
        assert len(pieces) == len(set(pieces)) == num_pieces
        assert pieces[: len(characters)] == characters
        assert set(pieces) > {f"##{c}" for c in characters}


def test_too_little_text_gives_fewer_pieces():
    pieces = learn_pieces({"ab": 2, "abc": 1}, ["a", "b", "c"], 50)
    assert pieces == ["a", "b", "c", "ab", "##a", "##b", "##c"]  # ab occurs thrice
    assert learn_pieces({}, ["x"], 50) == ["x", "##x"]


def test_the_order_is_by_count_and_then_by_the_piece():
    words = {"dd": 5, "bb": 7, "cc": 5, "aa": 5}
    pieces = learn_pieces(words, list("abcd"), 50)
    assert pieces[4:8] == ["bb", "aa", "cc", "dd"]
    # Which of those that are as frequent are left out is told by the piece, too.
    assert learn_pieces(words, list("abcd"), 10)[4:6] == ["bb", "aa"]


def test_only_what_can_follow_in_a_word_has_a_continued_form():
    pieces = learn_pieces({"a": 3, ".": 3, "中": 3, "7": 3, "ß": 3}, sorted("a.中7ß"), 50)
    assert {p for p in pieces if p.startswith("##")} == {"##a", "##7", "##ß"}


def test_words_with_rare_characters_are_not_learned_from():
    words = {"abz": 9, "ab": 2, "abc": 2}
    assert "abz" not in learn_pieces(words, ["a", "b", "c"], 50)
    assert frequent_characters(words, 3) == ["a", "b", "z"]
    assert frequent_characters(words, 2) == ["a", "b", "c", "z"]


def test_special_pieces_stand_where_the_released_vocabularies_have_them():
    pieces = special_pieces(99)
    assert pieces[0] == "[PAD]"
    assert pieces[1] == "[unused0]"
    assert pieces[99:] == ["[unused98]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert special_pieces(0) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_words_are_left_as_they_are_by_another_tokenization(do_lower_case):
    words, again = Words(do_lower_case), Words(False)
    for code_point in [*range(0x700), *range(0x700, 0xD800, 23), *range(0xE000, 0x30000, 41)]:
        for word in words.split(f"ab{chr(code_point)}cd"):
            assert again.split(word) == [word]


TEXT = (
    "The player's replay, replayed: PLAYING plays; the players were playing\r\n"
    "un\x1cplayed naïve \x85café in 2018, 2019 and 1987.\n"
    "\n中文 text, ΟΔΟΣ and the end\x00\n" * 5 + "once upon a time\n"
)


def slow_counts(text, do_lower_case):
    """Words by the tokenizer itself: with every word in the vocabulary, pieces are words."""
    words = Words(do_lower_case)
    return collections.Counter(word for line in text.split("\n") for word in words.split(line))


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_words_are_counted_as_the_tokenizer_makes_them(tmp_path, do_lower_case):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode() + b"bro\xffken the")
    expected = slow_counts(TEXT + "broken the", do_lower_case)
    counts = count_words([path], do_lower_case)
    assert counts == expected
    assert list(counts) == sorted(counts, key=lambda word: (-counts[word], word))


def build(folder, text=TEXT, name="vocab.txt", **settings):
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    settings = {"vocab_size": 150, "num_unused_tokens": 3, "min_character_count": 1, **settings}
    report = build_vocabulary(str(folder / "text.txt"), str(folder / name), **settings)
    return report, folder / name


def test_the_report_is_what_the_tokenizer_gives(tmp_path):
    report, path = build(tmp_path, min_character_count=6)
    tokenizer = FullTokenizer(path)
    pieces = [piece for line in TEXT.split("\n") for piece in tokenizer.tokenize(line)]
    num_words = slow_counts(TEXT, True).total()
    assert report.num_words == num_words
    assert report.pieces_per_word == pytest.approx(len(pieces) / num_words)
    assert 0 < report.unknown_share == pytest.approx(pieces.count("[UNK]") / num_words)
    assert report.num_pieces == len(tokenizer.vocab) == len(path.read_text("utf-8").splitlines())
    assert f"{report.num_pieces:,} pieces" in str(report)


def test_nothing_is_unknown_when_all_characters_are_there(tmp_path):
    report, path = build(tmp_path, do_lower_case=False, vocab_size=110)
    assert report.unknown_share == 0.0
    assert report.num_pieces == 110
    assert measure(Vocabulary(path), {"play": 1, "жук": 3}).unknown_share == 0.75
    assert {"T", "P", "##L"} <= set(Vocabulary(path).pieces)


def test_the_model_ids_are_there(tmp_path):
    vocabulary = FullTokenizer(build(tmp_path)[1]).vocabulary
    ids = [vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id, vocabulary.sep_id]
    assert [*ids, vocabulary.mask_id] == [0, 4, 5, 6, 7]


def test_order_files_and_compression_of_the_text_do_not_matter(tmp_path):
    expected = build(tmp_path)[1].read_bytes()
    lines = TEXT.encode().split(b"\n")
    random.Random(5).shuffle(lines)
    (tmp_path / "part1").write_bytes(b"\n".join(lines[:7]))
    (tmp_path / "part2.gz").write_bytes(gzip.compress(b"\n".join(lines[7:])))
    build_vocabulary(
        f"{tmp_path}/part*",
        str(tmp_path / "other.txt"),
        vocab_size=150,
        num_unused_tokens=3,
        min_character_count=1,
    )
    assert (tmp_path / "other.txt").read_bytes() == expected


def test_the_file_does_not_depend_on_the_order_of_hashes(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    made = []
    for seed in ("0", "12345"):
        command = [sys.executable, "-m", "bert_tf.cli.main", "build_vocab", "--vocab_size=90"]
        command += [f"--input_file={tmp_path}/text.txt", f"--output_file={tmp_path}/{seed}.txt"]
        command += ["--num_unused_tokens=0", "--min_character_count=2"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made.append((tmp_path / f"{seed}.txt").read_bytes())
    assert made[0] == made[1]


def test_min_word_count_leaves_words_out(tmp_path):
    _, path = build(tmp_path, vocab_size=500, min_word_count=1)
    assert "playing" in Vocabulary(path).pieces
    _, path = build(tmp_path, vocab_size=500, min_word_count=10**6, name="other.txt")
    assert max(len(p.removeprefix("##")) for p in Vocabulary(path).pieces[8:]) == 1


def test_fewer_pieces_than_asked_for_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "bert_tf"):
        report, _ = build(tmp_path, vocab_size=30522)
    assert f"gives {report.num_pieces:,} pieces only, not --vocab_size=30,522" in caplog.text


class TestBadInput:
    def refused(self, folder, message, **settings):
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(InputError, match=message):
            build(folder, **settings)
        after = sorted(path.name for path in folder.iterdir())
        assert set(after) - set(before) <= {"text.txt"}

    def test_no_file(self, tmp_path):
        with pytest.raises(InputError, match="--input_file: no file is called"):
            build_vocabulary(f"{tmp_path}/*.txt", f"{tmp_path}/v")

    @pytest.mark.parametrize("text", ["", " \n\n", "\x00\n\ufeff"])
    def test_no_words(self, tmp_path, text):
        self.refused(tmp_path, "--input_file .*text.txt: there are no words", text=text)

    @pytest.mark.parametrize("vocab_size", [1, 8, 70])
    def test_too_small(self, tmp_path, vocab_size):
        self.refused(tmp_path, "--vocab_size is too small by", vocab_size=vocab_size)

    def test_the_size_that_the_message_asks_for_is_enough(self, tmp_path):
        with pytest.raises(InputError) as error:
            build(tmp_path, vocab_size=50)
        least = 50 + int(str(error.value).split("too small by ")[1].split(":")[0])
        assert build(tmp_path, vocab_size=least)[0].num_pieces == least
        self.refused(tmp_path, "too small by 1:", vocab_size=least - 1, name="other.txt")

    def test_output_exists(self, tmp_path):
        (tmp_path / "vocab.txt").write_text("mine")
        self.refused(tmp_path, "vocab.txt: is there already.*--overwrite")
        assert (tmp_path / "vocab.txt").read_text() == "mine"
        build(tmp_path, overwrite=True)
        assert (tmp_path / "vocab.txt").read_text("utf-8").startswith("[PAD]\n")

    def test_output_cannot_be_written(self, tmp_path):
        self.refused(tmp_path, "a folder; give a file", name="")
        (tmp_path / "file").touch()
        self.refused(tmp_path, "file/vocab.txt: cannot write it", name="file/vocab.txt")

    def test_output_is_the_input(self, tmp_path):
        self.refused(tmp_path, "one of the --input_file", name="text.txt", overwrite=True)
        assert (tmp_path / "text.txt").read_text("utf-8").startswith("The player")


def test_command(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    command = ["build_vocab", f"--input_file={tmp_path}/t*", f"--output_file={tmp_path}/new/v.txt"]
    assert main([*command, "--vocab_size=180", "--min_character_count=1"]) == 0
    assert len(Vocabulary(tmp_path / "new" / "v.txt")) == 180
    assert "v.txt: 180 pieces" in capsys.readouterr().out
    assert main([*command, "--vocab_size=180"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--output_file=", "--output_file is missing"),
        ("--vocab_size=0", "--vocab_size must be at least 1"),
        ("--num_unused_tokens=-1", "--num_unused_tokens must be at least 0"),
        ("--min_character_count=0", "--min_character_count must be at least 1"),
    ],
)
def test_wrong_flags(flag, message, capsys):
    assert main(["build_vocab", "--input_file=a", "--output_file=b", flag]) == 2
    assert message in capsys.readouterr().err


def test_no_tensorflow_is_needed(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    code = (
        "import sys; from bert_tf.cli.main import main; status = main(sys.argv[1:]); "
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    arguments = [f"--input_file={tmp_path}/text.txt", f"--output_file={tmp_path}/v.txt"]
    subprocess.run([sys.executable, "-c", code, "build_vocab", *arguments], check=True)
