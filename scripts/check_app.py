"""Check the FiftyOne App in a headless Chromium, and take the screenshots of docs/browse.md.

    python scripts/check_app.py --out app-check --data ../shared/data

Needs FiftyOne with MongoDB, `pip install playwright` and a Chromium (`--chromium`). Checks that the
labels are visible when the App opens, that a saved view changes the count, that tags survive a
second load, and that they become a layer.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkit.browse import dataset, review
from segkit.browse.connect import fiftyone
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.shape_teachers import ShapeTeacher
from segkit.shards.reader import ShardSet
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.semantic_masks import open_semantic

PORT = 5199
SIZE = {"width": 1400, "height": 900}
GRID = np.s_[150:, 320:]
"""Rows and columns of a screenshot that show images."""
MIN_COLORED = 0.5
"""Share of the grid's pixels that the labels of a street scene change."""
_SECONDS = 120


def streets(data: Path, out: Path) -> ShardSet:
    """CamVid's class maps."""
    root = data / "camvid"
    labels = root / "labels.txt"
    source = open_semantic(root / "images", root / "annotations", labels, ignore=[11])
    report = convert(source, out / "streets", ConvertOptions(limit=40))
    assert report.published is not None
    return report.published


def objects(data: Path, out: Path) -> tuple[ShardSet, ShardSet]:
    """COCO's masks, and the ellipses of their boxes as predictions."""
    folder = data / "coco"
    annotations = folder / "annotations" / "instances_val2017.json"
    options = ConvertOptions(limit=30)
    sets = []
    for name, boxes_only in (("objects", False), ("boxes", True)):
        source = open_coco_instances(annotations, folder / "val2017", boxes_only=boxes_only)
        published = convert(source, out / name, options).published
        assert published is not None
        sets.append(published)
    layer, _ = pseudolabel(ShapeTeacher("ellipse"), sets[1], out / "ellipses")
    return sets[0], layer


class App:
    """The App of a dataset in a headless Chromium."""

    def __init__(self, browser: Any, name: str) -> None:
        self.page = browser.new_page(viewport=SIZE)
        self.url = f"http://127.0.0.1:{PORT}/datasets/{name}"

    def open(self, view: str = "") -> None:
        """Load the page, with a saved view, and wait for its count of samples."""
        self.page.goto(f"{self.url}{f'?view={view}' if view else ''}")
        self.page.wait_for_selector("text=/^\\d+ samples?$/", timeout=1000 * _SECONDS)
        advertisement = self.page.get_by_text("Dismiss")
        if advertisement.count():
            advertisement.first.click()

    def count(self) -> int:
        """The number of samples that the App shows."""
        return int(self.page.locator("text=/^\\d+ samples?$/").first.inner_text().split()[0])

    def picture(self, file: Path) -> np.ndarray[Any, Any]:
        """A screenshot as (H, W, 3) RGB, once all images and masks are drawn."""
        earlier = None
        for _ in range(_SECONDS // 3):
            self.page.wait_for_timeout(3000)
            self.page.screenshot(path=str(file))
            pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
            is_drawn = pixels[GRID].std() > 30  # the page without images is nearly black
            if is_drawn and earlier is not None and np.abs(pixels - earlier).mean() < 0.2:
                return pixels
            earlier = pixels
        raise SystemExit(f"{file}: the images of the App were not drawn in {_SECONDS} s")


def main() -> None:
    """Run the checks and print their results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("app-check"))
    default = os.environ.get("SEGKIT_REAL_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FIFTYONE_DATABASE_DIR", str(out / "mongo"))
    os.environ.setdefault("SEGKIT_CACHE", str(out / "cache"))
    from playwright.sync_api import sync_playwright

    fo = fiftyone()
    street_set, (truth, ellipses) = streets(arguments.data, out), objects(arguments.data, out)
    street_name = dataset.load(street_set).dataset
    loaded = dataset.load(truth, {"ellipse": ellipses})
    stored = fo.load_dataset(loaded.dataset)
    stored.save_view("first ten", stored.limit(10), overwrite=True)
    session = fo.launch_app(stored, remote=True, port=PORT, address="127.0.0.1")
    result: dict[str, Any] = {}
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=options)
        app = App(browser, street_name)
        app.open()
        labeled = app.picture(out / "streets.png")
        result["streets"] = app.count()
        hidden = fo.load_dataset(street_name)
        hidden.app_config.active_fields.paths = []
        hidden.save()
        app.open()
        plain = app.picture(out / "streets-plain.png")
        changed = float((np.abs(labeled - plain)[GRID].max(axis=-1) > 12).mean())
        result["share_of_pixels_with_labels"] = round(changed, 3)
        assert changed > MIN_COLORED, "the labels are not visible when the App opens"

        app = App(browser, loaded.dataset)
        app.open()
        result["objects"] = app.count()
        app.picture(out / "objects.png")
        app.open("first-ten")
        result["objects_in_a_view"] = app.count()
        assert (result["objects"], result["objects_in_a_view"]) == (len(truth), 10)
        browser.close()
    session.close()

    sample = stored.first()
    sample.tags.append("blurred")
    sample.save()
    dataset.load(truth, {"ellipse": ellipses})
    stored.reload()
    assert "blurred" in stored.first().tags, "a second load deletes the tags"
    tags = review.read_tags(loaded.dataset, truth)
    layer = review.write_back(truth, out / "reviewed", tags, {"blurred": "drop"}, {})
    result["images_after_review"] = len(layer)
    assert len(layer) == len(truth) - 1
    print(json.dumps(result))


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
