import json
from importlib import resources

import pytest
from jsonschema import Draft202012Validator

from segkit.errors import InputError
from segkit.shards.manifest import Manifest
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.taxonomy import known_taxonomies, load_taxonomy
from tests.shards.conftest import TAXONOMY


def schema(name):
    loaded = json.loads(
        (resources.files("segkit.schemas") / f"{name}.schema.json").read_text("utf-8")
    )
    Draft202012Validator.check_schema(loaded)
    return loaded


def test_the_published_manifest_schema_matches_the_code():
    published = schema("manifest")
    generated = Manifest.model_json_schema()
    differing = {
        key
        for key in published.keys() | generated.keys()
        if published.get(key) != generated.get(key)
    }
    assert differing == {"$schema", "title"}


def test_a_written_manifest_fits_the_schema_and_an_altered_one_does_not(make_set):
    manifest = json.loads((make_set().path / "manifest.json").read_text("utf-8"))
    validator = Draft202012Validator(schema("manifest"))
    validator.validate(manifest)
    assert not validator.is_valid({**manifest, "kind": "video"})
    assert not validator.is_valid({**manifest, "surprise": 1})


def test_a_manifest_states_its_schema_and_an_older_one_still_opens(make_set):
    shards = make_set()
    file = shards.path / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    assert manifest.pop("schema") == "segkit.shards/1"
    del manifest["manifest_digest"]
    file.write_text(json.dumps(manifest), "utf-8")
    expected = shards.manifest.model_copy(update={"manifest_digest": None})
    assert ShardSet.open(shards.path).manifest == expected
    assert list(validate(shards.path)) == []
    file.write_text(json.dumps({**manifest, "schema": "segkit.run/1"}), "utf-8")
    with pytest.raises(InputError, match="manifest"):
        ShardSet.open(shards.path)


@pytest.mark.parametrize("name", known_taxonomies())
def test_shipped_taxonomies_fit_their_schema(name):
    text = (resources.files("segkit.schemas") / "taxonomies" / f"{name}.json").read_text("utf-8")
    Draft202012Validator(schema("taxonomy")).validate(json.loads(text))
    assert load_taxonomy(name).to_json()["categories"]


def test_a_taxonomy_fits_its_schema_and_an_invalid_kind_does_not():
    validator = Draft202012Validator(schema("taxonomy"))
    validator.validate(json.loads(json.dumps(TAXONOMY.to_json())))
    assert not validator.is_valid(
        {"name": "x", "categories": [{"id": 1, "name": "a", "kind": "ghost"}]}
    )
