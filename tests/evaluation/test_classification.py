"""Classification metrics equal their definitions: by hand on vectors, by slow independent formulas on random data."""

from __future__ import annotations

import numpy as np
import pytest

from pet.evaluation import classification as m


def one_hot_scores(predictions: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predictions]


def counts(predictions: list[int], labels: list[int], classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confusion = m.confusion_matrix(np.array(predictions), np.array(labels), classes)
    return confusion.diagonal(), confusion.sum(axis=0), np.bincount(labels, minlength=classes)


def test_accuracy_of_the_published_vector_is_50() -> None:
    ranks = m.label_ranks(one_hot_scores([0, 2, 1, 3], 4), np.array([0, 1, 2, 3]))
    assert m.topk_accuracy(ranks, 1) == 50.0


def test_macro_averages_of_the_published_vector() -> None:
    precision, recall, f1 = m.averages(*counts([0, 1, 1, 3], [0, 2, 1, 3], 4), "macro")
    assert (precision, recall) == (62.5, 75.0)
    assert f1 == pytest.approx(200 / 3)


def test_confusion_matrix_by_hand_has_ground_truth_in_rows() -> None:
    confusion = m.confusion_matrix(np.array([0, 1, 1, 2, 0, -1]), np.array([0, 0, 1, 1, 2, 2]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_per_class_numbers_by_hand() -> None:
    # rows: truth. precision = diagonal / column, recall = diagonal / row
    confusion = np.array([[8, 2, 0], [1, 3, 0], [1, 5, 0]])
    table = m.class_table(confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1))
    np.testing.assert_allclose(table.precision, [80.0, 30.0, 0.0])
    np.testing.assert_allclose(table.recall, [80.0, 75.0, 0.0])
    np.testing.assert_allclose(table.f1, [80.0, 2 * 30 * 75 / 105, 0.0])
    assert table.support.tolist() == [10, 4, 6]


def test_class_without_ground_truth_is_nan_and_left_out_of_the_mean() -> None:
    truth = counts([0, 2, 1], [0, 1, 1], 3)
    table = m.class_table(*truth)
    assert np.isnan([table.precision[2], table.recall[2], table.f1[2]]).all()
    assert m.averages(*truth, "macro") == (100.0, 75.0, pytest.approx((100 + 200 / 3) / 2))


def test_micro_average_of_single_labels_is_the_accuracy() -> None:
    assert m.averages(*counts([0, 1, 1, 3], [0, 2, 1, 3], 4), "micro") == (75.0, 75.0, 75.0)


def test_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 classes"):
        m.confusion_matrix(np.array([0, 1]), np.array([0, 2]), 2)


def test_topk_counts_the_lower_class_first_among_equal_scores() -> None:
    ranks = m.label_ranks(np.zeros((3, 3), np.float32), np.array([0, 1, 2]))
    assert ranks.tolist() == [0, 1, 2]


def test_threshold_is_strict() -> None:
    scores = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    labels = np.array([0, 1])
    ranks, own = m.label_ranks(scores, labels), scores[[0, 1], labels]
    assert m.topk_accuracy(ranks, 1, own, 0.5) == 50.0
    assert m.topk_accuracy(ranks, 1, own, 0.49) == 100.0
    with pytest.raises(ValueError, match="label_scores"):
        m.topk_accuracy(ranks, 1, threshold=0.5)


def test_nan_is_never_right() -> None:
    scores = np.array([[np.nan, np.nan], [np.nan, 1.0], [np.nan, 1.0]], np.float32)
    ranks = m.label_ranks(scores, np.array([0, 1, 0]))
    assert ranks.tolist() == [2, 1, 2]


def test_nothing_to_judge_is_nan() -> None:
    assert np.isnan(m.topk_accuracy(np.array([], dtype=np.int64), 1))
    assert np.isnan(m.average_precision(np.array([0.3]), np.array([0])))
    assert np.isnan(m.mean(np.array([np.nan])))


@pytest.mark.parametrize("seed", range(5))
def test_topk_equals_sorting_each_row(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (40, 7)).astype(np.float32)  # many equal scores
    labels = random.integers(0, 7, 40)
    ranks = m.label_ranks(scores, labels)
    for k in (1, 2, 5, 7):
        slow = [label in sorted(range(7), key=lambda c: (-row[c], c))[:k] for row, label in zip(scores, labels, strict=True)]
        assert m.topk_accuracy(ranks, k) == pytest.approx(100 * np.mean(slow))


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_f1_equal_counting_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    predictions, labels = random.integers(0, 5, 60).tolist(), random.integers(0, 5, 60).tolist()
    table = m.class_table(*counts(predictions, labels, 5))
    pairs = list(zip(predictions, labels, strict=True))
    for c in range(5):
        hits = sum(p == c == t for p, t in pairs)
        precision, recall = hits / max(predictions.count(c), 1), hits / labels.count(c)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        np.testing.assert_allclose([table.precision[c], table.recall[c], table.f1[c]], [100 * precision, 100 * recall, 100 * f1])


def test_average_precision_by_hand() -> None:
    # positives at places 1, 3 and 4: precisions 1, 2/3, 3/4
    scores, targets = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 1, 0])
    assert m.average_precision(scores, targets) == pytest.approx(100 * (1 + 2 / 3 + 3 / 4) / 3)


