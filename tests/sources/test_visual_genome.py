"""Visual Genome's objects.json and image_data.json, from their public description."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.visual_genome import open_visual_genome

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples, write_json


def thing(number: int, synset: str | None, *box: float, **more: Any) -> dict[str, Any]:
    x, y, w, h = box or (1, 2, 5, 6)
    names = [] if synset is None else [synset.partition(".")[0]]
    row = {"object_id": number, "x": x, "y": y, "w": w, "h": h, "names": names}
    return {**row, "synsets": [] if synset is None else [synset], "merged_object_ids": [], **more}


def listing(number: int, *objects: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": number, "objects": list(objects), **more}


def genome(root: Path, *images: Any, data: Any = None, **options: Any) -> Any:
    """Open a set whose images 1 and 2 are in the folders of the two archives."""
    picture(root / "VG_100K" / "1.jpg", seed=1)
    picture(root / "VG_100K_2" / "2.jpg", seed=2)
    if data is not None:
        options["image_data"] = write_json(root / "image_data.json", data)
    return open_visual_genome(write_json(root / "objects.json", images), root, **options)


def written(root: Path) -> Path:
    """An objects.json of one object, and its image."""
    genome(root, listing(1, thing(1, "car.n.01")))
    return root / "objects.json"


def synset_of(shards: ShardSet, class_id: int) -> str:
    """The synset of a class; exports to COCO write it as the name."""
    category = shards.taxonomy.by_id[class_id]
    return category.source_name or category.name


def facts(number: int, **more: Any) -> dict[str, Any]:
    url = f"https://cs.stanford.edu/people/rak248/VG_100K{'_2' if number == 2 else ''}/{number}.jpg"
    return {"image_id": number, "width": WIDTH, "height": HEIGHT, "url": url, **more}


def test_the_most_frequent_synsets_become_classes(tmp_path: Path) -> None:
    car, crane, bird = "car.n.01", "crane.n.04", "crane.n.05"
    source = genome(
        tmp_path,
        listing(1, thing(1, car), thing(2, car), thing(3, bird), thing(4, "fire_hydrant.n.01")),
        listing(2, thing(5, bird), thing(6, crane), thing(7, "tree.n.01"), thing(8, None)),
        classes=4,
    )
    # ties in alphabetical order; a lemma that two classes share is told apart by its synset
    assert source.taxonomy.names == ("car", bird, crane, "fire hydrant")
    assert [c.text for c in source.taxonomy.categories][1:3] == [("crane",), ("crane",)]
    assert [c.source_name for c in source.taxonomy.categories] == [
        car,
        None,
        None,
        "fire_hydrant.n.01",
    ]
    report = dry_run(source)
    assert codes(report) == {"rare-class": 1, "no-synset": 1}
    assert report.ledger.annotations.model_dump()["kept"] == 6
    assert report.ledger.per_class["tree.n.01"].dropped == {"rare-class": 1}
    assert report.ledger.per_class["(no label)"].dropped == {"no-synset": 1}
    assert not report.defects  # nobody can fix them
    (note,) = source.notes
    assert note.startswith("the 4 most frequent of 5 synsets hold 6 of 7 objects")


def test_boxes_sizes_and_names_are_those_of_the_files(tmp_path: Path) -> None:
    source = genome(
        tmp_path,
        listing(1, thing(11, "car.n.01", 1, 2, 5, 6), thing(12, "car.n.01", -1, 0, WIDTH + 5, 3)),
        listing(2, thing(13, "dog.n.01", 0.5, 1, 2, 3, synsets=["dog.n.01", "cat.n.01"])),
        data=[facts(1), facts(2), facts(3)],
    )
    first, second = samples(source)
    assert (first.id, first.file_name, second.file_name) == (
        "1",
        "VG_100K/1.jpg",
        "VG_100K_2/2.jpg",
    )
    assert (first.width, first.height, first.exhaustive) == (WIDTH, HEIGHT, False)
    assert [s.box for s in first.segments] == [(1, 2, 5, 6), (-1, 0, WIDTH + 5, 3)]
    assert [s.source_id for s in first.segments] == ["11", "12"]
    assert all(s.mask is None and s.mask_from is None for s in first.segments)
    assert source.taxonomy.by_id[second.segments[0].class_id].name == "dog"
    report = dry_run(source)
    assert report.ledger.annotations.warnings == {"box-beyond-image": 1}
    assert report.ledger.images.kept == 2


def test_without_image_data_the_images_state_their_sizes(tmp_path: Path) -> None:
    source = genome(tmp_path, listing(2, thing(1, "car.n.01")), listing(1, thing(2, "car.n.01")))
    convert(source, tmp_path / "set", ConvertOptions(workers=1))
    shards = ShardSet.open(tmp_path / "set")
    assert (shards.manifest.kind, shards.manifest.name) == ("boxes", "set")
    assert [(s.id, s.width, s.height) for s in shards.samples()] == [
        ("2", WIDTH, HEIGHT),
        ("1", WIDTH, HEIGHT),
    ]
    wrong = genome(tmp_path, listing(1, thing(1, "car.n.01")), data=[facts(1, width=WIDTH + 1)])
    assert codes(dry_run(wrong, on_error="skip")) == {"size-mismatch": 1}


def test_defects_are_counted_and_named(tmp_path: Path) -> None:
    source = genome(
        tmp_path,
        listing(
            1,
            thing(1, "car.n.01"),
            thing(2, "car.n.01", 1, 1, 0, 5),
            thing(3, "car.n.01", 1, 1, float("nan"), 5),
            thing(4, "car.n.01", w="5"),
            thing(5, "car.n.01", w=10**400),
            thing(6, "car.n.01", w=True),
            "car",
        ),
        listing(1, thing(7, "car.n.01")),
        {"image_id": 2, "objects": None},
        {"objects": [thing(8, "car.n.01")]},
        listing(9, thing(9, "car.n.01")),
    )
    report = dry_run(source, on_error="skip")
    assert report.ledger.annotations.dropped == {
        "degenerate-box": 1,
        "malformed-annotation": 5,
        "duplicate-id": 1,
        "malformed-image": 1,
        "missing-image": 1,
    }
    assert report.ledger.images.dropped == {
        "duplicate-id": 1,
        "malformed-image": 2,
        "missing-image": 1,
    }
    report.ledger.check()
    with pytest.raises(InputError, match=r"another image has the same name.*and 9 more defects"):
        convert(source, tmp_path / "set", ConvertOptions(workers=1))
    assert not (tmp_path / "set" / "v1").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "none of its objects has a synset"),
        ([{"image_id": 1, "objects": [{"synsets": []}]}], "none of its objects has a synset"),
        ([1], r"\[0\]: has no image_id and objects"),
        ({"objects": []}, "is not a JSON list"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    file = write_json(tmp_path / "objects.json", content)
    with pytest.raises(InputError, match=message):
        open_visual_genome(file, tmp_path)


@pytest.mark.parametrize(
    "entry", [1, {}, facts(1, width=0), facts(1, url=None), facts(1, width=1.5)]
)
def test_wrong_image_data_is_refused_before_any_work(tmp_path: Path, entry: Any) -> None:
    with pytest.raises(InputError, match=r"image_data.json: \[1\]: an image without image_id"):
        genome(tmp_path, listing(1, thing(1, "car.n.01")), data=[facts(1), entry])


@pytest.mark.parametrize(
    "url", ["../../etc/passwd", "/etc/passwd", "https://host/", "\\\\a\\..\\b.jpg"]
)
def test_no_address_leads_out_of_the_folder(tmp_path: Path, url: str) -> None:
    source = genome(tmp_path, listing(1, thing(1, "car.n.01")), data=[facts(1, url=url)])
    ledger = dry_run(source, on_error="skip").ledger
    assert ledger.images.kept + sum(ledger.images.dropped.values()) == 1
    assert not {"unreadable-image"} & ledger.images.dropped.keys()


def test_a_round_trip_through_coco_keeps_boxes_and_ids(tmp_path: Path) -> None:
    def run(*arguments: object) -> None:
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert result.exit_code == 0, (result.stdout, result.exception)

    objects = [thing(n, ("car.n.01", "dog.n.01")[n % 2], n, 1, 2 + n, 3) for n in range(1, 6)]
    genome(
        tmp_path, listing(1, *objects), listing(2, thing(7, "dog.n.01")), data=[facts(1), facts(2)]
    )
    options = ("--images", tmp_path, "--image-data", tmp_path / "image_data.json", "--workers", 1)
    run("convert", "visual-genome", "--annotations", tmp_path / "objects.json", *options,
        "--classes", 2, "--out", tmp_path / "vg")  # fmt: skip
    run("validate", tmp_path / "vg")
    run(
        "export",
        "coco-instances",
        "--data",
        tmp_path / "vg",
        "--out",
        tmp_path / "coco",
        "--images",
    )
    (file,) = (tmp_path / "coco").rglob("*.json")
    run("convert", "coco", "--instances", file, "--boxes-only", "--images",
        next((tmp_path / "coco").rglob("1.jpg")).parents[1], "--out", tmp_path / "back",
        "--workers", 1)  # fmt: skip
    vg, back = (
        {
            (synset_of(shards, s.class_id), s.box, s.source_id, sample.id)
            for sample in shards.samples()
            for s in sample.segments
        }
        for shards in (ShardSet.open(tmp_path / "vg"), ShardSet.open(tmp_path / "back"))
    )
    assert vg == back and len(vg) == 6
    assert json.loads(file.read_text())["categories"][0]["id"] == 1
