"""`segkit import`: a public Mask2Former becomes a run, without training."""

from pathlib import Path

import typer

from segkit.extras import require_extra
from segkit.storage import writable_local

from .common import emit, status, table

_SHOWN = 8


def import_model(
    source: str = typer.Argument(
        ..., metavar="hf:NAME|FOLDER", help="A Mask2Former of Hugging Face, or a folder with one."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="RUN", parser=writable_local, help="Directory of the run's versions."
    ),
    encoder: str = typer.Option(
        "minilm", "--encoder", help="Text encoder of the class names, see `segkit vocabulary`."
    ),
    templates: str = typer.Option(
        "photo", "--templates", help="Texts around a name: photo, none, imagenet or a file."
    ),
) -> None:
    """Import a public Mask2Former as a run: the same masks and the same classes, no training.

    Its class head becomes a text head with the same logits, so that other classes can be given as
    well. Training may start from it (`segkit train --init-from RUN`). Commands that read a run also
    take `hf:NAME` and import it into the cache.

    Example: segkit import hf:facebook/mask2former-swin-tiny-coco-panoptic --out work/public
    """
    from segkit.hub import (
        HF_PREFIX,
        check_model_type,
        check_source,
        fetch_model,
        is_hugging_face,
    )
    from segkit.recipes.schema import TextConfig
    from segkit.text.encoding import Encoding

    require_extra("train", "segkit import")
    spec = source if is_hugging_face(source) else HF_PREFIX + source
    check_source(spec)
    Encoding.from_names(encoder, templates)
    check_model_type(spec, fetch_model(spec))

    # Below what is refused at once: these take seconds to import.
    from segkit.runs.import_checkpoint import import_checkpoint
    from segkit.runs.open_run import load_run
    from segkit.shards.versions import version_number

    with status(f"importing {source}"):
        path = import_checkpoint(spec, out, TextConfig(encoder=encoder, templates=templates))
    run = load_run(path)
    (taxonomy,) = run.taxonomies.values()
    inference = run.recipe.inference
    result = {
        "path": str(path.resolve()),
        "version": version_number(path),
        "digest": run.manifest.digest,
        "vocabulary": taxonomy.name,
        "classes": {category.name: category.kind for category in taxonomy.categories},
        "parameters": run.manifest.parameters,
    }
    stuff = sum(category.kind == "stuff" for category in taxonomy.categories)
    names = ", ".join(taxonomy.names[:_SHOWN]) + (", ..." if len(taxonomy.names) > _SHOWN else "")
    rows = [
        ("vocabulary", taxonomy.name),
        ("classes", f"{len(taxonomy.names)} ({stuff} stuff)"),
        ("", names),
        ("backbone", run.recipe.model.backbone),
        ("parameters", f"{run.manifest.parameters / 1e6:.1f} M"),
        ("images", f"{inference.resize} to {inference.image_size} pixels"),
    ]
    shown = table(f"Imported {source}", ("", ""), rows)
    emit(result, schema="segkit.import/1", tables=[shown, f"{path.resolve()}"])
