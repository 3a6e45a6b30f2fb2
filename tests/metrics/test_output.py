import pytest

from segkit.metrics.output import figure_name


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
def test_figures_are_named_as_in_papers(key: str, name: str) -> None:
    assert figure_name(key) == name
