import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "fiftyone", "pandas", "cv2", "scipy", "matplotlib", "transformers", "pyarrow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built offline from a copy of the tree to keep build folders out of the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("segkit", "commands", "schemas"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_segkit_is_the_only_top_level_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"segkit", info}
    entry = wheel.read(f"{info}/entry_points.txt").decode()
    assert "segkit = segkit.commands.entry:main" in entry


def test_every_module_and_data_file_is_inside(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    expected = set()
    for folder, package in (
        ("segkit", "segkit"),
        ("commands", "segkit/commands"),
        ("schemas", "segkit/schemas"),
    ):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".typed", ".json", ".safetensors", ".toml", ".html", ".css"):
                expected.add(f"{package}/{file.relative_to(ROOT / folder).as_posix()}")
    assert expected - inside == set()
    rooms = {file.parent.name for file in (ROOT / "segkit").glob("*/__init__.py")}
    assert rooms and all(f"segkit/{room}/__init__.py" in inside for room in rooms)
    recipes = {file.name for file in (ROOT / "segkit" / "recipes").glob("*.toml")}
    assert recipes and all(f"segkit/recipes/{name}" in inside for name in recipes)
    assert "segkit/schemas/taxonomies/ade20k-150.json" in inside
    assert "segkit/schemas/embeddings/all-minilm-l6-v2.safetensors" in inside
    assert "segkit/commands/app.py" in inside


def test_the_installed_wheel_finds_its_taxonomies_and_embeddings(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """-I and a separate path hide the tree, so that nothing comes from the editable install."""
    wheel.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.meta_path = "
        "[f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import segkit, segkit.commands.app\n"
        "from segkit.taxonomy import load_taxonomy\n"
        "from segkit.text.embeddings import EmbeddingStore\n"
        "from segkit.recipes.load import load_recipe; load_recipe('dataseg-mini')\n"
        "print(segkit.__file__, EmbeddingStore().embed(load_taxonomy('voc-20')).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == [str(tmp_path / "segkit/__init__.py"), "(20,", "384)"], (
        done.stderr
    )


@pytest.mark.parametrize(
    "code",
    [
        "import segkit",
        "import segkit.taxonomy, segkit.sample, segkit.shards.manifest, segkit.errors",
        "from segkit.commands.app import main; sys.argv = ['segkit', '--help']; main()",
        "from segkit.commands.app import main; sys.argv = ['segkit', 'vocabulary', 'list']; main()",
    ],
)
def test_heavy_libraries_load_only_where_used(code: str) -> None:
    script = (
        "import sys, json, contextlib, io\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    {code}\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "segkit" in loaded
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)
