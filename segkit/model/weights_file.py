"""The file of a backbone's initial weights, checked without torch."""

from pathlib import Path

from segkit.errors import InputError
from segkit.file_names import expand_home
from segkit.hub import WEIGHTS

_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".pth.tar")
"""Extensions of files that `torch.save` writes."""
_ZIP = b"PK\x03\x04"
"""First bytes of such a file, whatever its extension."""


def weights_file(name: str) -> Path:
    """The safetensors file that `model.backbone_weights` names; `~` is the home folder.

    Raises:
        InputError: a folder, no such file, or a file of `torch.save`, which is never read.
    """
    path = Path(expand_home(name))
    if path.is_dir():
        raise InputError("is a folder, not a file of weights", file=path, hint=_hint_inside(path))
    if not path.is_file():
        hint = "set model.backbone_weights to timm or to a safetensors file"
        raise InputError("no such file", file=path, hint=hint)
    if _is_pickle(path):
        message = "is a pickle of PyTorch, which is never read, since unpickling can run code"
        raise InputError(message, file=path, hint=_conversion(path))
    return path


def _hint_inside(folder: Path) -> str:
    """The file of a folder to give instead, or how to make it."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    weights = [path for path in files if path.suffix == ".safetensors"]
    weights.sort(key=lambda path: path.name != WEIGHTS)
    if weights:
        return f"set model.backbone_weights to the file in it, such as {weights[0]}"
    pickles = [path for path in files if _is_pickle(path)]
    return _conversion(pickles[0]) if pickles else "it holds no safetensors file; give another"


def _is_pickle(path: Path) -> bool:
    if path.name.lower().endswith(_PICKLES):
        return True
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _conversion(path: Path) -> str:
    """A line of Python that writes the weights of a pickle as safetensors."""
    target = path.with_name(f"{path.name.partition('.')[0]}.safetensors")
    return (
        f"write {target} once, by Python: import timm, safetensors.torch; "
        f"safetensors.torch.save_file(timm.models.load_state_dict({str(path)!r}), {str(target)!r})"
    )
