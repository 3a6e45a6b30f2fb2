"""A resumed conversion gives what a fresh one of the same source gives, whatever changed since."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import SegkitError
from segkit.shards.validate import validate
from segkit.sources import engine
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConversionReport, ConvertOptions, DefectsError, convert

from .builders import coco_panoptic, id_png, label_map, picture, write_json

SMALL = ConvertOptions(workers=1, shard_bytes=4000)
SKIP = replace(SMALL, on_error="skip")


def dataset(root: Path, count: int, seed: int = 0) -> list[int]:
    """A COCO instances file of images of different sizes in bytes; returns their ids."""
    rng = random.Random(seed)
    for number in range(count):
        picture(root / "images" / f"{number}.jpg", seed=number, quality=rng.randint(20, 95))
    write_annotations(root, list(range(count)))
    return list(range(count))


def write_annotations(root: Path, ids: list[int], boxes: dict[int, int] | None = None) -> None:
    """A box for each image; `boxes` gives the width of some."""
    widths = boxes or {}
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 32, "height": 24} for i in ids],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 3, "bbox": [1, 2, widths.get(i, 8), 8]}
            for i in ids
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    write_json(root / "instances.json", data)


def run(root: Path, out: str = "out", options: ConvertOptions = SMALL) -> ConversionReport:
    source = open_coco_instances(root / "instances.json", root / "images")
    return convert(source, root / out, options, arguments={})


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(path.iterdir())}


def as_fresh(root: Path, report: ConversionReport, options: ConvertOptions = SMALL) -> bool:
    """Whether a resumed run has published, byte for byte, what a fresh run does."""
    assert report.published is not None
    assert list(validate(report.published.path)) == []
    fresh = run(root, "fresh/out", options).published
    assert fresh is not None
    return contents(report.published.path) == contents(fresh.path)


def interrupt(root: Path, act: Callable[[], Any] | None = None) -> None:
    """Run a conversion until it would publish."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(engine, "finish", stop)
        (act or (lambda: run(root, options=SKIP)))()


def stop(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("seed", range(4))
def test_a_missing_image_that_is_put_there_costs_no_other_image(tmp_path: Path, seed: int) -> None:
    """Shards are planned by the bytes of their images, so all later ones may be others."""
    ids = dataset(tmp_path, 40, seed)
    name = f"{random.Random(seed).choice(ids)}.jpg"
    (tmp_path / "images" / name).rename(tmp_path / "away.jpg")
    with pytest.raises(DefectsError, match=r"\[missing-image\]"):
        run(tmp_path)
    (tmp_path / "away.jpg").rename(tmp_path / "images" / name)
    report = run(tmp_path)
    assert report.ledger.images.model_dump(include={"input", "kept"}) == {"input": 40, "kept": 40}
    assert as_fresh(tmp_path, report)


@pytest.mark.parametrize("quality", [10, 98])
def test_images_that_are_compressed_again_are_neither_lost_nor_doubled(
    tmp_path: Path, quality: int
) -> None:
    ids = dataset(tmp_path, 40)
    interrupt(tmp_path)
    for number in random.Random(0).sample(ids, 20):
        picture(tmp_path / "images" / f"{number}.jpg", seed=number, quality=quality)
    report = run(tmp_path, options=SKIP)
    assert report.ledger.images.kept == 40
    assert str(report.resumed).endswith("of other images or annotations")
    assert as_fresh(tmp_path, report, SKIP)


def test_images_that_have_arrived_since_are_converted(tmp_path: Path) -> None:
    dataset(tmp_path, 20)
    (tmp_path / "images" / "19.jpg").rename(tmp_path / "away.jpg")
    interrupt(tmp_path)
    (tmp_path / "away.jpg").rename(tmp_path / "images" / "19.jpg")
    report = run(tmp_path, options=SKIP)
    assert report.ledger.images.dropped == {}
    assert as_fresh(tmp_path, report, SKIP)


def test_masks_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 12)
    source = open_coco_panoptic(tmp_path / "panoptic.json", tmp_path / "images")
    interrupt(tmp_path, lambda: convert(source, tmp_path / "out", SMALL))
    for number in (0, 11):
        id_png(tmp_path / "panoptic" / f"p{number}.png", label_map(number + 100))
    published = convert(source, tmp_path / "out", SMALL).published
    fresh = convert(source, tmp_path / "fresh" / "out", SMALL).published
    assert published is not None and fresh is not None
    assert contents(published.path) == contents(fresh.path)


