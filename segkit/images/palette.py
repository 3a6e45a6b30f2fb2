"""The color of each class name: one fixed, colorblind-safe palette for all pictures."""

import hashlib
import re

Color = tuple[int, int, int]
"""Red, green, blue, 0-255."""

PALETTE: dict[Color, tuple[str, ...]] = {
    (165, 150, 255): ("sky", "bird", "circle", "disc"),
    (150, 105, 150): ("road", "street", "cow", "rug"),
    (255, 210, 255): ("sidewalk", "pavement", "sheep", "sand", "beach", "ceiling"),
    (135, 75, 60): ("building", "house", "dog", "brick wall", "brickwork", "cabinet"),
    (180, 150, 75): ("wall", "horse", "dirt", "floor", "cross", "cross sign"),
    (60, 150, 120): ("tree", "vegetation", "bottle", "ring", "hoop"),
    (180, 210, 75): ("grass", "lawn", "terrain", "boat"),
    (240, 45, 105): ("person", "pedestrian", "square", "square block"),
    (240, 15, 0): ("rider", "bicyclist", "chair", "triangle", "triangular shape"),
    (60, 0, 255): ("car", "star", "five pointed star"),
    (240, 225, 0): ("traffic sign", "sign", "airplane", "aeroplane", "lamp"),
    (255, 135, 0): ("traffic light", "cat", "crescent", "crescent moon"),
    (75, 75, 135): ("truck", "water", "sea", "river", "pond", "mountain"),
    (180, 240, 195): ("bus", "snow", "window"),
    (105, 255, 135): ("train",),
    (150, 0, 180): ("motorcycle", "motorbike", "bed"),
    (150, 30, 90): ("bicycle", "bike", "curtain"),
    (120, 210, 135): ("fence", "plant", "potted plant", "pottedplant"),
    (225, 150, 225): ("pole", "column pole", "door"),
    (180, 90, 195): ("table", "dining table", "diningtable"),
    (135, 105, 240): ("sofa", "couch"),
    (150, 60, 255): ("tv", "tvmonitor", "television"),
    (165, 15, 15): ("roof", "apple"),
    (255, 135, 180): ("bag", "book"),
}
"""Each color and the common names that have it, so that classes of one street or room differ.

Any two colors differ by at least 14 in CIE Lab (2.3 is just noticeable), as seen with normal vision
and without red, green or blue cones (simulated after Machado et al., "A physiologically-based model
for simulation of color vision deficiency", 2009).
"""

_BY_NAME = {name: color for color, names in PALETTE.items() for name in names}
_COLORS = tuple(PALETTE)
_COCO_SUFFIX = re.compile(r"( merged| other| stuff)+$")


def class_color(name: str) -> Color:
    """Return the color of a class name: always the same, in every set, picture and report.

    Case, hyphens, underscores and COCO's suffixes (`sky-other-merged`) make no difference. Names
    outside `PALETTE` get one of its colors by their hash, so two of them may share a color.
    """
    words = " ".join(re.split(r"[\s_-]+", name.casefold())).strip()
    words = _COCO_SUFFIX.sub("", words)
    if words in _BY_NAME:
        return _BY_NAME[words]
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
    return _COLORS[int.from_bytes(digest[:8]) % len(_COLORS)]
