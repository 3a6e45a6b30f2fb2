"""Read and write tensors in safetensors files; every damaged file is refused by the same error.

Nothing here imports torch unless tensors of torch are asked for.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from segkit.errors import InputError
from segkit.storage import reason, require_regular

Framework = Literal["numpy", "pt"]
"""NumPy arrays or tensors of torch; NumPy has no bfloat16 and no 8-bit floats."""
UNREADABLE = "not readable"


def read_tensors(
    file: Path,
    names: Collection[str] | None = None,
    *,
    framework: Framework = "numpy",
    problem: str = UNREADABLE,
    hint: str | None = None,
) -> dict[str, Any]:
    """The tensors of a file by their names.

    Args:
        file: on this machine.
        names: those to read; None reads all.
        framework: of the tensors.
        problem: the message of the error, which adds the reason in parentheses.
        hint: of the error.

    Raises:
        InputError: the file cannot be read, is not a safetensors file or is truncated, lacks one of
            the names, or has a type of numbers that the framework lacks.
    """
    tensors, _ = read_tensors_and_metadata(
        file, names, framework=framework, problem=problem, hint=hint
    )
    return tensors


def read_tensors_and_metadata(
    file: Path,
    names: Collection[str] | None = None,
    *,
    framework: Framework = "numpy",
    problem: str = UNREADABLE,
    hint: str | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and metadata of one file, even if another replaces it; as `read_tensors`."""
    with _opened(file, framework, problem, hint) as opened:
        kept = opened.keys() if names is None else names
        return {name: opened.get_tensor(name) for name in kept}, opened.metadata() or {}


def read_metadata(
    file: Path, *, problem: str = UNREADABLE, hint: str | None = None
) -> dict[str, str]:
    """The metadata of a file, empty where it has none; arguments and errors as `read_tensors`."""
    with _opened(file, "numpy", problem, hint) as opened:
        return opened.metadata() or {}


def write_tensors(
    file: Path,
    tensors: Mapping[str, Any],
    metadata: dict[str, str] | None = None,
    *,
    framework: Framework = "numpy",
) -> None:
    """Write a file that everybody can read; only tensors of torch need not be contiguous."""
    if framework == "pt":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    else:
        from safetensors.numpy import save_file as save_arrays

        save_arrays(dict(tensors), file, metadata)
    # safetensors writes 0600: nobody else on a shared disk could use it, and a wheel would keep it
    file.chmod(0o644)


@contextmanager
def _opened(file: Path, framework: Framework, problem: str, hint: str | None) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(require_regular(file), framework=framework) as opened:
            yield opened
    # AttributeError, TypeError: NumPy lacks the type of the numbers
    except (OSError, SafetensorError, AttributeError, TypeError) as error:
        raise InputError(f"{problem} ({reason(error)})", file=file, hint=hint) from error
