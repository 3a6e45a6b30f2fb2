"""How class names become vectors: the text encoder, and the texts that a name is read in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import InputError
from segkit.text.encoders import MINILM, MINILM_MODEL, imagenet_templates

TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class Encoding:
    """How words become vectors; vectors of different encodings cannot be compared."""

    encoder: str = MINILM
    """As `segkit.text.encoders` names it."""
    templates: tuple[str, ...] = (TEMPLATE,)
    """Texts in which `{}` stands for the word; the vector of a word is the mean over them."""

    def __post_init__(self) -> None:
        for template in self.templates or ("",):
            if "{}" not in template:
                raise InputError(
                    f"no {{}} in the template {template!r}", hint="write {} where the name belongs"
                )

    @property
    def name(self) -> str:
        """How manifests and messages name the encoder."""
        return MINILM_MODEL if self.encoder == MINILM else self.encoder

    @classmethod
    def of(cls, encoder: str, templates: str) -> "Encoding":
        """The encoding of an encoder's name and `templates_of` a name or file."""
        return cls(encoder, templates_of(templates))

    def to_metadata(self, weights: str | None) -> dict[str, str]:
        """What a run tells of it in a safetensors file, with the digest of the encoder's weights.

        One entry: safetensors writes several in no fixed order, and the file has a digest.
        """
        told = {"encoder": self.encoder, "templates": self.templates, "weights": weights}
        return {"encoding": json.dumps(told)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "tuple[Encoding, str | None]":
        """Inverse of `to_metadata`: encoding and digest of the weights; runs of old tell neither,
        being as shipped."""
        told = json.loads(metadata.get("encoding", "{}"))
        return cls(told.get("encoder", MINILM), tuple(told.get("templates", [TEMPLATE]))), told.get(
            "weights"
        )


SHIPPED = Encoding()
"""The encoding of the vectors that ship."""


def templates_of(spec: str) -> tuple[str, ...]:
    """The templates of a name, or those of a text file with one a line.

    photo: `a photo of a {}.`; none: the plain name; imagenet: the 80 of CLIP, from open_clip.

    Raises:
        InputError: neither a known name nor a file, or open_clip is not installed.
    """
    if spec in ("photo", "none"):
        return (TEMPLATE,) if spec == "photo" else ("{}",)
    if spec == "imagenet":
        return imagenet_templates()
    if not Path(spec).is_file():
        hint = "give photo, none, imagenet or a text file with one template a line"
        raise InputError(f"no templates {spec!r}", hint=hint)
    lines = Path(spec).read_text("utf-8").splitlines()
    return tuple(line for line in lines if line.strip())


def command_options(encoding: Encoding) -> list[str]:
    """The options of `segkit vocabulary encode` for an encoding; FILE where its templates have no
    name."""
    options = [] if encoding.encoder == MINILM else ["--encoder", encoding.encoder]
    if encoding.templates == (TEMPLATE,):
        return options
    many = "imagenet" if len(encoding.templates) == 80 else "FILE"
    return [*options, "--templates", "none" if encoding.templates == ("{}",) else many]
