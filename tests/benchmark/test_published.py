from dataclasses import replace

import pytest

from segkit.benchmark.published import benchmark_names, load_benchmark, transfer_benchmark
from segkit.errors import InputError
from segkit.taxonomy import Taxonomy, load_taxonomy
from tests.metrics.files import shard_set


def test_a_class_list_is_recognized_by_its_names_under_any_ids(tmp_path):
    names = load_taxonomy("pascal-context-59")
    turned = tuple(replace(c, id=n) for n, c in enumerate(reversed(names.categories)))
    same_names = shard_set(tmp_path / "same", [], Taxonomy("labels", turned), "semantic")
    assert transfer_benchmark(same_names) == "pascal-context-59"
    fewer = shard_set(tmp_path / "fewer", [], Taxonomy("labels", turned[1:]), "semantic")
    with pytest.raises(InputError, match="no published rows for semantic labels"):
        transfer_benchmark(fewer)


def test_published_rows_are_complete():
    assert {
        "objects365",
        "ade-panoptic",
        "ade-semantic",
        "coco-panoptic",
        "pascal-context-59",
    } <= set(benchmark_names())
    for name in benchmark_names():
        rows = load_benchmark(name).rows
        assert rows and all(0 < row.value < 100 and "arXiv" in row.source for row in rows)
    with pytest.raises(InputError, match="unknown benchmark 'x'; give one of ade-semantic"):
        load_benchmark("x")


def values(name, **fields):
    """Values of DaTaSeg's paper in the rows of a model, backbone or training data."""
    rows = [row for row in load_benchmark(name).rows if "DaTaSeg" in row.source]
    return [
        row.value
        for row in rows
        if all(getattr(row, key) == value for key, value in fields.items())
    ]


def test_published_rows_equal_those_of_the_paper():
    """Its tables: backbones, what R50 was trained on, and direct transfer."""
    columns = ("ade-semantic", "coco-panoptic", "ade-panoptic", "objects365")
    in_domain = {
        "ade-semantic": "ADE20K",
        "coco-panoptic": "COCO",
        "ade-panoptic": "ADE20K",
        "objects365": "Objects365",
    }
    every = "ADE20K + COCO + Objects365"
    together = {"R50": (48.1, 49.0, 29.8, 14.3), "ViTDet-B": (51.4, 52.8, 32.9, 16.1)}
    together["ViTDet-L"] = (54.0, 53.5, 33.4, 16.4)
    separate = {"R50": (42.0, 48.2, 26.9, 12.3), "ViTDet-B": (46.3, 51.9, 27.5, 14.7)}
    trained = {
        "ADE20K": (42.0, 8.4, 26.7, 1.0),
        "COCO": (15.3, 48.2, 11.6, 5.8),
        "Objects365": (11.0, 12.4, 5.8, 12.3),
        "ADE20K + Objects365": (46.3, 14.0, 26.4, 15.0),
        "COCO + Objects365": (18.3, 48.9, 12.3, 15.2),
        "ADE20K + COCO": (47.3, 49.0, 30.5, 5.6),
    }
    for k, name in enumerate(columns):
        for backbone, row in together.items():
            assert values(name, backbone=backbone, trained_on=every) == [row[k]]
        for backbone, row in separate.items():
            assert row[k] in values(
                name, backbone=backbone, trained_on=in_domain[name], model="separate"
            )
        for data, row in trained.items():
            assert row[k] in values(name, backbone="R50", trained_on=data)
        assert len(values(name)) == 10 + (name == "ade-panoptic"), (
            "26.9 in one table, 26.7 in the other"
        )
    transfer = {
        "pascal-context-59": [50.9, 51.1, 51.4],
        "pascal-context-459": [11.1, 11.6, 11.1],
        "coco-semantic": [57.7, 62.7, 62.9],
        "cityscapes-panoptic": [30.0, 28.0, 29.8],
    }
    for name, row in transfer.items():
        backbones = {row.backbone for row in load_benchmark(name).rows}
        assert values(name) == row and backbones >= {"R50", "ViTDet-B", "ViTDet-L"}
