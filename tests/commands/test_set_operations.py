import contextlib
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app, main
from segkit.errors import InputError, Notice
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy
from tests.commands.test_benchmark import benchmark_file, results_of
from tests.shards.conftest import TAXONOMY, toy_records

runner = CliRunner()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_set(
        tmp_path / "toy",
        toy_records(4),
        Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="t"),
    )
    return tmp_path


def run_json(*arguments: str | Path) -> dict:
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    output: dict = json.loads(result.stdout)
    return output


def test_split_then_merge_gives_the_set_back(toy):
    result = run_json(
        "split", toy / "toy", "--part", "train=0.75", "--part", "val=0.25", "--out", toy / "parts"
    )
    assert {name: part["images"] for name, part in result["parts"].items()} == {
        "train": 3,
        "val": 1,
    }
    merged = run_json(
        "merge", toy / "parts" / "train", toy / "parts" / "val", "--out", toy / "again"
    )
    assert (merged["images"], merged["segments"]) == (4, 12)
    assert run_json("diff", toy / "toy", toy / "again")["identical"]
    assert run_json("validate", toy / "again")["valid"]


@pytest.mark.parametrize("command", ["merge", "benchmark"])
def test_a_note_names_force_only_where_the_command_has_it(toy, monkeypatch, capsys, command):
    if command == "merge":
        words = ["merge", str(toy / "toy"), str(toy / "toy"), "--rename", "--out", str(toy / "two")]
    else:
        file, annotations = benchmark_file(toy)
        results = results_of(annotations, toy / "results.json")
        words = ["benchmark", "objects365", f"--annotations={file}", f"--images={toy}"]
        words += [f"--predictions={results}", f"--out={toy / 'out'}"]
    monkeypatch.setattr("sys.argv", ["segkit", *words])
    for _ in range(2):
        with contextlib.suppress(SystemExit), warnings.catch_warnings():
            main()
    errors = capsys.readouterr().err
    (note,) = (line for line in errors.splitlines() if "nothing changed since" in line)
    end = "so no new version was published"
    assert note.endswith(f"{end}; --force publishes one" if command == "merge" else end)


def test_boxes_and_masks_are_merged_once_the_boxes_have_masks(toy):
    """What the hint of the refusal says works."""
    for name in ("a", "b"):
        records = [
            (replace(sample, id=f"{name}{sample.id}"), data) for sample, data in toy_records(2)
        ]
        header = Header(taxonomy=TAXONOMY, kind="instance", name=name, command="t")
        if name == "b":
            header = replace(header, kind="boxes")
            records = [(_without_masks(sample), data) for sample, data in records]
        write_set(toy / name, iter(records), header)
    line = (
        r"sets of kinds boxes and instance cannot be merged: .*/a/v1 is instance, "
        r".*/b/v1 is boxes; train with each .*--data SET.* masks first, by `segkit pseudolabel`"
    )
    out = ["--out", str(toy / "both")]
    refused = runner.invoke(app, ["merge", str(toy / "a"), str(toy / "b"), *out])
    assert isinstance(refused.exception, InputError) and re.search(line, str(refused.exception))
    run_json("pseudolabel", "--teacher", "box", "--data", toy / "b", "--out", toy / "masks")
    merged = run_json("merge", toy / "a", toy / "masks", *out)
    counts = [ShardSet.open(toy / name).manifest.statistics.segments for name in ("a", "b")]
    assert merged["segments"] == sum(counts) > 0


def test_boxes_and_panoptic_labels_are_not_sent_to_pseudolabel(toy):
    """It writes instances, which do not merge with panoptic labels either."""
    header = Header(taxonomy=TAXONOMY, kind="boxes", name="boxes", command="t")
    records = [(_without_masks(sample), data) for sample, data in toy_records(2)]
    write_set(toy / "boxes", iter(records), header)
    arguments = ["merge", str(toy / "toy"), str(toy / "boxes"), "--out", str(toy / "both")]
    refused = runner.invoke(app, arguments).exception
    assert isinstance(refused, InputError) and "boxes and panoptic cannot be" in str(refused)
    assert "train with each of them" in str(refused) and "pseudolabel" not in str(refused)


def _without_masks(sample):
    segments = (replace(s, mask=None, mask_from=None) for s in sample.segments)
    return replace(sample, segments=tuple(segments), void=None)


def test_relabel_writes_the_new_classes(toy):
    (toy / "map.csv").write_text("from,to\ncat,cat\nsky,sky-other-merged\n")
    result = run_json(
        "relabel",
        toy / "toy",
        "--taxonomy",
        "coco-panoptic-133",
        "--map",
        toy / "map.csv",
        "--out",
        toy / "coco",
    )
    assert result["ledger"]["input"] == result["ledger"]["kept"] == 12
    assert ShardSet.open(toy / "coco").taxonomy.name == "coco-panoptic-133"
    assert run_json("diff", toy / "toy", toy / "coco")["classes"]["cat"]["iou"] == 1


