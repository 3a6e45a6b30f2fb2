import pytest

from segkit.metrics.labels import label


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ap", "AP"),
        ("ap50", "AP50"),
        ("ap_small", "AP small"),
        ("ar100", "AR100"),
        ("pq things", "PQ things"),
        ("boundary ap75", "boundary AP75"),
        ("miou", "mIoU"),
        ("fwiou", "fwIoU"),
        ("pixel_accuracy", "pixel accuracy"),
    ],
)
def test_names_are_those_of_papers(key: str, name: str) -> None:
    assert label(key) == name
