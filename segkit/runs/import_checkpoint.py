"""A public Mask2Former as a run: the same masks and class logits, without training."""

import hashlib
import json
import re
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit import parse
from segkit.cache import cache_root
from segkit.errors import BusyError, InputError, Notice
from segkit.hub import CONFIG, PROCESSOR, WEIGHTS, fetch_model, model_name
from segkit.model.dataseg import DataSeg
from segkit.model.hf import load_checkpoint, read_class_head, read_config
from segkit.model.hf_processor import image_sizes, pixel_statistics
from segkit.model.linear_head import solve_text_head
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import InferenceConfig, LossConfig, ModelConfig, Recipe, TextConfig
from segkit.runs.content_files import write_inputs, write_manifest, write_weights
from segkit.runs.run_manifest import (
    RECIPE,
    manifest_of,
    refuse_damage,
)
from segkit.shards.publish import staging
from segkit.shards.versions import versions
from segkit.storage import file_sha256
from segkit.taxonomy import Taxonomy
from segkit.text.embeddings import EmbeddingStore
from segkit.text.label_names import taxonomy_from_labels

_FORMAT = 1
"""Counts changes of this module that make older runs in the cache out of date."""
_QUERIES = 512
_TOLERANCE = 1e-4
_SCORE, _OVERLAP = 0.5, 0.8
"""Defaults of transformers' post-processing."""
_WAIT = 600.0
"""Seconds to wait for another process that imports the same model."""


@dataclass(frozen=True)
class _Checkpoint:
    """What a checkpoint's folder holds."""

    source: str
    """FOLDER or OWNER/NAME."""
    folder: Path
    digest: str
    """SHA-256 over its weights and configuration."""

    @property
    def slug(self) -> str:
        """Its name as part of a path."""
        name = Path(self.source).resolve().name if Path(self.source).is_dir() else self.source
        return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "model"


def cached_run(source: str) -> Path:
    """The run version of `hf:NAME_OR_FOLDER` in the cache, imported where it is not there yet; with
    the shipped encoding of class names.

    Raises:
        InputError, SegkitError: as `import_checkpoint`.
    """
    checkpoint = _open(source)
    key = json.dumps([_FORMAT, checkpoint.digest, EmbeddingStore().encoder_digest()])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    place = cache_root() / "public" / f"{checkpoint.slug}-{digest}"
    started = time.monotonic()
    while not (published := versions(place)):
        try:
            return _import(checkpoint, place, TextConfig())
        except BusyError:
            if time.monotonic() - started > _WAIT:
                raise
            time.sleep(0.5)
    return published[max(published)]


def import_checkpoint(source: str, out: Path, text: TextConfig | None = None) -> Path:
    """Write a public Mask2Former as a run's next version; returns its path.

    Its class head becomes a linear text head with the same logits, which is verified; its classes
    are those of `id2label`, by `segkit.text.label_names`. The box prompt encoder, which a
    Mask2Former does not have, keeps random weights: box prompts of the run are refused.

    Args:
        source: `hf:FOLDER` or `hf:OWNER/NAME`.
        out: directory of the run's versions.
        text: text encoder and templates of the class names; the shipped encoding by default.

    Raises:
        InputError: not a Mask2Former of a known layout, no class names, names without text
            embeddings or with linearly dependent ones, or logits that differ.
        SegkitError: a public model that cannot be fetched.
    """
    return _import(_open(source), out, text or TextConfig())


def _open(source: str) -> _Checkpoint:
    folder = fetch_model(source)
    total = hashlib.sha256()
    for name in (CONFIG, PROCESSOR, WEIGHTS):
        file = folder / name
        if file.is_file():
            digest = _file_digest(file, file.stat().st_size, file.stat().st_mtime_ns)
            total.update(f"{name} {digest}".encode())
    return _Checkpoint(model_name(source), folder, total.hexdigest())


@lru_cache(maxsize=16)
def _file_digest(file: Path, size: int, mtime: int) -> str:
    """SHA-256 of a file; size and time of change tell when to read it again."""
    return file_sha256(file)


def _import(checkpoint: _Checkpoint, out: Path, text: TextConfig) -> Path:
    folder = checkpoint.folder
    recipe = _recipe(checkpoint, text)
    head, head_bias = read_class_head(folder)  # (K + 1, H), (K + 1,)
    labels = _labels(folder, len(head) - 1)
    taxonomy, places = taxonomy_from_labels(labels, checkpoint.slug)
    store = EmbeddingStore(text.encoding)
    store.add(store.missing_words(taxonomy.categories))
    rows = torch.from_numpy(store.embed(taxonomy))  # (K, D)
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"text_dim": rows.shape[1]})}
    )
    order = [*places, len(labels)]  # background stays last
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the box prompt encoder
        model = DataSeg(recipe.model).eval()
    load_checkpoint(model, folder)
    words = torch.from_numpy(np.stack(list(store.vectors().values())))  # (M, D)
    set_class_head(model, rows, head[order], head_bias[order], taxonomy, words)
    fingerprint = {"command": "import", "source": checkpoint.source, "digest": checkpoint.digest}
    with staging(out, fingerprint, inputs=(), resume=False, content="run") as stage:
        _write(stage.path, model, recipe, taxonomy, rows, checkpoint, store)
        refuse_damage(stage.path, manifest_of(stage.path))
        load_recipe(stage.path / RECIPE)
        return stage.publish()


