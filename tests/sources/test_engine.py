import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import SegkitError, UnchangedWarning
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.sources import engine, plan
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import CocoPanoptic, open_coco_panoptic
from segkit.sources.engine import ConvertOptions, check, convert
from segkit.sources.ledger import MAX_DEFECTS, Tally
from segkit.sources.quarantine import QUARANTINE
from segkit.sources.source import Record

from .builders import coco_instances, coco_panoptic, write_json

SMALL = ConvertOptions(name="toy", workers=1, shard_bytes=2000)


"""About three images of the builders a shard."""


def opened(root: Path) -> Any:
    return open_coco_panoptic(root / "panoptic.json", root / "images")


def run(root: Path, out: str, options: ConvertOptions = SMALL) -> Any:
    return convert(opened(root), root / out, options, arguments={})


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(path.iterdir())}


def test_the_set_contains_what_was_read(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 7)
    report = run(tmp_path, "out")
    published = ShardSet.open(tmp_path / "out")
    assert len(published.manifest.parts) > 1
    assert published.manifest.ledger == report.ledger
    assert [sample.id for sample in published.samples()] == [str(n) for n in range(7)]
    for number, sample in enumerate(published.samples()):
        assert (
            published.image_bytes(sample) == (tmp_path / "images" / f"p{number}.jpg").read_bytes()
        )
        assert sample.image.tar is not None
    assert published.manifest.source_header["info"] == {"year": 1}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 12)
    single = run(tmp_path, "one").published
    three = run(tmp_path, "three", replace(SMALL, workers=3)).published
    assert contents(single.path) == contents(three.path)
    assert single.manifest.digest == three.manifest.digest


@pytest.mark.parametrize("workers", [1, 2])
def test_records_are_read_only_a_few_shards_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    coco_panoptic(tmp_path, 40)
    options = replace(SMALL, images_by="none", workers=workers)
    monkeypatch.setattr(plan, "SHARD_ROWS", 2)
    source, records, read, ahead, done = opened(tmp_path), CocoPanoptic.records, [], [], [0]

    def counted(self: CocoPanoptic, tally: Tally) -> Iterator[Record]:
        for record in records(self, tally):
            read.append(record.id)
            yield record

    def progress(images: int) -> None:
        done[0] += images
        ahead.append(len(read) - done[0])

    monkeypatch.setattr(CocoPanoptic, "records", counted)
    convert(source, tmp_path / "out", options, arguments={}, on_progress=progress)
    assert done == [40]
    assert max(ahead) <= 2 * (workers + 3)


def test_a_second_run_gives_the_next_version_with_the_same_digest(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 2)
    forced = replace(SMALL, force=True)
    first, second = run(tmp_path, "out").published, run(tmp_path, "out", forced).published
    assert (first.version, second.version) == (1, 2)
    assert first.manifest.digest == second.manifest.digest


def test_a_second_run_without_a_change_publishes_nothing(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 2)
    run(tmp_path, "out")
    with pytest.warns(UnchangedWarning, match="nothing changed since .*/v1, so no new version"):
        assert run(tmp_path, "out").published.version == 1
    renamed = replace(SMALL, name="another")
    assert run(tmp_path, "out", renamed).published.version == 2


def test_a_defect_fails_and_publishes_nothing_then_the_fixed_source_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path, 9)
    data = (tmp_path / "images" / "p4.jpg").read_bytes()
    (tmp_path / "images" / "p4.jpg").write_bytes(data[:-50])
    with pytest.raises(
        engine.DefectsError, match=r"p4\.jpg: image 4: .*\[unreadable-image\]"
    ) as error:
        run(tmp_path, "out")
    assert error.value.exit_code == 2
    assert not list((tmp_path / "out").glob("v*"))
    (tmp_path / "images" / "p4.jpg").write_bytes(data)
    written = count_written(monkeypatch)
    resumed = run(tmp_path, "out").published
    assert 0 < len(written) < len(resumed.manifest.parts)
    assert resumed.manifest.digest == run(tmp_path, "fresh/out").published.manifest.digest
    assert contents(resumed.path) == contents(ShardSet.open(tmp_path / "fresh" / "out").path)


def count_written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    written: list[int] = []
    original = engine.shards.write_shard

    def write_shard(directory: Path, index: int, *args: Any, **named: Any) -> Any:
        written.append(index)
        return original(directory, index, *args, **named)

    monkeypatch.setattr(engine.shards, "write_shard", write_shard)
    return written


def test_skip_quarantines_and_accounts_for_everything(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path, 6)
    (tmp_path / "images" / "p1.jpg").unlink()
    data["annotations"][3]["segments_info"][0]["category_id"] = 99
    data["annotations"].append({**data["annotations"][0], "image_id": "nobody"})
    write_json(tmp_path / "panoptic.json", data)
    published = run(tmp_path, "out", replace(SMALL, on_error="skip")).published
    ledger = published.manifest.ledger
    assert ledger.images.model_dump() == {
        "input": 6,
        "kept": 5,
        "dropped": {"missing-image": 1},
        "warnings": {},
    }
    assert ledger.annotations.input == 21
    assert ledger.annotations.kept == 14 == published.manifest.statistics.segments
    assert ledger.annotations.dropped == {
        "missing-image": 3,
        "unknown-category": 1,
        "unknown-image": 3,
    }
    lines = [json.loads(line) for line in (published.path / QUARANTINE).read_text().splitlines()]
    assert [line["code"] for line in lines] == [
        "unknown-image",
        "missing-image",
        "unknown-category",
    ]
    assert lines[2].keys() == {"code", "message", "file", "record", "class_name", "data"}
    assert lines[2]["data"]["category_id"] == 99
    assert lines[2]["file"].endswith("panoptic.json")


