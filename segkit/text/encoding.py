"""How class names become vectors: a text encoder, and templates for its input."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segkit import parse
from segkit.errors import InputError, short
from segkit.text.encoders import MINILM, MINILM_MODEL, imagenet_templates

TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class Encoding:
    """A text encoder with its templates; vectors of different encodings are not comparable."""

    encoder: str = MINILM
    """Name of the encoder, see `segkit.text.encoders`."""
    templates: tuple[str, ...] = (TEMPLATE,)
    """Texts in which `{}` stands for the word; a word's vector is the mean over them."""

    def __post_init__(self) -> None:
        for template in self.templates or ("",):
            if "{}" not in template:
                hint = "write {} where the name belongs"
                raise InputError(f"no {{}} in the template {template!r}", hint=hint)

    @classmethod
    def from_names(cls, encoder: str, templates: str) -> "Encoding":
        """The encoding of an encoder's name and of a name or file of templates."""
        return cls(encoder, load_templates(templates))

    @property
    def name(self) -> str:
        """The encoder's name in manifests and messages."""
        return MINILM_MODEL if self.encoder == MINILM else self.encoder

    def to_metadata(self, encoder_digest: str | None) -> dict[str, str]:
        """Metadata for a run's safetensors file, with the digest of the encoder's weights.

        One entry holds it all: safetensors writes several in random order, which would change the
        file's SHA-256.
        """
        values = {
            "encoder": self.encoder,
            "templates": self.templates,
            "weights": encoder_digest,
        }
        return {"encoding": json.dumps(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "tuple[Encoding, str | None]":
        """Read an encoding and a digest from metadata, the inverse of `to_metadata`.

        Early runs record neither and have the shipped encoding.
        """
        values = parse.parse_json(
            metadata.get("encoding", "{}"), file="metadata", record="encoding"
        )
        stored = parse.convert(values, _Stored, file="metadata", noun="an encoding")
        return cls(stored.encoder, stored.templates), stored.weights

    def command_options(self) -> list[str]:
        """The options of `segkit vocabulary encode` for this encoding.

        They contain `--templates FILE` for templates without a name.
        """
        options = [] if self.encoder == MINILM else ["--encoder", self.encoder]
        if self.templates == (TEMPLATE,):
            return options
        if self.templates == ("{}",):
            return [*options, "--templates", "none"]
        return [*options, "--templates", "imagenet" if len(self.templates) == 80 else "FILE"]


@dataclass(frozen=True)
class _Stored:
    """The metadata of a run's safetensors file."""

    encoder: str = MINILM
    templates: tuple[str, ...] = (TEMPLATE,)
    weights: str | None = None


SHIPPED = Encoding()
"""The encoding of the vectors that ship with the package."""


def load_templates(name_or_file: str) -> tuple[str, ...]:
    """The templates of a name, or of a text file with one template per line.

    Args:
        name_or_file: photo (`a photo of a {}.`), none (the plain name), imagenet (CLIP's 80, from
            open_clip) or a file.

    Raises:
        InputError: neither a known name nor a file, or open_clip is not installed.
    """
    if name_or_file == "photo":
        return (TEMPLATE,)
    if name_or_file == "none":
        return ("{}",)
    if name_or_file == "imagenet":
        return imagenet_templates()
    if not parse.exists(name_or_file):
        hint = "give photo, none, imagenet or a text file with one template a line"
        raise InputError(f"no templates {name_or_file!r}", hint=hint)
    lines = parse.read_lines(Path(name_or_file))
    if not lines:
        raise InputError("has no templates", file=name_or_file, hint="write one a line")
    for number, line in lines:
        if "{}" not in line:
            message = f"no {{}} in the template {short(repr(line))}"
            hint = "write {} where the name belongs"
            raise InputError(message, file=name_or_file, record=f"line {number}", hint=hint)
    return tuple(line for _, line in lines)