def test_only_what_changed_is_made_anew_and_the_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path, 30)
    interrupt(tmp_path)
    data = (tmp_path / "images" / "0.jpg").read_bytes()
    (tmp_path / "images" / "0.jpg").write_bytes(data)  # the same bytes again
    written: list[int] = []
    write = engine.shards.write_shard
    monkeypatch.setattr(
        engine.shards, "write_shard", lambda *a, **k: [written.append(a[1]), write(*a, **k)][1]
    )
    report = run(tmp_path, options=SKIP)
    assert report.published is not None
    total = len(report.published.manifest.parts)
    assert written == [0]
    assert report.resumed == (
        f"of the {total} finished shards of an interrupted run, {total - 1} were used and "
        f"1 made anew: 1 of changed files ({tmp_path}/images/0.jpg ...)"
    )
    assert as_fresh(tmp_path, report, SKIP)


def replace_and_keep_size_and_time(path: Path) -> None:
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_link(path: Path) -> None:
    target = path.parent.parent / "outside.jpg"
    path.rename(target)
    path.symlink_to(target)


def exchange(path: Path) -> None:
    other = path.with_name("29.jpg")
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def move_folder_behind_a_link(path: Path) -> None:
    path.parent.rename(path.parents[1] / "moved")
    path.parent.symlink_to(path.parents[1] / "moved")


