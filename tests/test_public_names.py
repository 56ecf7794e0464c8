"""Tests of the package's public names."""

import inspect

import pytest

import bert_tf


def test_all_is_sorted_and_has_the_names_of_the_contract():
    assert bert_tf.__all__ == sorted(set(bert_tf.__all__))
    assert {
        "BertClassifier",
        "BertConfig",
        "BertModel",
        "BertPretrainer",
        "FullTokenizer",
        "GraphTokenizer",
        "Predictor",
        "create_optimizer",
        "load_checkpoint",
        "save_checkpoint",
    } <= set(bert_tf.__all__)


@pytest.mark.parametrize("name", bert_tf.__all__)
def test_each_name_resolves_to_what_is_called_so(name):
    value = getattr(bert_tf, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    assert value.__module__.startswith("bert_tf.")
    assert value.__doc__
    assert getattr(bert_tf, name) is value


def test_dir_lists_them():
    assert set(bert_tf.__all__) <= set(dir(bert_tf))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bert_tf' has no attribute 'BertMdel'"):
        _ = bert_tf.BertMdel


def test_star_import_gives_exactly_the_public_names():
    names = {}
    exec("from bert_tf import *", names)
    assert set(names) - {"__builtins__"} == set(bert_tf.__all__)
