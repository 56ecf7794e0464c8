"""Takes a model's outputs and the labels, returns named numbers; next: training.

Every metric of classification is a function of `logits float32 [num_examples, num_labels]` and the
labels, and returns a finite number: where a formula divides by zero, its result is said to be 0.0.
scikit-learn and SciPy are imported in the functions, because they take a second to load.

Axes: num_examples (at least 1), num_labels (1 for a regression).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from bert_tf.errors import InputError

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose largest logit is at the label.

    Args:
        logits: float32 [num_examples, num_labels]; of equal logits, the first counts.
        labels: int32 [num_examples].
    """
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def f1_of_class_1(logits: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the class with id 1, as GLUE scores MRPC and QQP.

    Args:
        logits: float32 [num_examples, num_labels].
        labels: int32 [num_examples].

    Returns:
        F1; 0.0 when class 1 is neither among the labels nor predicted.
    """
    from sklearn.metrics import f1_score

    predictions = np.argmax(logits, axis=-1)
    # The average over one named class; average="binary" refuses labels that are all of one class.
    return float(f1_score(labels, predictions, labels=[1], average="macro", zero_division=0.0))


def f1_macro(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over all classes of each one's F1.

    Args:
        logits: float32 [num_examples, num_labels].
        labels: int32 [num_examples].

    Returns:
        The mean; a class that is neither among the labels nor predicted counts as 0.0.
    """
    from sklearn.metrics import f1_score

    predictions = np.argmax(logits, axis=-1)
    classes = range(logits.shape[-1])
    return float(f1_score(labels, predictions, labels=classes, average="macro", zero_division=0.0))


def matthews_correlation(logits: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation coefficient, as GLUE scores CoLA.

    Args:
        logits: float32 [num_examples, num_labels].
        labels: int32 [num_examples].

    Returns:
        The coefficient, -1 to 1; 0.0 when the labels or the predictions are all of one class.
    """
    from sklearn.metrics import matthews_corrcoef

    predictions = np.argmax(logits, axis=-1)
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson_correlation(logits: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of the predicted numbers with the given ones.

    Args:
        logits: float32 [num_examples, 1]: the predicted numbers.
        labels: float32 [num_examples].

    Returns:
        The coefficient, -1 to 1; 0.0 when the predictions or the labels are all equal.
    """
    return _correlation(logits[:, 0], labels)


def spearman_correlation(logits: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's correlation: Pearson's of the ranks, where equal numbers share their mean rank.

    Args:
        logits: float32 [num_examples, 1]: the predicted numbers.
        labels: float32 [num_examples].

    Returns:
        The coefficient, -1 to 1; 0.0 when the predictions or the labels are all equal.
    """
    from scipy.stats import rankdata

    return _correlation(rankdata(logits[:, 0]), rankdata(labels))


def exact_match(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose predicted set of labels is exactly the given set.

    Args:
        logits: float32 [num_examples, num_labels]; a label is predicted when its probability is
            above 0.5, which is when its logit is above 0.
        labels: float32 [num_examples, num_labels], 1 where the example has the label, else 0.
    """
    return float(np.mean(np.all((logits > 0) == (labels > 0), axis=-1)))


def multi_label_f1_micro(logits: np.ndarray, labels: np.ndarray) -> float:
    """F1 of all decisions, every label of every example, taken together.

    Args:
        logits: float32 [num_examples, num_labels], predicted as in `exact_match`.
        labels: float32 [num_examples, num_labels], 0 or 1.

    Returns:
        F1; 0.0 when no example has a label and none is predicted.
    """
    return _multi_label_f1(logits, labels, "micro")


def multi_label_f1_macro(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the labels of each one's F1.

    Args:
        logits: float32 [num_examples, num_labels], predicted as in `exact_match`.
        labels: float32 [num_examples, num_labels], 0 or 1.

    Returns:
        The mean; a label that no example has and that is never predicted counts as 0.0.
    """
    return _multi_label_f1(logits, labels, "macro")


def multi_label_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the labels of the area under each one's ROC curve.

    Args:
        logits: float32 [num_examples, num_labels].
        labels: float32 [num_examples, num_labels], 0 or 1.

    Returns:
        The mean over the labels that some examples have and some have not; the area of the others
        is not defined, and they are left out. 0.0 when none is left.
    """
    from sklearn.metrics import roc_auc_score

    varied = np.flatnonzero(np.ptp(labels, axis=0))
    if varied.size == 0:
        return 0.0
    return float(np.mean([roc_auc_score(labels[:, k], logits[:, k]) for k in varied]))


# The metrics each type of task can report, by the name they have in eval_results.json after
# "eval_".
CLASSIFICATION_METRICS: Mapping[str, Mapping[str, Metric]] = {
    "single_label": {
        "accuracy": accuracy,
        "f1": f1_of_class_1,
        "f1_macro": f1_macro,
        "mcc": matthews_correlation,
    },
    "multi_label": {
        "accuracy": exact_match,
        "f1_micro": multi_label_f1_micro,
        "f1_macro": multi_label_f1_macro,
        "auc": multi_label_auc,
    },
    "regression": {
        "pearson": pearson_correlation,
        "spearman": spearman_correlation,
    },
}


def classification_metrics(
    task_type: str, names: Sequence[str], logits: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Computes the metrics of one evaluation.

    Args:
        task_type: single_label, multi_label or regression.
        names: Which metrics of `CLASSIFICATION_METRICS[task_type]`.
        logits: float32 [num_examples, num_labels].
        labels: int32 [num_examples] (single_label), float32 [num_examples, num_labels]
            (multi_label) or float32 [num_examples] (regression).

    Returns:
        Each name and its number.
    """
    check_finite(logits)
    return {name: CLASSIFICATION_METRICS[task_type][name](logits, labels) for name in names}


def check_finite(logits: np.ndarray) -> None:
    """Checks that a model's outputs, of any shape, are numbers.

    Raises:
        InputError: if not.
    """
    if not np.all(np.isfinite(logits)):
        raise InputError(
            f"{np.sum(~np.isfinite(logits))} of the model's {logits.size} outputs are not finite "
            "numbers: the training has diverged. Lower the learning rate, or check the checkpoint."
        )


def word_accuracy(tags: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The share of words whose tag is right.

    Args:
        tags: of each sentence.
        predicted: as many.
    """
    pairs = [
        one == other
        for sentence, predictions in zip(tags, predicted, strict=True)
        for one, other in zip(sentence, predictions, strict=True)
    ]
    return float(np.mean(pairs))


def entity_metrics(
    tags: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: Iterable[str] = ()
) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, as the CoNLL tasks count them (seqeval, strict).

    An entity is right if its type, its first and its last word are.

    Args:
        tags: of each sentence, in IOB2.
        predicted: as many.
        types: of entities that are reported even where there is none of them.

    Returns:
        ``precision``, ``recall`` and ``f1`` over all entities, and of each type, ``f1_LOC`` and so
        on. 0.0 where there are no entities.
    """
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    found = dict.fromkeys([*names, *(f"{name}_{kind}" for kind in types for name in names)], 0.0)
    if not any(tag != "O" for sentence in (*tags, *predicted) for tag in sentence):
        return found  # seqeval has no report for it
    report = classification_report(
        [list(sentence) for sentence in tags],
        [list(sentence) for sentence in predicted],
        output_dict=True,
        mode="strict",
        scheme=IOB2,
        zero_division=0,
    )
    found |= {name: float(report["micro avg"][key]) for name, key in names.items()}
    for kind, values in report.items():
        if not kind.endswith(" avg"):
            found |= {f"{name}_{kind}": float(values[key]) for name, key in names.items()}
    return found


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two arrays, float [num_examples]; 0.0 if one of them is constant."""
    from scipy.stats import pearsonr

    # Two different float32 numbers are far enough apart in float64 for the formula.
    x, y = x.astype(np.float64), y.astype(np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(pearsonr(x, y).statistic)


def _multi_label_f1(logits: np.ndarray, labels: np.ndarray, average: str) -> float:
    """F1 of `logits` and `labels`, float32 [num_examples, num_labels], averaged as named."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels > 0, logits > 0, average=average, zero_division=0.0))
