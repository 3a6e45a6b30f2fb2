"""The extras of the distribution: which packages each adds, and the error where one is missing.

The core needs none of them: it converts, inspects, validates, splits, merges, compares and exports
sets, and evaluates predictions.
"""

import importlib.util
from collections.abc import Mapping

from segkit.errors import InputError

DISTRIBUTION = "segkit-cv"
"""Name on PyPI, where `segkit` is a stranger's; the package and the command are `segkit`."""
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": ("torch", "torchvision", "timm", "tensorboard", "huggingface_hub", "scipy"),
    "browse": ("fiftyone",),
    "hf": ("transformers", "torch"),
    "clip": ("open_clip", "torch"),
    "minilm": ("tokenizers", "scipy", "huggingface_hub"),
    "ray": ("ray",),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""Extra -> the packages that it adds, as they are imported."""


class MissingExtraError(InputError, ImportError):
    """A package of an extra is missing or unusable; the hint is the command that installs it."""


def install_command(extra: str) -> str:
    """The command that adds an extra to an installed segkit."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def require_extra(extra: str, purpose: str) -> None:
    """Refuse work that needs an extra; imports none of its packages.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what needs it, the subject of the message.

    Raises:
        MissingExtraError: one of its packages is not installed.
    """
    for package in EXTRAS[extra]:
        if not _is_installed(package):
            raise missing_extra(extra, package, purpose)


def missing_extra(extra: str, package: str, purpose: str) -> MissingExtraError:
    """The error for a package of an extra that cannot be imported."""
    message = f"{purpose} needs the package {package}, which is not installed"
    return MissingExtraError(message, hint=f"run: {install_command(extra)}")


def as_missing_extra(error: ImportError, purpose: str) -> MissingExtraError | None:
    """The error for an import that failed; None where the module belongs to no extra.

    An installed package may be broken or too old.
    """
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, names in EXTRAS.items() if package in names), None)
    if extra is None:
        return None
    if not _is_installed(package):
        return missing_extra(extra, package, purpose)
    message = f"{purpose} needs the package {package}, which cannot be imported ({error})"
    command = install_command(extra).replace("install", "install --upgrade", 1)
    return MissingExtraError(message, hint=f"run: {command}")


def _is_installed(package: str) -> bool:
    try:
        spec = importlib.util.find_spec(package)
        is_folder = spec is not None and spec.origin is None and spec.submodule_search_locations
        return spec is not None and not is_folder  # a folder without __init__.py is no package
    except ImportError:  # a hook that blocks it
        return False
    except ValueError:  # it is imported, and has no spec
        return True
