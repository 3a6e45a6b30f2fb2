"""What enters a feature bank: nothing of an unseen class, and exactly what training matched."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from segkit.errors import InputError
from segkit.recipes.schema import INFERENCE_KEYS
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Segment
from segkit.shards.header import Header
from segkit.shards.lineage import describe
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.shards.zero_shot_split import ZeroShotRecord
from segkit.zeroshot.bank import BankManifest, FeatureBank, bank_run, open_bank
from segkit.zeroshot.check_bank_inputs import check_bank_inputs
from segkit.zeroshot.collect_bank import BankCollector, hide_void, query_features, write_bank
from tests.inference.test_predictor import RecordingConfig
from tests.shards.manifests import change_manifest
from tests.shards.test_schemas import schema
from tests.zeroshot.conftest import UNSEEN, split_blocks, write_blocks


def collect(run: Run, data: ShardSet, no_object: int = 20) -> FeatureBank:
    record = ZeroShotRecord.from_set(data)
    assert record is not None
    return BankCollector(run, data, record, no_object).collect()


@pytest.fixture(scope="module")
def run(seen_run: Path) -> Run:
    return load_run(seen_run)


@pytest.fixture(scope="module")
def bank_path(
    run: Run, parts: dict[str, ShardSet], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    data = parts["seen"]
    record = check_bank_inputs(run.path, data)
    return write_bank(run, data, record, tmp_path_factory.mktemp("b") / "bank", no_object=3)


def test_no_label_and_no_image_of_an_unseen_class_is_in_a_bank(
    bank_path: Path, blocks: ShardSet, parts: dict[str, ShardSet]
) -> None:
    _, manifest, bank = open_bank(bank_path)
    cows = {s.id for s in blocks.samples() if any(x.class_id == 2 for x in s.segments)}
    assert cows and not cows & {*bank.image_ids}
    assert bank.image_ids == tuple(parts["seen"].image_ids())
    assert bank.seen_classes.names == ("dog", "cat", "sky") and bank.unseen_classes.names == (
        "cow",
    )
    assert bank.labels.max() <= bank.no_object == 3
    counts = np.bincount(bank.labels, minlength=4).tolist()
    assert [*manifest.rows.values(), manifest.no_object] == counts and min(counts) > 0
    assert "cow" not in manifest.rows and bank.images.max() < len(bank.image_ids)


def test_no_pixel_of_an_unseen_class_is_in_a_bank(run: Run, tmp_path: Path) -> None:
    banks = []
    for noise in (None, 1, 2):
        folder = tmp_path / str(noise)
        data = write_blocks(folder / "set", noise=noise)
        hidden = split_blocks(data, folder / "parts", "ignore-pixels")["seen"]
        assert len(hidden) == len(data)
        banks.append(collect(run, hidden))
    for bank in banks[1:]:
        assert np.array_equal(bank.features, banks[0].features)
        assert np.array_equal(bank.labels, banks[0].labels)


def test_a_bank_reads_the_settings_that_its_command_accepts(
    run: Run, parts: dict[str, ShardSet]
) -> None:
    config = RecordingConfig(unseen=(UNSEEN,))
    config._read.clear()  # of the validation
    recipe = run.recipe.model_copy(update={"inference": config})
    collect(replace(run, recipe=recipe), parts["seen"])
    assert config._read == INFERENCE_KEYS["bank"]


def test_hidden_pixels_are_those_of_void_only(tmp_path: Path) -> None:
    data = write_blocks(tmp_path / "set")
    parts = split_blocks(data, tmp_path / "parts", "ignore-pixels")
    hidden_set = parts["seen"]
    sample = next(hidden_set.samples())
    image = hidden_set.image(sample)
    hidden = hide_void(image, sample)
    changed = (hidden != image).any(-1)
    assert (hidden[changed] == 128).all() and (image[changed] == (40, 60, 230)).all()
    assert not (hidden == (40, 60, 230)).all(-1).any()
    plain = replace(sample, void=None)
    assert hide_void(image, plain) is image


def test_the_features_are_what_the_class_head_gets(run: Run, parts: dict[str, ShardSet]) -> None:
    text = run.class_embeddings(parts["seen"].taxonomy).text
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features, proposals = query_features(run.model, images, text)
        logits = run.model.text_classifier(features, text)
    torch.testing.assert_close(logits, proposals.class_logits[:, -1])
    assert not run.model.text_classifier._forward_pre_hooks


def test_each_target_labels_a_query_and_no_object_is_limited(
    run: Run, parts: dict[str, ShardSet]
) -> None:
    data = parts["seen"]
    bank = collect(run, data)
    for number, sample in enumerate(data.samples()):
        labels = bank.labels[bank.images == number]
        targets = {data.taxonomy.index[s.class_id] for s in sample.segments}
        assert {*labels.tolist()} - {3} == targets
        things = [s for s in sample.segments if s.kind == "thing"]
        assert np.isin(labels, [0, 1]).sum() == len(things)
    assert not (collect(run, data, no_object=0).labels == 3).any()
    single = collect(run, data, no_object=1)
    assert np.bincount(single.images[single.labels == 3]).max() == 1


def test_a_bank_is_a_function_of_run_and_set(
    run: Run, parts: dict[str, ShardSet], bank_path: Path, tmp_path: Path
) -> None:
    record = check_bank_inputs(run.path, parts["seen"])
    again = write_bank(run, parts["seen"], record, tmp_path / "again", no_object=3)
    assert open_bank(again)[1].digest == open_bank(bank_path)[1].digest


def test_the_manifest_fits_its_schema_and_names_its_parents(
    bank_path: Path, run: Run, parts: dict[str, ShardSet]
) -> None:
    published, generated = schema("bank"), BankManifest.model_json_schema()
    differing = {k for k in published.keys() | generated.keys()
                 if published.get(k) != generated.get(k)}  # fmt: skip
    assert differing == {"$schema", "title"}
    manifest = open_bank(bank_path)[1]
    digests = [run.manifest.digest, parts["seen"].manifest.digest]
    assert [parent.digest for parent in manifest.parents] == digests
    described = describe(bank_path)
    assert described["type"] == "bank"
    assert [parent["found"] for parent in described["parents"]] == [True, True]
    assert bank_run(bank_path, manifest) == run.path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(run.path.parents[1]))
        assert bank_run(bank_path, manifest, f"~/{run.path.parent.name}") == run.path
    with pytest.raises(InputError, match="a SAM is not a run"):
        bank_run(bank_path, manifest, "sam:facebook/sam-vit-base")


def test_a_run_or_set_of_another_split_is_refused(
    seen_run: Path, parts: dict[str, ShardSet], blocks: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is not the seen part of a zero-shot split"):
        check_bank_inputs(seen_run, blocks)
    with pytest.raises(InputError, match="is not the seen part"):
        check_bank_inputs(seen_run, parts["unseen"])
    with pytest.raises(InputError, match="may have seen every class"):
        check_bank_inputs("hf:someone/model", parts["seen"])
    for unseen, message in (((), "was not trained on the seen part"), (("dog",), "another split")):
        folder = tmp_path / message / "v1"
        shutil.copytree(seen_run, folder)
        recipe = (folder / "recipe.toml").read_text()
        (folder / "recipe.toml").write_text(recipe.replace('["cow"]', json.dumps(unseen)))
        with pytest.raises(InputError, match=message):
            check_bank_inputs(folder.parent, parts["seen"])
    with pytest.raises(InputError, match=r"bank does not read inference\.unseen"):
        check_bank_inputs(folder.parent, parts["seen"], ['inference.unseen=["cow"]'])
    transfer = tmp_path / "transfer" / "v1"
    shutil.copytree(seen_run, transfer)
    recipe = (transfer / "recipe.toml").read_text()
    (transfer / "recipe.toml").write_text(recipe.replace('"input" = "off"', '"input" = "text"', 1))
    with pytest.raises(InputError, match="depend on its class head"):
        check_bank_inputs(transfer.parent, parts["seen"])
    header = replace(Header.from_set(parts["seen"], "test"), kind="boxes")

    def boxes():
        for sample in parts["seen"].samples():
            rows: tuple[Segment, ...] = tuple(
                replace(s, mask=None, mask_from=None) for s in sample.segments if s.kind == "thing"
            )
            yield replace(sample, segments=rows)

    layer = write_layer(tmp_path / "boxes", parts["seen"], boxes(), header)
    with pytest.raises(InputError, match="has no masks"):
        check_bank_inputs(seen_run, layer)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("hf:someone/model", "a public model that may have seen every class"),
        ("every", r"may have seen every class \(was not trained on the seen part"),
        ("gone", r"may have seen every class \(holds no published version"),
        ("chain", r"may have seen every class \(was not trained on the seen part"),
        ("good", None),
    ],
)
def test_a_run_that_started_from_all_classes_is_refused(
    seen_run: Path, parts: dict[str, ShardSet], tmp_path: Path, start: str, message: str | None
) -> None:
    def copy(name: str, start: str | None, unseen: str = '["cow"]') -> str:
        folder = tmp_path / name / "v1"
        shutil.copytree(seen_run, folder)
        recipe = tomllib.loads((folder / "recipe.toml").read_text())
        text = (folder / "recipe.toml").read_text().replace('["cow"]', unseen)
        assert "init_from" not in recipe["model"]
        if start is not None:
            text = text.replace("[model]\n", f'[model]\ninit_from = "{start}"\n', 1)
        (folder / "recipe.toml").write_text(text)
        return str(folder)

    sources = {"hf:someone/model": "hf:someone/model", "gone": str(tmp_path / "gone" / "v1")}
    sources["every"] = copy("every", None, "[]")
    sources["chain"] = copy("chain", sources["every"])
    sources["good"] = copy("good", None)
    run = copy("run", sources[start])
    if message is None:
        check_bank_inputs(run, parts["seen"])
        return
    with pytest.raises(InputError, match=f"started from .*{message}"):
        check_bank_inputs(run, parts["seen"])


def test_ids_of_seen_and_unseen_classes_differ(
    seen_run: Path, parts: dict[str, ShardSet], tmp_path: Path
) -> None:
    taxonomy = parts["seen"].taxonomy
    cow = 2
    categories = (replace(c, id=cow if c.id == 4 else c.id) for c in taxonomy.categories)
    renumbered = replace(taxonomy, categories=tuple(categories))
    samples = (
        replace(
            sample,
            segments=tuple(
                replace(s, class_id=cow if s.class_id == 4 else s.class_id) for s in sample.segments
            ),
        )
        for sample in parts["seen"].samples()
    )
    header = replace(Header.from_set(parts["seen"], "test"), taxonomy=renumbered)
    layer = write_layer(tmp_path / "ids", parts["seen"], samples, header)
    with pytest.raises(InputError, match="the unseen class 'cow', or another one with its id"):
        check_bank_inputs(seen_run, layer)


def test_a_damaged_bank_is_refused(
    bank_path: Path, seen_run: Path, parts: dict[str, ShardSet], tmp_path: Path
) -> None:
    for path in (seen_run, parts["seen"].path):
        with pytest.raises(InputError, match="is not a feature bank"):
            open_bank(path)
    newer = Path(shutil.copytree(bank_path, tmp_path / "newer" / "v1"))
    for version, message in (("2", "a newer version of segkit may read it"), (1, "a newer")):
        change_manifest(newer, schema_version=version)
        with pytest.raises(InputError, match=f"schema_version: .*{message}"):
            open_bank(newer)
    change_manifest(newer, schema_version="1", width="16")
    with pytest.raises(InputError, match="width: not the manifest of a feature bank"):
        open_bank(newer)
    for name in ("features.safetensors", "image_ids.json", "manifest.json"):
        folder = tmp_path / name / "v1"
        shutil.copytree(bank_path, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            open_bank(folder.parent)
    columns = load_file(bank_path / "features.safetensors")
    _, manifest, bank = open_bank(bank_path)
    for change, message in (
        ({"labels": columns["labels"] + 4}, "a label of no seen class"),
        ({"images": columns["images"] - 1}, "an image without an id"),
        ({"features": columns["features"][1:]}, "columns of unequal length"),
        ({"features": columns["features"] * np.nan}, "not finite"),
    ):
        file = tmp_path / "columns.safetensors"
        save_file({**columns, **change}, file)
        from segkit.zeroshot.bank import _check_content, _read_columns

        with pytest.raises(InputError, match=message):
            _check_content(
                FeatureBank(
                    *_read_columns(file), bank.image_ids, bank.seen_classes, bank.unseen_classes
                ),
                file,
            )
    with pytest.raises(InputError, match="its run cannot be read"):
        bank_run(bank_path, manifest, str(tmp_path / "nowhere"))
