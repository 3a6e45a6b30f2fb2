"""Text encoders by name: one vector per text.

`minilm` needs no PyTorch, `clip:ARCH/WEIGHTS` is a model of open_clip,
`hf:FOLDER_OR_NAME` one of transformers. Missing weights are downloaded from the Hugging Face hub
once.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import torchrun
from segkit.errors import InputError, SegkitError, first_line
from segkit.extras import require_extra
from segkit.file_names import expand_home
from segkit.text import minilm

Vectors = NDArray[np.float32]

MINILM = "minilm"
MINILM_MODEL = minilm.MODEL
_BATCH = 256


@dataclass(frozen=True)
class TextEncoder:
    """A loaded encoder."""

    encode: Callable[[Sequence[str]], Vectors]
    """N texts -> (N, D) vectors, not scaled to unit length."""
    digest: str
    """Digest of the weights, which may differ between two encoders of one name."""
    unknown: Callable[[Sequence[str]], list[bool]] = lambda texts: [False] * len(texts)
    """For each text, whether the encoder knows none of its tokens, so that it means nothing."""


def load_encoder(spec: str) -> TextEncoder:
    """Load an encoder by name.

    Raises:
        InputError: an unknown name, an extra that is not installed, or a folder without a text
            model.
        SegkitError: weights that could not be fetched.
    """
    kind, _, name = spec.partition(":")
    if kind not in LOADERS or bool(name) == (kind == MINILM):
        hint = "give minilm, clip:ARCH/WEIGHTS (such as clip:ViT-L-14/openai) or hf:FOLDER_OR_NAME"
        raise InputError(f"unknown text encoder {spec!r}", hint=hint)
    return LOADERS[kind](name)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates that CLIP's authors ensembled for ImageNet, from open_clip."""
    require_extra("clip", "--templates imagenet")
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def _minilm(_: str) -> TextEncoder:
    model = minilm.load_minilm()
    return TextEncoder(model.encode, MINILM_MODEL, model.unknown)


def _clip(name: str) -> TextEncoder:
    """An open_clip model, `ARCH/TAG` or `ARCH/FILE`.

    Its vectors are the projected text features.
    """
    require_extra("clip", "the text encoder clip")
    import open_clip

    arch, _, weights = name.partition("/")
    if arch not in open_clip.list_models():
        hint = "give one of open_clip.list_models(), such as ViT-L-14"
        message = f"open_clip has no architecture {arch!r}"
        raise InputError(message, record=f"clip:{name}", hint=hint)
    known = open_clip.list_pretrained_tags_by_model(arch)
    if weights not in known and not Path(weights).is_file():
        hint = f"give a file of weights or one of: {', '.join(known) or 'none is published'}"
        raise InputError(f"no weights {weights!r} of {arch}", record=f"clip:{name}", hint=hint)
    with _fetched(f"clip:{name}"):
        model = open_clip.create_model(arch, pretrained=weights, device=_device()).eval()
    return _encoder(model, open_clip.get_tokenizer(arch), model.encode_text)


def _hf(name: str) -> TextEncoder:
    """A transformers model.

    Its vectors are the text features of a CLIP-like model, else the mean over the last hidden
    states of the tokens.
    """
    require_extra("hf", "the text encoder hf")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = expand_home(name)
    local = Path(name).is_dir()
    if not local and name.startswith((".", "/", "~")):
        hint = "give the folder of a text model, or its name on the hub"
        raise InputError("no such folder", file=name, hint=hint)
    with _fetched(f"hf:{name}", local=local):
        # transformers would ask on a terminal whether to run code that comes with a model
        options = {"local_files_only": local, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModel.from_pretrained(name, **options).to(_device()).eval()
    # SigLIP was trained on texts padded to full length, and reads the last token.
    padding = "max_length" if model.config.model_type.startswith("siglip") else True

    def tokens(texts: Sequence[str]) -> Any:
        return tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")

    def features(inputs: Any) -> Any:
        if hasattr(model, "get_text_features"):
            output = model.get_text_features(**inputs)
            return getattr(output, "pooler_output", output)
        states = model(**inputs).last_hidden_state  # (N, L, D)
        mask = inputs["attention_mask"][..., None].to(states.dtype)  # (N, L, 1)
        return (states * mask).sum(1) / mask.sum(1)

    def unknown(texts: Sequence[str]) -> list[bool]:
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        return [all(token == tokenizer.unk_token_id for token in row) for row in ids]

    return replace(_encoder(model, tokens, features), unknown=unknown)


def _encoder(
    model: Any, tokenize: Callable[[Sequence[str]], Any], features: Callable[[Any], Any]
) -> TextEncoder:
    """An encoder that runs a PyTorch model on batches of texts."""
    import torch

    def encode(texts: Sequence[str]) -> Vectors:
        with torch.inference_mode():
            batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
            inputs = (tokenize(list(batch)).to(_device()) for batch in batches)
            rows = [features(tokens).float().cpu().numpy() for tokens in inputs]
        return np.concatenate(rows)

    return TextEncoder(encode, _digest(model.state_dict()))


def _digest(state: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 over the names and bytes of all weights."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]


def _device() -> str:
    """This process's GPU; the CPU where it has none."""
    import torch

    index = torchrun.local_rank()
    # GPUs are counted even where the driver is too old for PyTorch to use them
    is_usable = torch.cuda.is_available() and index < torch.cuda.device_count()
    return f"cuda:{index}" if is_usable else "cpu"


@contextmanager
def _fetched(spec: str, *, local: bool = False) -> Iterator[None]:
    """Load weights, downloading them if necessary; turns any failure into an error of segkit."""
    try:
        yield
    except Exception as error:  # errors of the hub and of the loaders have no common type
        reason = first_line(error)
        if local:
            message = f"not a text model ({reason})"
            raise InputError(message, file=spec, hint="give another folder") from error
        hint = "give a local copy of the weights"
        raise SegkitError(f"{spec}: could not be fetched ({reason})", hint=hint) from error


LOADERS: dict[str, Callable[[str], TextEncoder]] = {MINILM: _minilm, "clip": _clip, "hf": _hf}
"""Prefix of an encoder's name -> loader that takes the rest of the name."""
