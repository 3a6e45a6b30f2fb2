import base64
import io
import itertools
import re
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segkit.masks import rle
from segkit.metrics.evaluate import evaluate
from segkit.metrics.output import origin
from segkit.metrics.predictions import as_predictions
from segkit.metrics.task_metrics import EvalOptions
from segkit.report import figures, sections
from segkit.report.build import report
from segkit.report.gallery import GalleryImage, data_uri, draw_image
from segkit.report.page import fragment, plain_table
from segkit.shards.header import Header
from segkit.shards.writer import write_layer, write_set
from segkit.taxonomy import Category, Taxonomy
from tests.metrics.files import sets, shard_set
from tests.metrics.scenes import panopticapi, sample, taxonomy

VOID = {"meta", "link", "img", "rect", "line", "polyline", "circle", "br"}


class Balance(HTMLParser):
    """Fails on tags that are not closed in order; collects addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def page_of(folder, task, label=str):
    """Build the page of a task, with class names changed by `label`: page, result, evaluation."""
    truth, predictions = sets(folder, images=6, kind=task)
    names = replace(
        taxonomy(), categories=tuple(replace(c, name=label(c.name)) for c in taxonomy().categories)
    )
    truth, predictions = (
        shard_set(folder / f"{s.manifest.name}-named", list(s.samples()), names, task)
        for s in (truth, predictions)
    )
    source = as_predictions(predictions, truth)
    options = EvalOptions(detections=True, boundary=task != "semantic", tide=True)
    evaluation = evaluate(truth, source, task, options)
    result = {
        "task": task,
        "data": origin(truth),
        "predictions": origin(predictions),
        **evaluation.metrics,
    }
    return report(result, evaluation, truth, source), result, evaluation


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_the_report_is_one_file_that_loads_nothing(tmp_path, task):
    page, result, evaluation = page_of(tmp_path, task)
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert parser.addresses and all(address.startswith("data:") for address in parser.addresses)
    assert "http" not in page and "@import" not in page and "url(" not in page
    headline = {
        "panoptic": lambda: result["all"]["pq"],
        "semantic": lambda: result["miou"],
        "instance": lambda: result["ap"],
    }
    assert f"<b>{headline[task]():.1f}</b>" in page
    columns = [int(n) for n in re.findall(r"<title>\d\.\d\d-\d\.\d\d: (\d+)</title>", page)]
    counted = {
        "panoptic": lambda: sum(row["tp"] for row in result["per_class"].values()),
        "semantic": lambda: np.count_nonzero(~np.isnan(evaluation.image_scores()[0])),
        "instance": lambda: len(evaluation.detections.rows.object_iou),
    }
    assert len(columns) == 25 and sum(columns) == counted[task](), "the histogram shows every IoU"
    assert all(
        f">{name}<" in page
        for name, value in result["per_class"].items()
        if value not in (None, {})
    )


def test_names_are_escaped(tmp_path):
    names = taxonomy()
    odd = replace(
        names, categories=tuple(replace(c, name=f"<b>{c.name}&</b>") for c in names.categories)
    )
    truth, predictions = sets(tmp_path)
    renamed = write_set(
        tmp_path / "odd",
        ((s, None) for s in truth.samples()),
        Header(taxonomy=odd, kind="panoptic", name="<script>", command="test", images_by="none"),
    )
    layer = write_layer(
        tmp_path / "odd-predictions",
        renamed,
        predictions.samples(),
        Header.from_set(renamed, "test"),
    )
    source = as_predictions(layer, renamed)
    evaluation = evaluate(renamed, source, "panoptic")
    result = {"data": origin(renamed), "predictions": origin(layer), **evaluation.metrics}
    page = report(result, evaluation, renamed, source)
    assert "<script>" not in page and "&lt;b&gt;class 0&amp;&lt;/b&gt;" in page


@pytest.mark.parametrize("part", ["table", "bars", "gallery", "scatter", "histogram", "matrix"])
def test_every_part_escapes_markup_and_control_characters(part):
    hostile = "<script>\x1b\u202e'\""
    image = GalleryImage(hostile, "data:,", "data:,")
    shares = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    html = {
        "table": lambda: plain_table((hostile, hostile), [(hostile, hostile)]),
        "bars": lambda: figures.bars([(hostile, 50.0, hostile)], unit=hostile),
        "gallery": lambda: fragment("gallery", groups=[("Worst", [image])]),
        "scatter": lambda: figures.scatter([figures.ClassPoint(hostile, 80.0, 60.0, 3)]),
        "histogram": lambda: figures.histogram(np.array([0.2, 0.4]), 0.0, 1.0, 5, hostile),
        "matrix": lambda: figures.matrix([hostile, hostile], shares),
    }[part]()
    assert "&lt;script&gt;" in html and "&#34;" in html
    assert not re.search("<script|\x1b|\u202e|'\"", html)
    parser = Balance()
    parser.feed(html)
    assert not parser.open


@pytest.mark.parametrize("seed", range(5))
def test_names_in_the_scatter_plot_lie_inside_and_collide_with_none(seed):
    rng = np.random.default_rng(seed)
    points = [
        figures.ClassPoint(
            "iwWM猫"[number % 5] * int(rng.integers(1, 60)),
            float(rng.uniform(55, 100)),
            float(rng.uniform(0, 100)),
            number,
        )
        for number in range(120)
    ]
    pattern = r'<text class="(\w+)" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]*)<'
    boxes, named = [], 0
    for style, x, y, anchor, text in re.findall(pattern, figures.scatter(points)):
        width = 6.5 * sum(2 if c == "猫" else 1 for c in text)
        left = float(x) - {"start": 0, "middle": 0.5, "end": 1}[anchor] * width
        boxes.append((left, float(y), left + width, float(y) + 12))
        named += style == "name"
        assert style != "name" or (left >= 0 and left + width <= figures.WIDTH)
    assert named > 5
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_image_scores_equal_those_of_each_image_evaluated_separately(tmp_path):
    truth, predictions = sets(tmp_path, images=6)
    pairs = list(zip(truth.samples(), predictions.samples(), strict=True))
    scores, figure = evaluate(truth, predictions, "panoptic").image_scores()
    expected = [panopticapi([pair], truth.taxonomy)["all"] for pair in pairs]
    assert figure == "PQ"
    np.testing.assert_allclose(scores, [np.nan if pq is None else 100 * pq[0] for pq in expected])
    semantic = evaluate(*sets(tmp_path / "s", images=3, kind="semantic"), "semantic")
    for i, score in enumerate(semantic.image_scores()[0]):
        rows = semantic.semantic.rows
        ious = []
        for k in range(5):
            at = rows.image == i
            common = rows.pixels[at & (rows.true == k) & (rows.predicted == k)].sum()
            union = rows.pixels[at & ((rows.true == k) | (rows.predicted == k))].sum()
            ious += [common / union] if union else []
        assert score == pytest.approx(100 * np.mean(ious))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize(
    ("task", "width"), [("panoptic", 390), ("panoptic", 1200), ("semantic", 390), ("instance", 390)]
)
def test_a_browser_shows_it_without_errors_or_overflow(tmp_path, task, width):
    page, _, _ = page_of(
        tmp_path, task, lambda name: f"{name}: Fußgängerüberwege, <em>猫</em> & {60 * 'a'}"
    )
    check_in_browser(page, tmp_path, width, images=12)


def check_in_browser(page, tmp_path, width, *, images):
    """A frame of this width shows the page with its images, without errors or overflow."""
    probe = """<script>addEventListener('load', () => { const root = document.documentElement;
    document.title = [root.scrollWidth, innerWidth, document.images.length,
    [...document.images].filter(image => image.complete && !image.naturalWidth).length].join(' ')
    })</script>"""
    file = tmp_path / "report.html"
    file.write_text(page.replace("</body>", f"{probe}</body>"))
    # A headless window is at least 500 wide, so a frame shows the narrower page.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="report.html" width="{width}" height="900"></iframe>'
    )
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--allow-file-access-from-files",
    ]
    picture = tmp_path / "shot.png"
    run = [
        shutil.which("chromium"),
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000",
    ]
    title = """<script>addEventListener('load', () => setTimeout(() => {
    document.title = document.querySelector('iframe').contentDocument.title }, 500))</script>"""
    frame.write_text(frame.read_text() + title)
    dom = subprocess.run(
        [*run, "--dump-dom", f"file://{frame}"], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", dom.stdout)
    assert title, dom.stdout[:300]
    scroll, inner, shown, broken = map(int, title.groups())
    assert scroll <= inner == width and shown == images and broken == 0
    assert "CONSOLE" not in dom.stderr
    shot = [*run, f"--screenshot={picture}", "--window-size=1200,2000", f"file://{file}"]
    subprocess.run(shot, capture_output=True, timeout=120)
    assert picture.stat().st_size > 20_000


def test_the_confusion_matrix_shows_the_classes_that_are_there(tmp_path):
    names = Taxonomy(
        "three", tuple(Category(i, n, "stuff") for i, n in enumerate(["absent", "road", "sky"]))
    )
    ids = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2, 2]])
    truth = shard_set(tmp_path / "truth", [sample(ids, {1: 1, 2: 2}, names)], names, "semantic")
    wrong = np.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2]])
    answer = shard_set(tmp_path / "answer", [sample(wrong, {1: 1, 2: 2}, names)], names, "semantic")
    section = sections._confusion_matrix(evaluate(truth, answer, "semantic"))
    assert "absent" not in section.body
    assert "road" in section.body and "sky" in section.body


@pytest.mark.parametrize(
    ("height", "width", "scaled"),
    [(66_000, 2, (1, 960)), (2, 66_000, (480, 1)), (640, 480, (480, 640)), (3000, 900, (288, 960))],
)
def test_pictures_of_the_gallery_are_bounded_on_both_sides(height, width, scaled):
    picture = np.full((height, width, 3), 128, np.uint8)
    content = base64.b64decode(data_uri(picture).removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == scaled


def test_a_large_image_of_the_gallery_is_painted_in_little_memory(tmp_path):
    truth, predictions = sets(tmp_path, images=1, kind="panoptic")
    side = 3000
    large = replace(truth.sample(0), height=side, width=side)
    mask = np.zeros((side, side), bool)
    mask[500:2500, 500:2500] = True
    segment = replace(large.segments[0], mask=rle.encode(mask), area=float(mask.sum()))
    large = replace(large, segments=(segment,))
    truth, predictions = (
        shard_set(tmp_path / name, [large], taxonomy(), "panoptic") for name in ("large", "guess")
    )
    source = as_predictions(predictions, truth)
    every = truth.taxonomy.by_id
    tracemalloc.start()
    try:
        drawn = draw_image(truth, source, 0, "large", class_ids=every, min_score=0.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * side * side  # bytes; a canvas of the full size takes 12 a pixel
    content = base64.b64decode(drawn.truth.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (480, 480)
