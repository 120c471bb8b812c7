import numpy as np
import pytest

from rtk.metrics.label_errors import confident_joint, label_errors


def noisy(seed, count=300, classes=4, share=0.15, strength=3.0):
    """Probabilities of a good model, given labels of which a share was drawn anew, and true labels."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, count)
    given = np.where(generator.random(count) < share, generator.integers(0, classes, count), true)
    logits = generator.normal(size=(count, classes))
    logits[np.arange(count), true] += strength
    odds = np.exp(1.5 * logits)
    return odds / odds.sum(1, keepdims=True), given, true


# cleanlab 2.9: find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence")
CLEANLAB = (
    *(152, 204, 32, 46, 0, 57, 183, 247, 2, 119, 107, 195, 122, 7, 215, 252, 98, 64, 9, 226, 71, 173, 84, 62),
    *(141, 73, 72, 162, 117, 230, 250, 295, 177),
)


def test_as_cleanlab():
    probabilities, given, true = noisy(0)
    found = label_errors(probabilities, given)
    assert tuple(found.rows) == CLEANLAB
    wrong = np.flatnonzero(given != true)
    assert len(set(found.rows) & set(wrong)) == 29  # of 30
    assert np.array_equal(found.suggested, probabilities[found.rows].argmax(1))
    assert found.joint.sum(1).tolist() == np.bincount(given).tolist()


def test_joint_by_hand():
    # Thresholds: 0.8 = (0.9 + 0.9 + 0.6) / 3 of class 0, 0.5 = (0.8 + 0.2) / 2 of class 1.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.8, 0.2]])
    labels = np.array([0, 0, 0, 1, 1])
    # The third image is sure of nothing; what is left is scaled to the images of each label.
    assert confident_joint(probabilities, labels).tolist() == [[3, 0], [1, 1]]
    found = label_errors(probabilities, labels)
    assert (found.rows.tolist(), found.suggested.tolist()) == ([4], [0])


def test_right_labels_and_absent_classes():
    probabilities = np.eye(5)[[0, 1, 2, 0, 1, 2]] * 0.9 + 0.02
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = label_errors(probabilities, labels)
    assert len(found.rows) == 0
    assert found.joint.tolist() == np.diag([2, 2, 2, 0, 0]).tolist()
    assert len(label_errors(np.empty((0, 3)), np.empty(0, int)).rows) == 0


def test_a_class_of_one_image_is_spared():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.95, 0.05]])
    assert len(label_errors(probabilities, np.array([0, 0, 1])).rows) == 0


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 2)), [0], r"got \(2, 2\), \(1,\)"),
        (np.ones((2, 2)), [0, 2], "labels: got 0 to 2, wanted 0 to 1"),
        (np.array([[np.nan, 1.0]]), [0], "not finite"),
    ],
)
def test_bad_input(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        label_errors(probabilities, np.array(labels))
