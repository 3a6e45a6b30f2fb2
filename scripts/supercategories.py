"""Give the real sets COCO's 27 supercategories as classes, so that short trainings learn them.

    python scripts/real.py                                   # makes the real shard sets
    python scripts/supercategories.py --sets real-out/sets --out supercategories

The sets of COCO get all supercategories, those of the stand-in for Objects365 the 12 of things.
Each is a layer: images are not copied.
"""

import argparse
import json
from pathlib import Path

from experiments import REAL_DATA, run_script

from segkit.shards.reader import ShardSet
from segkit.shards.relabel import relabel
from segkit.shards.versions import versions
from segkit.taxonomy import Category, Taxonomy

PANOPTIC_SETS = ("coco-train", "coco-val")
BOX_SETS = ("standin-train", "standin-val", "standin-truth")
COCO_NAMES = {
    "Bowl/Basin": "bowl",
    "Dinning Table": "dining table",
    "Hair Dryer": "hair drier",
    "Handbag/Satchel": "handbag",
    "Luggage": "suitcase",
    "Moniter/TV": "tv",
    "Orange/Tangerine": "orange",
    "Other Balls": "sports ball",
    "Skiboard": "skis",
    "Stuffed Toy": "teddy bear",
    "Wild Bird": "bird",
}
"""Objects365 v2's name -> COCO's, where they differ in more than upper case."""


def read_supercategories(file: Path) -> tuple[Taxonomy, dict[str, str]]:
    """Read COCO's panoptic categories: the taxonomy, and the supercategory of each class name."""
    rows = json.loads(file.read_text())
    kinds = {row["supercategory"]: "thing" if row["isthing"] else "stuff" for row in rows}
    categories = [Category(i, name, kind) for i, (name, kind) in enumerate(kinds.items(), 1)]
    names = {row["name"]: row["supercategory"] for row in rows}
    return Taxonomy("coco-supercategories", tuple(categories)), names


def of_things(taxonomy: Taxonomy) -> Taxonomy:
    """Return the things of a taxonomy, with its ids."""
    things = tuple(category for category in taxonomy.categories if category.kind == "thing")
    return Taxonomy("coco-thing-supercategories", things)


def class_map(
    classes: Taxonomy, target: Taxonomy, supercategories: dict[str, str]
) -> dict[int, int | None]:
    """Map each class to its supercategory; None where COCO has no such class."""
    ids = {category.name: category.id for category in target.categories}
    mapped = {}
    for category in classes.categories:
        name = COCO_NAMES.get(category.name, category.name)
        supercategory = supercategories.get(name) or supercategories.get(name.lower(), "")
        mapped[category.id] = ids.get(supercategory)
    return mapped


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=Path, default=Path("real-out/sets"), help="of real.py")
    parser.add_argument("--out", type=Path, default=Path("supercategories"))
    arguments = parser.parse_args()
    file = REAL_DATA / "class_lists" / "panoptic_coco_categories.json"
    taxonomy, supercategories = read_supercategories(file)
    targets = dict.fromkeys(PANOPTIC_SETS, taxonomy) | dict.fromkeys(BOX_SETS, of_things(taxonomy))
    for name, target in targets.items():
        data, folder = ShardSet.open(arguments.sets / name), arguments.out / name
        if not versions(folder):
            classes = class_map(data.taxonomy, target, supercategories)
            relabel(data, folder, target, classes, {"classes": target.name})
        print(folder)


if __name__ == "__main__":
    run_script(main)
