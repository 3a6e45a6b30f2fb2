"""Encoders of open_clip and transformers (random weights), against a second implementation."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkit.errors import InputError, SegkitError
from segkit.extras import install_command
from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.text import encoders
from segkit.text.embeddings import EmbeddingStore
from segkit.text.encoders import load_encoder
from segkit.text.encoding import Encoding, load_templates
from segkit.text.vocabulary import taxonomy_from_names
from segkit.training.train import train
from tests.training.toy import write_recipe, write_toy_set

WORDS = ["sofa", "brick wall", "hair dryer"]
TEMPLATES = ("a photo of a {}.", "{} in a scene")
ARCH = "segkit-test-tiny"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model of 24 dimensions."""
    return write_bert(tmp_path_factory.mktemp("bert"), seed=0)


def write_bert(folder: Path, seed: int) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz."
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a CLIP of 20 dimensions, whose architecture is registered in open_clip."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    parts = {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }
    (folder / f"{ARCH}.json").write_text(json.dumps(parts))
    open_clip.add_model_config(folder / f"{ARCH}.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(ARCH).state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def normalized(rows: Any) -> np.ndarray:
    vectors = np.asarray(rows, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_a_transformers_model_gives_the_mean_of_its_tokens(bert: Path) -> None:
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(bert), BertModel.from_pretrained(bert).eval()
    expected = []
    for word in WORDS:  # one text at a time: no padding that could leak into a mean
        rows = []
        for template in TEMPLATES:
            with torch.no_grad():
                states = model(
                    **tokenizer(template.format(word), return_tensors="pt")
                ).last_hidden_state[0]
            rows.append(normalized(states.mean(0)))
        expected.append(normalized(np.mean(rows, axis=0)))
    assert np.allclose(
        EmbeddingStore(Encoding(f"hf:{bert}", TEMPLATES)).encode(WORDS), expected, atol=1e-5
    )


def test_a_transformers_clip_gives_its_text_features(tmp_path: Path, bert: Path) -> None:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    for file in bert.iterdir():
        if "tokenizer" in file.name or file.name == "vocab.txt":
            shutil.copy(file, tmp_path / file.name)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = {**text, "image_size": 32, "patch_size": 16}
    ids = {"vocab_size": 64, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config={**text, **ids}, vision_config=vision, projection_dim=12)
    ).eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = []
    for word in WORDS:
        inputs = tokenizer(word, return_tensors="pt")
        with torch.no_grad():
            pooled = model.text_model(inputs["input_ids"], inputs["attention_mask"]).pooler_output
            expected.append(normalized(model.text_projection(pooled)[0]))
    assert np.allclose(
        EmbeddingStore(Encoding(f"hf:{tmp_path}", ("{}",))).encode(WORDS), expected, atol=1e-5
    )


def test_an_open_clip_model_gives_its_text_features(clip: Path) -> None:
    import open_clip

    model = open_clip.create_model(ARCH)
    model.load_state_dict(torch.load(clip, weights_only=True))
    tokenize, expected = open_clip.get_tokenizer(ARCH), []
    for word in WORDS:
        with torch.no_grad():
            rows = [normalized(model.encode_text(tokenize(t.format(word)))[0]) for t in TEMPLATES]
        expected.append(normalized(np.mean(rows, axis=0)))
    assert np.allclose(
        EmbeddingStore(Encoding(f"clip:{ARCH}/{clip}", TEMPLATES)).encode(WORDS),
        expected,
        atol=1e-5,
    )


def test_the_cache_separates_encoders_and_templates(bert: Path, clip: Path) -> None:
    encodings = [
        Encoding(f"hf:{bert}"),
        Encoding(f"hf:{bert}", ("{}",)),
        Encoding(f"clip:{ARCH}/{clip}"),
    ]
    stores, shipped = [EmbeddingStore(encoding) for encoding in encodings], EmbeddingStore()
    assert len({store.cache_file for store in (*stores, shipped)}) == 4
    for store in stores:
        assert store.dimension() is None
        assert store.add(["Zorp", "sofa"]) == ("zorp", "sofa")
        assert store.add(["zorp", "lawn"]) == ("lawn",)
        assert set(store.vectors()) == {"zorp", "sofa", "lawn"}
        assert np.allclose(store.vectors()["zorp"], store.encode(["zorp"])[0], atol=1e-3)
    assert [store.dimension() for store in stores] == [24, 24, 20]
    assert "zorp" not in shipped.vectors() and shipped.dimension() == 384


def test_templates_load_by_name_and_from_files(tmp_path: Path) -> None:
    import open_clip

    assert load_templates("photo") == ("a photo of a {}.",) and load_templates("none") == ("{}",)
    many = load_templates("imagenet")
    assert len(many) == 80
    assert [t.replace("{}", "cat") for t in many] == [
        make("cat") for make in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    (tmp_path / "mine.txt").write_text("the {}\n\na small {}\n")
    assert load_templates(str(tmp_path / "mine.txt")) == ("the {}", "a small {}")
    (tmp_path / "bad.txt").write_text("no place\n")
    for spec, message in (
        (str(tmp_path / "bad.txt"), r"no \{\} in the template"),
        ("klingon", "no templates"),
    ):
        with pytest.raises(InputError, match=message):
            Encoding.from_names("minilm", spec)


def test_an_encoder_that_cannot_load_fails_with_one_line(
    bert: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    calls: dict[str, tuple[type[SegkitError], str]] = {
        "word2vec": (InputError, "unknown text encoder 'word2vec'"),
        "hf:": (InputError, "unknown text encoder"),
        "hf:/no/such/folder": (InputError, "no such folder"),
        f"hf:{tmp_path / 'empty'}": (InputError, "not a text model"),
        "hf:segkit-tests/no-such-model": (SegkitError, "could not be fetched"),
        "clip:ViT-Q/openai": (InputError, "no architecture 'ViT-Q'"),
        "clip:ViT-L-14/nobody": (InputError, "one of: openai"),
        f"clip:{ARCH}/nobody": (InputError, "give a file of weights"),
    }
    for spec, (kind, message) in calls.items():
        with pytest.raises(kind) as caught:
            load_encoder(spec)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    for module, spec in (("open_clip", f"clip:{ARCH}/{clip}"), ("transformers", f"hf:{bert}")):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, module, None)
            extra = spec.partition(":")[0]
            with pytest.raises(InputError, match=re.escape(install_command(extra))):
                load_encoder(spec)


@pytest.mark.parametrize(
    ("rank", "gpus", "device"),
    [(None, 2, "cuda:0"), ("1", 2, "cuda:1"), ("0", 1, "cuda:0"), ("1", 1, "cpu"), ("0", 0, "cpu")],
)
def test_each_process_encodes_on_its_gpu(
    rank: str | None, gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    assert encoders._device() == device


def test_a_gpu_that_pytorch_cannot_use_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is too old counts its GPUs nevertheless."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert encoders._device() == "cpu"


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_never_runs(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a model type that transformers does not know, on a terminal where the user says yes."""
    folder = write_bert(tmp_path, seed=0)
    touched = tmp_path / "touched"
    (folder / "evil.py").write_text(f"open({str(touched)!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((folder / part).read_text())
    names = ("AutoConfig", "AutoModel") if part == "config.json" else ("AutoTokenizer",)
    config["auto_map"] = dict.fromkeys(names, "evil.Evil")
    if part == "config.json":
        config["model_type"] = "evil"
    else:
        config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / part).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    try:
        load_encoder(f"hf:{folder}")  # with a tokenizer of its own, if it can
    except InputError as error:
        assert "not a text model" in str(error) and "\n" not in str(error)
    assert not touched.exists()
    assert "[y/N]" not in "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


def test_a_run_carries_its_encoding_and_refuses_other_weights(
    toy: ShardSet, tmp_path: Path
) -> None:
    folder = write_bert(tmp_path, seed=0)
    recipe, data = str(write_recipe(tmp_path / "tiny.toml")), [(str(toy.path), 1.0)]
    settings = [f"text.encoder=hf:{folder}", "text.templates=none"]
    train(recipe, data, tmp_path / "run", steps=1, device="cpu", overrides=settings)

    run, encoding = load_run(tmp_path / "run"), Encoding(f"hf:{folder}", ("{}",))
    store = EmbeddingStore(encoding)
    assert run.encoding == encoding and run.manifest.encoder == f"hf:{folder}"
    assert run.recipe.model.text_dim == 24, "the width follows the encoder"
    assert torch.equal(
        run.class_embeddings(toy.taxonomy).text,
        torch.from_numpy(store.embed(toy.taxonomy)),
    )
    store.cache_file.unlink()
    assert run.class_embeddings(toy.taxonomy).text.shape == (2, 24), (
        "classes of the training data need no cache"
    )

    new = taxonomy_from_names(["cat", "zorp"])
    assert store.missing_words(new.categories) == ["cat", "zorp"]
    assert run.class_embeddings(new).text.shape == (2, 24)
    assert store.missing_words(new.categories) == ["cat"], "only what training did not embed"
    store.cache_file.unlink()
    write_bert(folder, seed=1)
    with pytest.raises(InputError, match="encoded by other weights"):
        run.class_embeddings(new)
    write_bert(folder, seed=0)
    with pytest.raises(InputError, match="has other weights"):
        store.add(["blib"])
    store.cache_file.unlink()
    store.add(["zorp"])
    assert run.class_embeddings(new).text.shape == (2, 24)