def test_average_precision_does_not_depend_on_the_order_of_equal_scores() -> None:
    scores = np.array([0.5, 0.5, 0.5, 0.1])
    values = {m.average_precision(scores, np.array(t)) for t in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])}
    assert len(values) == 1
    assert values.pop() == pytest.approx(100 / 3)


def test_marks_that_are_not_judged_change_nothing() -> None:
    scores, targets = np.array([[0.9, 0.2], [0.8, 0.6], [0.1, 0.7]]), np.array([[1, 0], [-1, 1], [0, -1]])
    assert m.average_precision(scores[:, 0], targets[:, 0]) == 100.0
    hits, made, support = m.multi_label_counts(m.positive_predictions(scores), targets)
    assert (hits.tolist(), made.tolist(), support.tolist()) == ([1, 1], [1, 1], [1, 1])


def test_multi_label_averages_by_hand() -> None:
    predicted = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]])
    targets = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]])
    values = m.multi_label_averages(*m.multi_label_counts(predicted > 0, targets))
    # classes: precision 1/2, 1/4, 1; recall 1/4, 1/2, 1/2. All together: 3 hits, 7 predictions, 8 marks
    precision, recall = 100 * (1 / 2 + 1 / 4 + 1) / 3, 100 * (1 / 4 + 1 / 2 + 1 / 2) / 3
    expected = {
        "CP": precision,
        "CR": recall,
        "CF1": 2 * precision * recall / (precision + recall),
        "OP": 100 * 3 / 7,
        "OR": 100 * 3 / 8,
        "OF1": 100 * 6 / 15,
    }
    assert values == pytest.approx(expected)


def test_multi_label_threshold_includes_its_value_and_topk_replaces_it() -> None:
    scores = np.array([[0.5, 0.4, 0.9], [0.1, 0.1, 0.1]])
    assert m.positive_predictions(scores).tolist() == [[True, False, True], [False, False, False]]
    assert m.positive_predictions(scores, topk=1).tolist() == [[False, False, True], [True, False, False]]


def test_nothing_predicted_gives_zero_and_not_an_error() -> None:
    values = m.multi_label_averages(*m.multi_label_counts(np.zeros((2, 2), bool), np.ones((2, 2), int)))
    assert set(values.values()) == {0.0}


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_the_sum_over_thresholds(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, targets = random.integers(0, 10, 50) / 10, random.integers(0, 2, 50)
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall = (targets[chosen] == 1).sum() / (targets == 1).sum()
        total += (recall - recall_before) * (targets[chosen] == 1).mean()
        recall_before = recall
    assert m.average_precision(scores, targets) == pytest.approx(100 * total)
