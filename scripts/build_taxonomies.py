"""Write schemas/taxonomies/*.json from the class lists in the folder of real data.

    python scripts/build_taxonomies.py [--lists ../shared/data/class_lists]

Ids are those of each source: ADE SceneParsing 1-150, COCO category ids, Objects365 v2 1-365,
Cityscapes label ids, Mapillary Vistas 0-64, VOC 1-20, CamVid 0-10. Pascal Context 459 has the ids
of the released label maps (alphabetical, 0 is unlabeled); its 59-class form has 1-59 in the
alphabetical order that `detail` and MMSegmentation write (0 is background).
"""

import argparse
import csv
import json
import os
import tomllib
from pathlib import Path
from typing import Any

from segkit.sample import Kind
from segkit.taxonomy import Category, Taxonomy

SCRIPTS = Path(__file__).parent
LISTS = (
    Path(os.environ.get("SEGKIT_REAL_DATA", SCRIPTS.parents[1] / "shared" / "data")) / "class_lists"
)
WORDS: dict[str, dict[str, str]] = tomllib.loads((SCRIPTS / "class_words.toml").read_text("utf-8"))

# Label ids of cityscapesScripts; their order is that of the train ids 0-18.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_STUFF = 11
# Name of each index 0-10 in SegNet's index PNGs, which are in common use, and CamVid's own
# spelling. Some copies of the PNGs come with a list in another order; the images show that index 0
# is sky (bright, at the top) and 3 road (at the bottom).
CAMVID_NAMES = {
    "sky": "Sky",
    "building": "Building",
    "pole": "Column_Pole",
    "road": "Road",
    "sidewalk": "Sidewalk",
    "tree": "Tree",
    "sign": "SignSymbol",
    "fence": "Fence",
    "car": "Car",
    "pedestrian": "Pedestrian",
    "bicyclist": "Bicyclist",
}
CAMVID_THINGS = {"car", "pedestrian", "bicyclist"}
# Classes of Mapillary Vistas whose instances are not labeled.
MAPILLARY_STUFF = set(
    """
    Curb;Fence;Guard Rail;Barrier;Wall;Bike Lane;Curb Cut;Parking;Pedestrian Area;Rail Track;Road
    Service Lane;Sidewalk;Bridge;Building;Tunnel;Lane Marking - General;Mountain;Sand;Sky;Snow
    Terrain;Vegetation;Water;Pothole;On Rails;Car Mount;Ego Vehicle
    """.strip()
    .replace("\n    ", ";")
    .split(";")
)
# Pascal Context does not mark things: a class is a thing if it is among ADE's 100 instance
# categories or can be counted. These are the rest.
CONTEXT_STUFF = set(
    """
    atrium;bamboo weaving;bedclothes;beer;brick;bridge;building;ceiling;cloth;coffee;concrete
    control booth;coral;court;dais;dock;escalator;exhibition booth;flame;floor;foam;food
    footbridge;fruit;grandstand;grass;ground;guardrail;handrail;hay;ice;leaves;line;metal;mountain
    paper;parterre;patio;pelage;plastic;platform;playground;plume;rail;ramp;road;rock;rug;runway
    sand;sewer;shelves;sidewalk;sky;smoke;snow;speed bump;stage;stair;stone;straw;swimming pool
    tableware;tarp;track;tree;unknown;wall;water;wharf;wire;wood;wool
    """.strip()
    .replace("\n    ", ";")
    .split(";")
)


def words(taxonomy: str, name: str) -> tuple[str, ...]:
    """Return the words that a text encoder reads for a class.

    They are the hand-written words, or else the name in lower case, split at slashes.
    """
    written = WORDS[taxonomy].get(name)
    parts = written.split(",") if written else name.lower().split("/")
    return tuple(dict.fromkeys(part.strip() for part in parts))


def category(
    taxonomy: str, id_: int, name: str, kind: Kind, source_name: str | None = None
) -> Category:
    """Build a category; `source_name` is only kept if it differs from the name."""
    name = name.strip()
    text = words(taxonomy, name)
    return Category(id_, name, kind, text, source_name if source_name != name else None)


def lines(path: Path) -> list[str]:
    """Return the lines of a list of names; blanks at the end of a line are kept."""
    return [line for line in path.read_text("utf-8").split("\n") if line.strip()]