def test_sets_of_own_classes_merge_once_they_are_relabeled_as_the_hint_says(toy):
    own = Taxonomy("own", (Category(7, "fog", "stuff"), Category(3, "dog", "thing")))
    header = Header(taxonomy=own, kind="panoptic", name="own", command="t")
    write_set(toy / "own", toy_records(4), header)
    merge = ["merge", toy / "toy2", toy / "own2", "--rename", "--out", toy / "both"]
    refused = runner.invoke(app, list(map(str, ["merge", toy / "toy", toy / "own", *merge[3:]])))
    assert "--taxonomy NAMES.txt --map MAP.csv" in str(refused.exception)
    (toy / "names.txt").write_text("cat\nsky\ndog\nfog\n")
    for name, classes in (("toy", ("cat", "sky")), ("own", ("dog", "fog"))):
        (toy / "map.csv").write_text("from,to\n" + "".join(f"{c},{c}\n" for c in classes))
        options = ["--taxonomy", toy / "names.txt", "--map", toy / "map.csv"]
        run_json("relabel", toy / name, *options, "--out", toy / f"{name}2")
    (toy / "map.csv").write_text("from,to\ncat,cat\nsky,sky\n")
    options = ["--taxonomy", f"{toy / 'own2'}@v1", "--map", toy / "map.csv"]
    run_json("relabel", toy / "toy", *options, "--out", toy / "toy2", "--force")
    kinds = {c.name: c.kind for c in ShardSet.open(toy / "own2").taxonomy.categories}
    assert (kinds["dog"], kinds["fog"], kinds["cat"]) == ("thing", "stuff", "thing")
    assert run_json(*merge)["classes"] == 4


def test_tables_for_people(toy):
    result = runner.invoke(
        app, ["diff", str(toy / "toy"), str(toy / "toy")], env={"COLUMNS": "200"}
    )
    assert "identical" in result.stdout and "1.00" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--part", "a=x"],
        ["--part", "a"],
        ["--part", "a=1", "--list", "b=f"],
        ["--part", "../a=1"],
        ["--part", "a=nan", "--part", "b=0.5"],
        ["--part", "a=inf", "--part", "b=0.5"],
        ["--part", "a=1.5", "--part", "b=-0.5"],
        ["--part", "a=1", "--part", "b=0"],
        ["--list", "a={empty}"],
        ["--list", "a={one}", "--list", "b={empty}"],
        ["--list", "a={one}", "--seed", "0"],
    ],
)
def test_invalid_parts_are_refused(toy, options):
    (toy / "empty").write_text("\n \n")
    (toy / "one").write_text(f"{ShardSet.open(toy / 'toy').sample(0).id}\n")
    words = [word.format(empty=toy / "empty", one=toy / "one") for word in options]
    result = runner.invoke(app, ["split", str(toy / "toy"), "--out", str(toy / "p"), *words])
    assert isinstance(result.exception, InputError)
    assert not (toy / "p").exists()


@pytest.mark.parametrize("weight", ["nan", "inf", "0", "-1", "x", ""])
def test_invalid_sampling_weights_are_refused(toy, weight):
    words = ["--recipe", "dataseg-mini", "--data", f"{toy / 'toy'}={weight}", "--plan"]
    result = runner.invoke(app, ["train", *words, "--out", str(toy / "run")])
    assert isinstance(result.exception, InputError)


def test_leakage_exits_with_1(toy):
    run_json("split", toy / "toy", "--part", "a=0.5", "--part", "b=0.5", "--out", toy / "parts")
    separate = run_json("leakage", toy / "parts" / "a", toy / "parts" / "b")
    assert (separate["exact"], separate["near"]) == (0, 0)
    result = runner.invoke(app, ["leakage", str(toy / "toy"), str(toy / "parts" / "a"), "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["exact"] == 2


def test_stuff_that_becomes_things_is_named(toy):
    kinds = (("dog", "thing"), ("fog", "stuff"))
    categories = [{"id": n, "name": name, "kind": kind} for n, (name, kind) in enumerate(kinds)]
    (toy / "names.json").write_text(json.dumps({"name": "new", "categories": categories}))

    def relabel_to(mapping: str, data: Path = toy / "toy") -> list[str]:
        (toy / "map.csv").write_text(f"from,to\n{mapping}")
        options = ("--taxonomy", toy / "names.json", "--map", toy / "map.csv", "--out", toy / "new")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run_json("relabel", data, *options)
        return [str(warning.message) for warning in caught if warning.category is Notice]

    assert relabel_to("cat,dog\nsky,dog\n") == [
        "stuff 'sky' becomes things: each region counts as one object"
    ]
    assert relabel_to("cat,dog\nsky,fog\n") == relabel_to("cat,fog\nsky,\n") == []
    header = Header(taxonomy=TAXONOMY, kind="instance", name="objects", command="t")
    write_set(toy / "objects", toy_records(4), header)
    assert relabel_to("cat,dog\nsky,dog\n", toy / "objects") == []  # each is an object already