def set_class_head(
    model: DataSeg,
    text: Tensor,
    weight: Tensor,
    bias: Tensor,
    taxonomy: Taxonomy,
    words: Tensor,
) -> None:
    """Give a model the text head of a linear class head, and compare their logits.

    Args:
        model: with a linear `class_head`.
        text: (K, D) class embeddings.
        weight: (K + 1, H) of the linear class head: rows in the taxonomy's order, then background.
        bias: (K + 1,) likewise.
        taxonomy: the K classes.
        words: (M, D) embeddings of other words, see `segkit.model.linear_head`.

    Raises:
        InputError: linearly dependent class embeddings, or logits for random queries that differ by
            more than 1e-4 (relative above 1).
    """
    head = solve_text_head(text, weight, bias, taxonomy.names, words)
    classifier: Any = model.text_classifier
    with torch.no_grad():
        classifier.project.weight.copy_(head.weight)
        classifier.project.bias.copy_(head.bias)
        classifier.background.copy_(head.background)
        generator = torch.Generator().manual_seed(0)
        queries = torch.randn(_QUERIES, weight.shape[1], generator=generator)
        queries = model.transformer_decoder.norm(queries)
        logits, expected = classifier(queries, text), queries @ weight.T + bias
    if not torch.allclose(logits, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        largest = float((logits - expected).abs().max())
        message = f"the imported class logits differ from the checkpoint's by up to {largest:.1e}"
        raise InputError(message, record=taxonomy.name, hint="import with another text encoder")


def _recipe(checkpoint: _Checkpoint, text: TextConfig) -> Recipe:
    config = read_config(checkpoint.folder)
    if not (checkpoint.folder / PROCESSOR).is_file():
        message = (
            f"{checkpoint.source} has no {PROCESSOR}: its images get transformers' default size "
            "(shorter side 800, longer 1333 pixels) and ImageNet's mean and deviation; if it was "
            f"trained with others, put its {PROCESSOR} beside {CONFIG} and import it again"
        )
        warnings.warn(message, Notice, stacklevel=2)
    resnet = str(config["backbone"]).startswith("resnet")
    model = ModelConfig(
        **config,
        **pixel_statistics(checkpoint.folder),
        class_head="linear",
        freeze_norm=resnet,
    )
    inference = InferenceConfig(
        **image_sizes(checkpoint.folder),
        postprocess="mask2former",
        score=_SCORE,
        overlap=_OVERLAP,
        instances=config["queries"],
        instance_score=_SCORE,
    )
    # Mask2Former's losses, for training that starts from this recipe.
    loss = LossConfig(points=12544, pairwise=0.0, box_prompts=0.0)
    name = checkpoint.slug
    return Recipe(name=name, model=model, text=text, loss=loss, inference=inference)


def _labels(folder: Path, classes: int) -> list[str]:
    """The K class names of a checkpoint, in the order of its class head."""
    content = parse.read_json(folder / CONFIG)
    names = (content.get("id2label") if isinstance(content, dict) else None) or {}
    if not isinstance(names, dict):
        raise InputError("id2label is not an object", file=folder / CONFIG)
    hint = f"write the names of its {classes} classes to id2label"
    if all(re.fullmatch(r"LABEL_\d+", str(label)) for label in names.values()):
        raise InputError("its classes have no names", file=folder / CONFIG, hint=hint)
    try:
        return [str(names[str(index)]) for index in range(classes)]
    except KeyError as error:
        message = f"id2label names no class {error} of {classes}"
        raise InputError(message, file=folder / CONFIG, hint=hint) from error


def _write(
    folder: Path,
    model: DataSeg,
    recipe: Recipe,
    taxonomy: Taxonomy,
    rows: Tensor,
    checkpoint: _Checkpoint,
    store: EmbeddingStore,
) -> None:
    """Write the files of the run, the manifest last."""
    metadata = store.encoding.to_metadata(store.encoder_digest())
    write_inputs(folder, recipe, {taxonomy.name: taxonomy}, {taxonomy.name: rows}, metadata)
    write_weights(folder, model)
    write_manifest(
        folder,
        recipe,
        model,
        command="import",
        arguments={"source": checkpoint.source, "digest": checkpoint.digest},
        parents=(),
        rates={},
        steps=0,
        encoder=store.encoding.name,
    )