@pytest.mark.parametrize(
    "change",
    [
        replace_and_keep_size_and_time,
        replace_by_link,
        exchange,
        move_folder_behind_a_link,
        Path.unlink,
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_replaced_file_is_read_again(tmp_path: Path, change: Callable[[Path], None]) -> None:
    dataset(tmp_path, 30)
    interrupt(tmp_path)
    change(tmp_path / "images" / "3.jpg")
    assert as_fresh(tmp_path, run(tmp_path, options=SKIP), SKIP)


def test_another_folder_of_images_is_not_mixed_with_the_first(tmp_path: Path) -> None:
    dataset(tmp_path, 12)
    interrupt(tmp_path)
    (tmp_path / "images").rename(tmp_path / "first")
    for number in range(12):
        picture(tmp_path / "images" / f"{number}.jpg", seed=number + 50)
    assert as_fresh(tmp_path, run(tmp_path))


def test_skipping_defects_after_a_failure_uses_the_good_shards(tmp_path: Path) -> None:
    dataset(tmp_path, 30)
    (tmp_path / "images" / "29.jpg").unlink()
    with pytest.raises(DefectsError):
        run(tmp_path)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob(".v1.*/*.parquet")}
    report = run(tmp_path, options=SKIP)
    assert report.published is not None and report.resumed is None
    after = {path.name: path.stat().st_ino for path in report.published.path.glob("*.parquet")}
    assert before.items() < after.items()
    assert as_fresh(tmp_path, report, SKIP)


def test_failing_on_defects_after_skipping_them_fails(tmp_path: Path) -> None:
    dataset(tmp_path, 30)
    (tmp_path / "images" / "2.jpg").unlink()
    interrupt(tmp_path)
    for _ in range(2):
        with pytest.raises(DefectsError, match=r"2\.jpg: image 2: .*\[missing-image\]"):
            run(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        replace(SKIP, limit=7),
        replace(SKIP, shard_bytes=9000),
        replace(SKIP, images_by="reference"),
        replace(SKIP, images_by="none"),
    ],
)
def test_other_options_give_what_a_fresh_run_gives(tmp_path: Path, options: ConvertOptions) -> None:
    dataset(tmp_path, 20)
    interrupt(tmp_path)
    assert as_fresh(tmp_path, run(tmp_path, options=options), options)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def take_from_the_next_shard(path: Path) -> None:
    shutil.copyfile(path.with_name(path.name.replace("0001", "0002")), path)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        zero,
        take_from_the_next_shard,
        Path.unlink,
        lambda path: path.write_bytes(b'{"part": 3}'),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.write_bytes(b""),
    ],
)
@pytest.mark.parametrize("name", ["labels-00001.parquet", "images-00001.tar", "shard-00001.json"])
def test_what_a_killed_run_left_damaged_is_made_anew(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    dataset(tmp_path, 12)
    interrupt(tmp_path)
    damage(tmp_path / "out" / ".v1.partial" / name)
    report = run(tmp_path, options=SKIP)
    if not (damage is Path.unlink and name.startswith("labels")):  # else it is unfinished
        assert "1 made anew: 1 of damaged files" in str(report.resumed)
    assert as_fresh(tmp_path, report, SKIP)


def test_the_log_of_a_shard_is_protected_too(tmp_path: Path) -> None:
    dataset(tmp_path, 12)
    (tmp_path / "images" / "0.jpg").unlink()
    interrupt(tmp_path)
    (log,) = (p for p in (tmp_path / "out").glob(".v1.*/quarantine-*") if p.stat().st_size)
    log.write_text("")
    assert as_fresh(tmp_path, run(tmp_path, options=SKIP), SKIP)


def test_shards_without_a_fingerprint_are_made_anew_and_it_is_said(tmp_path: Path) -> None:
    dataset(tmp_path, 12)
    interrupt(tmp_path)
    (tmp_path / "out" / ".v1.partial" / "fingerprint.json").write_text("")
    report = run(tmp_path, options=SKIP)
    assert str(report.resumed).startswith("the finished shards of an interrupted run were made")
    assert run(tmp_path, "other").resumed is None
    assert as_fresh(tmp_path, report, SKIP)


def test_other_files_in_the_unfinished_version_are_not_published(tmp_path: Path) -> None:
    dataset(tmp_path, 12)
    interrupt(tmp_path)
    unfinished = tmp_path / "out" / ".v1.partial"
    (unfinished / "labels-00099.parquet").write_bytes(b"of another plan")
    (unfinished / "quarantine.jsonl").write_text("of a killed run")
    (unfinished / "notes").mkdir()
    (unfinished / "notes" / "mine.txt").write_text("a file of the user")
    assert as_fresh(tmp_path, run(tmp_path, options=SKIP), SKIP)


def test_a_shard_with_other_images_than_planned_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The equation of the images holds for the published rows, not only for counts."""
    dataset(tmp_path, 12)
    samples = engine.Conversion._samples

    def doubled(*arguments: Any) -> Any:
        rows = list(samples(*arguments))
        return iter([rows[0], *rows[:-1]])  # one image twice, another one lost

    monkeypatch.setattr(engine.Conversion, "_samples", doubled)
    with pytest.raises(SegkitError, match=r"other images than planned \(1 twice, 0 planned else"):
        run(tmp_path)
    assert not list((tmp_path / "out").glob("v*"))


def test_an_image_that_the_shards_lose_is_an_equation_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path, 12)
    convert_shard = engine.Conversion.convert_shard

    def forgetful(conversion: Any, index: int, records: Any) -> Any:
        return convert_shard(conversion, index, records[: len(records) - (index == 1)])

    monkeypatch.setattr(engine.Conversion, "convert_shard", forgetful)
    sums = r"12 planned, 11 in, 11 kept, 0 dropped"
    with pytest.raises(SegkitError, match=f"does not balance for images: {sums}"):
        run(tmp_path)
    assert not list((tmp_path / "out").glob("v*"))


def test_images_of_finished_shards_are_not_counted_as_converted_now(tmp_path: Path) -> None:
    ids = dataset(tmp_path, 12)
    interrupt(tmp_path)
    write_annotations(tmp_path, ids, {0: 9})
    source = open_coco_instances(tmp_path / "instances.json", tmp_path / "images")
    converted: list[int] = []
    resumed: list[int] = []
    convert(source, tmp_path / "out", SMALL, on_progress=converted.append, on_resume=resumed.append)
    assert len(converted) == 1 < len(resumed), "one shard holds the changed annotation"
    assert sum(converted) + sum(resumed) == len(ids)
