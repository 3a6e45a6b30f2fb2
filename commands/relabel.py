"""`segkit relabel`: map a shard set to another taxonomy."""

from pathlib import Path

import typer

from segkit.storage import writable

from .common import emit, table
from .progress import progress_bar
from .shared_options import FORCE_OPTION, IMAGES_ROOT_OPTION, SET_HELP, VERIFY_OPTION


def relabel(
    spec: str = typer.Argument(metavar="SET", help=SET_HELP),
    taxonomy: str = typer.Option(
        ...,
        metavar="NAME|FILE|SET",
        help="The new classes: a known vocabulary, a taxonomy JSON file, a text file with one name "
        "a line, or a shard set, whose classes are taken.",
    ),
    mapping: Path = typer.Option(
        ...,
        "--map",
        metavar="FILE",
        help="CSV with columns from and to (names or ids); a blank to drops the class.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Shard set to write a version of."
    ),
    verify_images: bool = VERIFY_OPTION,
    force: bool = FORCE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Map the classes of a shard set to another taxonomy by a table; no image is copied.

    The table needs a line for every class of the set. If labels cover whole images, the pixels of
    dropped classes become void. A class of a text file is a thing or stuff as in the set, or as all
    classes of the set are.

    Example: segkit relabel work/ade --taxonomy coco-panoptic-133 --map map.csv --out work/ade-coco
    """
    from segkit.shards.reader import ShardSet
    from segkit.shards.relabel import read_table
    from segkit.shards.relabel import relabel as write_relabeled
    from segkit.sources.vocabulary_file import open_vocabulary

    data = ShardSet.open(spec)
    new = open_vocabulary(taxonomy, data.taxonomy)
    class_map = read_table(mapping, data.taxonomy, new)
    arguments = {"set": spec, "taxonomy": taxonomy, "map": str(mapping), "out": str(out)}
    options = {"verify_images": verify_images, "force": force}
    with progress_bar(f"relabel {data.path.parent.name}", len(data)) as advance:
        relabeled = write_relabeled(
            data, out, new, class_map, arguments, on_image=advance, **options
        )
    ledger = relabeled.manifest.ledger
    result = {
        "path": str(relabeled.path),
        "version": relabeled.version,
        "ledger": ledger.annotations.model_dump(),
        "per_class": {name: count.model_dump() for name, count in ledger.per_class.items()},
        "images": ledger.images.model_dump(),
        "digest": relabeled.manifest.digest,
    }
    rows = [
        (name, count.input, count.kept, count.input - count.kept)
        for name, count in ledger.per_class.items()
    ]
    columns = ("class before", "segments", "kept", "dropped")
    summary = table(str(relabeled.path), columns, rows)
    emit(result, schema="segkit.relabel/1", tables=[summary])
