"""tools/make_unanswerable: SQuAD 1.1 in, questions without an answer among the others out."""

import json
import pathlib
import subprocess
import sys

from bert_tf.tasks.squad_data import read_questions

TOOL = pathlib.Path(__file__).resolve().parent.parent / "tools" / "make_unanswerable"


def test_questions_move_to_paragraphs_without_their_answers(tmp_path):
    words = ["ant", "bee", "cat", "dog", "eel", "fox"]
    paragraphs = [
        {
            "context": f"The {word} and the {words[i - 1]} sat.",
            "qas": [
                {"id": word, "question": f"{word}?", "answers": [{"text": word, "answer_start": 4}]}
            ],
        }
        for i, word in enumerate(words)
    ]
    source, target = tmp_path / "v1.json", tmp_path / "v2.json"
    source.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]}))
    for share, expected in ((0.4, 4), (0.9, 6)):
        command = [sys.executable, TOOL, source, target, f"--share={share}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = read_questions(target, for_training=True)
        impossible = [question for question in found.questions if question.is_impossible]
        assert len(found.questions) == 6 + expected
        assert len(impossible) == expected
        for question in impossible:
            assert question.id.removesuffix("-unanswerable") == question.text.removesuffix("?")
            assert question.text.removesuffix("?") not in found.contexts[question.context]
        answered = [question for question in found.questions if not question.is_impossible]
        assert [question.answers[0].text for question in answered] == words
    again = target.read_bytes()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert target.read_bytes() == again
