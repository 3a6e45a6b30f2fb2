import pytest

from segkit.errors import InputError
from segkit.metrics.zero_shot import compute_zero_shot


def test_seen_and_unseen_classes():
    per_class = {"a": 40.0, "b": 20.0, "c": 10.0, "d": None}
    means = compute_zero_shot(per_class, ["c", "d"], "instance")
    assert (means["seen"], means["unseen"], means["harmonic"]) == (30, 10, 15)
    assert (means["seen_classes"], means["unseen_classes"], means["figure"]) == (2, 1, "ap")
    assert (
        compute_zero_shot({"a": {"pq": 0.0}, "b": {"pq": 0.0}}, ["b"], "panoptic")["harmonic"] == 0
    )
    assert compute_zero_shot(per_class, ["d"], "semantic")["harmonic"] is None
    with pytest.raises(InputError, match="unseen classes that the data does not have: x"):
        compute_zero_shot(per_class, ["x"], "semantic")
