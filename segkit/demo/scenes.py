"""Generated scenes: textured ground and sky (stuff) under overlapping shapes (things), the same for the same seed."""

from dataclasses import dataclass

from segkit.sample import Kind


@dataclass(frozen=True, slots=True)
class SceneClass:
    """One class of the scenes and what each of the three data sets calls it."""

    id: int
    kind: Kind
    panoptic: str
    """Name in the COCO panoptic set."""
    semantic: str
    """Name in the ADE-like set; synonyms are separated by semicolons, as in ADE20K's own table."""
    boxes: str | None
    """Name in the Objects365-like set; None for stuff, which has no boxes."""


CLASSES = (
    SceneClass(1, "thing", "circle", "circle", "Disc"),
    SceneClass(2, "thing", "square", "square", "Square Block"),
    SceneClass(3, "thing", "triangle", "triangle", "Triangular Shape"),
    SceneClass(4, "thing", "star", "star", "Five-pointed Star"),
    SceneClass(5, "thing", "ring", "ring;hoop", "Hoop"),
    SceneClass(6, "thing", "cross", "cross", "Cruciform"),
    SceneClass(7, "thing", "crescent", "crescent;crescent moon", "Crescent Moon"),
    SceneClass(8, "stuff", "sky", "sky;blue sky", None),
    SceneClass(9, "stuff", "grass", "lawn;grass", None),
    SceneClass(10, "stuff", "water", "pond;water", None),
    SceneClass(11, "stuff", "sand", "sand;beach", None),
    SceneClass(12, "stuff", "brick wall", "brickwork;brick wall", None),
)
"""The one table of names; whatever stands in it has a text embedding that ships with the package."""


def names() -> tuple[str, ...]:
    """Every name and synonym in use, lower case, each once."""
    words = {word for entry in CLASSES for word in (entry.panoptic, *entry.semantic.split(";"), entry.boxes) if word}
    return tuple(sorted({word.lower() for word in words}))
