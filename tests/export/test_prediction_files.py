import json
from dataclasses import replace

import numpy as np

from segkit.export.prediction_files import write_results
from segkit.sample import Sample
from tests.metrics.scenes import segment


def test_results_hold_what_others_read(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[4:9, 5:25] = True
    masked = segment(mask, 7, score=0.25)
    boxed = replace(masked, class_id=9, mask=None, mask_from=None, score=0.5)
    images = [Sample(image, "x.jpg", 30, 20, (masked, boxed)) for image in ("139", "007", "٣", "a")]
    file = tmp_path / "results.json"
    assert write_results(file, images) == 8
    rows = json.loads(file.read_text())
    assert [row["image_id"] for row in rows[::2]] == [139, "007", "٣", "a"], (
        "a number only where it is written as one"
    )
    assert (
        rows[0].keys() == {"image_id", "category_id", "score", "segmentation"}
        and rows[0]["score"] == 0.25
    )
    assert rows[0]["segmentation"] == {"size": [20, 30], "counts": masked.mask.decode()}
    assert rows[1] == {
        "image_id": 139,
        "category_id": 9,
        "score": 0.5,
        "bbox": [5.0, 4.0, 20.0, 5.0],
    }
    assert write_results(file, []) == 0 and json.loads(file.read_text()) == []
