import atexit
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from segkit.browse.connect import fiftyone
from segkit.errors import SegkitError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy(
    "toy",
    (Category(0, "grass", "stuff"), Category(7, "disc", "thing"), Category(9, "box", "thing")),
)
HEIGHT, WIDTH = 12, 17


@pytest.fixture(scope="session")
def fo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """FiftyOne on a MongoDB in a temporary folder.

    Tests skip without it, or fail where CI requires it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for key in ("FIFTYONE_DATABASE_URI", "FIFTYONE_PRIVATE_DATABASE_PORT"):
            patch.delenv(key, raising=False)
        patch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path_factory.mktemp("mongo")))
        try:
            module = fiftyone()
        except SegkitError as error:
            if os.environ.get("SEGKIT_REQUIRE_MONGO") == "1":
                pytest.fail(f"SEGKIT_REQUIRE_MONGO=1, but {error}")
            pytest.skip(str(error))
        yield module
        _stop_mongodb(module)


def _stop_mongodb(fo: ModuleType) -> None:
    """Stop the MongoDB that these tests started, before pytest removes its folder."""
    database = fo.core.odm.database
    service = database._db_service
    if service is not None and not service.attached:  # not that of another process
        atexit.unregister(database._delete_non_persistent_datasets_if_allowed)  # needs MongoDB
        database._client.close()
        service.child.stdin.close()
        service.child.wait()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def masks() -> dict[str, np.ndarray]:
    """Three disjoint regions; the ring has a hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    radius = np.hypot(rows - 5, columns - 6)
    ring = (radius < 4.5) & (radius > 1.5)
    block = (rows >= 6) & (columns >= 12)
    return {"ring": ring, "block": block, "rest": ~ring & ~block & (rows > 0)}


def panoptic_sample(name: str = "a", *, score: float | None = None) -> Sample:
    source = "human" if score is None else "prediction"
    shapes = masks()
    segments = []
    for class_id, shape, annotation in ((0, "rest", "31"), (7, "ring", "32"), (9, "block", "33")):
        counts = rle.encode(shapes[shape])
        segments.append(
            Segment(
                class_id,
                TAXONOMY.by_id[class_id].kind,
                rle.box(counts, HEIGHT, WIDTH),
                counts,
                float(shapes[shape].sum()),
                is_crowd=shape == "block",
                mask_from=source,
                score=score,
                source_id=annotation,
            )
        )
    return Sample(name, f"images/{name}.png", WIDTH, HEIGHT, tuple(segments))