def ade(lists: Path) -> Taxonomy:
    """ADE20K SceneParsing.

    In names of the CSV, semicolons have replaced spaces, so full names come from the plain list.
    """
    full = {tuple(name.split()): name for name in lines(lists / "ade20k-150_names.txt")}
    flags = {
        row["id"]: row["isthing"]
        for row in json.loads((lists / "ade150_categories_with_things.json").read_text())
    }
    categories = []
    with (lists.parent / "ade" / "objectInfo150.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            parts = tuple(row["Name"].split(";"))
            candidates = [parts[:3], parts[:2], parts[:1], parts[1:3]]
            name = next(full[candidate] for candidate in candidates if candidate in full)
            id_ = int(row["Idx"])
            categories.append(
                category("ade20k-150", id_, name, "thing" if flags[id_] else "stuff", row["Name"])
            )
    return Taxonomy("ade20k-150", tuple(categories))


def coco(lists: Path, name: str, *, things_only: bool) -> Taxonomy:
    """COCO panoptic, or its 80 things."""
    rows: list[dict[str, Any]] = json.loads((lists / "panoptic_coco_categories.json").read_text())
    kept = [row for row in rows if row["isthing"] or not things_only]
    categories = [
        category(
            "coco-panoptic-133", row["id"], row["name"], "thing" if row["isthing"] else "stuff"
        )
        for row in kept
    ]
    return Taxonomy(name, tuple(categories))


def objects365(lists: Path) -> Taxonomy:
    """Objects365 v2; names keep the source's typos, `source_name` also its trailing blanks."""
    rows = json.loads((lists / "objects365_v2_categories.json").read_text())
    categories = [
        category("objects365-v2", row["id"], row["name"], "thing", row["name"]) for row in rows
    ]
    return Taxonomy("objects365-v2", tuple(categories))


def cityscapes(lists: Path) -> Taxonomy:
    """Cityscapes' 19 evaluated classes with their label ids (7 is road)."""
    names = lines(lists / "cityscapes-19_names.txt")
    categories = [
        category("cityscapes-19", id_, name, "stuff" if i < CITYSCAPES_STUFF else "thing")
        for i, (id_, name) in enumerate(zip(CITYSCAPES_IDS, names, strict=True))
    ]
    return Taxonomy("cityscapes-19", tuple(categories))


def mapillary(lists: Path) -> Taxonomy:
    """The 65 evaluated classes of Mapillary Vistas 1.2, with the ids of its label images."""
    categories = [
        Category(id_, name, "stuff" if name in MAPILLARY_STUFF else "thing", (name.lower(),))
        for id_, name in enumerate(lines(lists / "mapillary-public65_names.txt"))
    ]
    return Taxonomy("mapillary-vistas-65", tuple(categories))


def camvid(lists: Path) -> Taxonomy:
    """CamVid's 11 classes; its own spelling (`Column_Pole`) is the source name."""
    assert set(CAMVID_NAMES.values()) == set(lines(lists / "camvid-11_names.txt"))
    categories = (
        category("camvid-11", id_, name, "thing" if name in CAMVID_THINGS else "stuff", source)
        for id_, (name, source) in enumerate(CAMVID_NAMES.items())
    )
    return Taxonomy("camvid-11", tuple(categories))


def voc(lists: Path) -> Taxonomy:
    """Pascal VOC 2012: 20 things; index 0 of its masks is background, which is not a class."""
    names = lines(lists / "voc2012_names.txt")
    return Taxonomy(
        "voc-20", tuple(category("voc-20", i, name, "thing") for i, name in enumerate(names) if i)
    )


def context(lists: Path, name: str) -> Taxonomy:
    """Pascal Context in 459 classes, or in the 59 frequent ones."""
    instances = {
        row["name"]
        for row in json.loads((lists / "ade20k_instance_100_categories.json").read_text())
    }
    if name == "pascal-context-459":
        names = lines(lists / "pascal-context-460_names.txt")
    else:
        names = [
            "background",
            *(n for n in lines(lists / "pascal-context-60_names.txt") if n != "background"),
        ]
    categories = [
        category("pascal-context-459", i, n, "stuff" if n in CONTEXT_STUFF - instances else "thing")
        for i, n in enumerate(names)
        if i
    ]
    return Taxonomy(name, tuple(categories))


def all_taxonomies(lists: Path) -> tuple[Taxonomy, ...]:
    """Return all taxonomies that ship with segkit."""
    return (
        ade(lists),
        coco(lists, "coco-panoptic-133", things_only=False),
        coco(lists, "coco-80", things_only=True),
        objects365(lists),
        cityscapes(lists),
        mapillary(lists),
        context(lists, "pascal-context-59"),
        context(lists, "pascal-context-459"),
        voc(lists),
        camvid(lists),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists", type=Path, default=LISTS)
    parser.add_argument("--out", type=Path, default=SCRIPTS.parent / "schemas" / "taxonomies")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for taxonomy in all_taxonomies(options.lists):
        text = json.dumps(taxonomy.to_json(), indent=1, ensure_ascii=False)
        (options.out / f"{taxonomy.name}.json").write_text(text + "\n", "utf-8")
        print(f"{taxonomy.name}: {len(taxonomy.categories)} classes")


if __name__ == "__main__":
    main()
