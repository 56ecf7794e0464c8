from bert_tf.errors import InputError, did_you_mean, listed


def test_a_mistake_is_a_value_error():
    assert issubclass(InputError, ValueError)


def test_did_you_mean():
    assert did_you_mean("lable", ["text", "label"]) == "; did you mean 'label'?"
    assert did_you_mean("xyz", ["text", "label"]) == "."


def test_listed():
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed((str(i) for i in range(9)), most=2) == "0, 1 and 7 more"