def test_a_clean_set_has_no_quarantine(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 1)
    assert QUARANTINE not in contents(run(tmp_path, "out").published.path)


def test_a_dry_run_reports_the_same_and_writes_nothing(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 5)
    (tmp_path / "images" / "p1.jpg").unlink()
    before = sorted(tmp_path.rglob("*"))
    report = check(opened(tmp_path), SMALL)
    assert sorted(tmp_path.rglob("*")) == before
    assert report.published is None
    assert report.ledger == run(tmp_path, "out", replace(SMALL, on_error="skip")).ledger


@pytest.mark.parametrize(
    "act", [lambda s, r: convert(s, r / "out", SMALL, arguments={}), lambda s, r: check(s, SMALL)]
)
def test_a_source_that_loses_an_annotation_silently_is_caught(
    tmp_path: Path, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path, 3)
    source = opened(tmp_path)
    original = type(source).sample

    def forgetful(*args: Any) -> Any:
        sample = original(*args)
        return replace(sample, segments=sample.segments[1:])

    monkeypatch.setattr(type(source), "sample", forgetful)
    with pytest.raises(SegkitError, match="does not balance"):
        act(source, tmp_path)
    assert not list(tmp_path.glob("out/v*"))


def test_reference_points_at_files_and_none_opens_none(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 2)
    referenced = run(tmp_path, "reference", replace(SMALL, images_by="reference")).published
    embedded = run(tmp_path, "embed").published
    assert not list(referenced.path.glob("*.tar"))
    for by_path, by_tar in zip(referenced.samples(), embedded.samples(), strict=True):
        assert by_path.image.sha256 == by_tar.image.sha256
        assert referenced.image_bytes(by_path) == embedded.image_bytes(by_tar)
        assert by_path.segments == by_tar.segments
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    bare = run(tmp_path, "none", replace(SMALL, images_by="none")).published
    assert [s.segments for s in bare.samples()] == [s.segments for s in embedded.samples()]
    assert all(s.image.path is s.image.tar is None for s in bare.samples())


def test_limit_takes_the_first_images(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 5)
    report = run(tmp_path, "out", replace(SMALL, limit=2))
    assert [s.id for s in report.published.samples()] == ["0", "1"]
    assert report.ledger.annotations.input == 6


def test_an_empty_source_gives_an_empty_version(tmp_path: Path) -> None:
    source = open_coco_instances(coco_instances(tmp_path, [], images=0), tmp_path)
    report = convert(source, tmp_path / "out", SMALL, arguments={})
    assert len(report.published) == 0
    assert report.ledger.images.input == 0


def test_two_runs_into_one_destination_exclude_each_other(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 1)
    with (
        staging(tmp_path / "out", {}, inputs=(), resume=False),
        pytest.raises(SegkitError, match="another process is writing here"),
    ):
        run(tmp_path, "out")


def test_a_changed_annotation_makes_the_shard_of_its_image_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-written version of other input must not leak into the next."""
    data = coco_panoptic(tmp_path, 9)
    (tmp_path / "images" / "p8.jpg").rename(tmp_path / "away.jpg")
    with pytest.raises(engine.DefectsError):
        run(tmp_path, "out")
    (tmp_path / "away.jpg").rename(tmp_path / "images" / "p8.jpg")
    data["annotations"][0]["segments_info"][0]["iscrowd"] = 0
    write_json(tmp_path / "panoptic.json", data)
    written = count_written(monkeypatch)
    report = run(tmp_path, "out")
    last = len(report.published.manifest.parts) - 1
    assert written == [0, last] and last > 1
    assert report.resumed.endswith(" and 1 made anew: 1 of other images or annotations")
    assert not report.published.sample(0).segments[0].is_crowd


def test_the_quarantine_holds_every_loss_in_order_for_any_number_of_workers(tmp_path: Path) -> None:
    """Annotations of unknown images come first, then the defects of each shard."""
    bad = [
        {"image_id": number % 6, "category_id": 99, "bbox": [1, 1, 2, 2]} for number in range(60)
    ]
    stray = [{"image_id": 77, "bbox": [1, 1, 2, 2]} for _ in range(MAX_DEFECTS)]
    path = coco_instances(tmp_path, [*bad, *stray], images=6)
    texts = []
    for workers in (1, 2):
        options = ConvertOptions(workers=workers, shard_bytes=1, on_error="skip")
        report = convert(
            open_coco_instances(path, tmp_path / "images"), tmp_path / "out", options, arguments={}
        )
        assert (len(report.defects), report.offenders) == (MAX_DEFECTS, MAX_DEFECTS + 60)
        texts.append((report.published.path / "quarantine.jsonl").read_text())
        assert sorted(p.name for p in report.published.path.glob("quar*")) == ["quarantine.jsonl"]
    lines = [json.loads(line) for line in texts[0].splitlines()]
    assert [line["data"]["id"] for line in lines[:MAX_DEFECTS]] == list(range(61, 61 + MAX_DEFECTS))
    assert [line["data"]["image_id"] for line in lines[MAX_DEFECTS:]] == sorted(
        number % 6 for number in range(60)
    )
    assert texts[0] == texts[1]
