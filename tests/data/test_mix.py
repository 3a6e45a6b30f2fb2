import multiprocessing
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.data.batch import Batch, collate, uncollate
from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix, choose_crop, name_killed_workers
from segkit.errors import InputError, SegkitError
from segkit.recipes.schema import DataConfig
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.data.scenes import TAXONOMY, instance_sample, panoptic_sample, picture

Sets = list[NamedDataset]
CONFIG = DataConfig(image_size=64, batch_size=3, zoom_probability=0.3)
KILLED = "a process that loads data was killed; memory or"


def publish(
    folder: Path,
    kind: SetKind,
    samples: Iterable[Sample],
    image: Callable[[int], bytes] | None = None,
) -> ShardSet:
    make = image or (lambda seed: picture(seed=seed))
    records = [(sample, make(seed)) for seed, sample in enumerate(samples)]
    return write_set(
        folder,
        records,
        Header(taxonomy=TAXONOMY, kind=kind, name=folder.name, split="train", command="test"),
        shard_size=20_000,
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("sets")
    panoptic = [panoptic_sample(f"p{seed}", seed) for seed in range(8)]
    boxes = [instance_sample(f"b{seed}", seed, boxes_only=True) for seed in range(11)]
    instances = [instance_sample(f"i{seed}", seed) for seed in range(5)]
    return [
        NamedDataset("pan", publish(folder / "pan", "panoptic", panoptic), 2.0),
        NamedDataset("sem", publish(folder / "sem", "semantic", panoptic), 1.0),
        NamedDataset("boxes", publish(folder / "boxes", "boxes", boxes), 1.0),
        NamedDataset("inst", publish(folder / "inst", "instance", instances), 1.0),
    ]


def equal(first: Batch, second: Batch) -> bool:
    return (
        (first.dataset, first.task) == (second.dataset, second.task)
        and first.sample_ids == second.sample_ids
        and torch.equal(first.images, second.images)
        and all(
            torch.equal(ours.masks.bits, theirs.masks.bits)
            for ours, theirs in zip(first.targets, second.targets, strict=True)
        )
        and all(
            torch.equal(getattr(ours, name), getattr(theirs, name))
            for ours, theirs in zip(first.targets, second.targets, strict=True)
            for name in (
                "labels",
                "is_thing",
                "has_mask",
                "boxes",
                "is_part",
                "void",
                "padding",
            )
        )
    )


def run(mix: DataMix, start: int, stop: int) -> list[Batch]:
    batches = list(mix.batches(start, stop))
    assert [step for step, _ in batches] == list(range(start, stop))
    return [batch for _, batch in batches]


def with_workers(workers: int) -> DataConfig:
    return DataConfig(image_size=64, batch_size=3, zoom_probability=0.3, workers=workers)


def test_a_batch_holds_one_set_and_its_task(sets: Sets) -> None:
    mix = DataMix(sets, CONFIG, seed=0)
    tasks = {"pan": "panoptic", "sem": "semantic", "boxes": "instance", "inst": "instance"}
    drawn = set()
    for batch in run(mix, 0, 24):
        drawn.add(batch.dataset)
        assert batch.task == tasks[batch.dataset] == mix[batch.dataset].task and len(batch) == 3
        assert mix[batch.dataset].taxonomy == TAXONOMY
        assert batch.images.shape == (3, 3, 64, 64) and batch.images.dtype == torch.uint8
        images = batch.to("cpu").images
        assert images.dtype == torch.float32 and torch.equal(images * 255, batch.images.float())
        assert images.max() > 0.5
        assert {identity[0] for identity in batch.sample_ids} == {
            "p" if batch.dataset == "sem" else batch.dataset[0]
        }
        for targets in batch.targets:
            assert targets.masks.dense().shape[1:] == (64, 64)
            assert bool(targets.has_mask.any()) <= (batch.dataset != "boxes")
    assert drawn == set(tasks)


def test_workers_do_not_change_the_batches(sets: Sets) -> None:
    single = run(DataMix(sets, with_workers(0), seed=5), 0, 7)
    shared = run(DataMix(sets, with_workers(2), seed=5), 0, 7)
    assert all(equal(*pair) for pair in zip(single, shared, strict=True))
    assert not equal(single[0], run(DataMix(sets, with_workers(0), seed=6), 0, 1)[0])


def test_every_map_of_a_batch_is_pinned_for_a_gpu(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a machine with a GPU can pin memory, so the test marks tensors instead."""
    pinned: set[int] = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.add(copy.untyped_storage().data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = DataMix(sets, CONFIG, seed=5).batch(0)
    restored = uncollate(collate(batch).pin_memory())
    maps = [
        restored.images,
        *(getattr(t, name) for t in restored.targets for name in ("void", "padding")),
        *(t.masks.bits for t in restored.targets if t.has_mask.any()),
    ]
    assert all(tensor.untyped_storage().data_ptr() in pinned for tensor in maps)
    assert equal(restored, batch)


def test_a_resumed_run_sees_the_same_batches(sets: Sets) -> None:
    full = run(DataMix(sets, CONFIG, seed=2), 0, 14)
    resumed = run(DataMix(sets, CONFIG, seed=2), 9, 14)
    assert all(equal(*pair) for pair in zip(full[9:], resumed, strict=True))
    mix = DataMix(sets, CONFIG, seed=2)
    backwards = [run(mix, step, step + 1)[0] for step in (13, 4, 11)]
    assert all(equal(full[step], batch) for step, batch in zip((13, 4, 11), backwards, strict=True))


def test_a_mix_can_be_pickled(sets: Sets) -> None:
    mix = DataMix(sets, CONFIG, seed=2)
    before = run(mix, 0, 3)
    after = run(pickle.loads(pickle.dumps(mix)), 0, 3)
    assert all(equal(*pair) for pair in zip(before, after, strict=True))


def test_ranks_see_slices_of_one_global_batch(sets: Sets) -> None:
    full = run(DataMix(sets, DataConfig(image_size=64, batch_size=4), seed=1), 0, 6)
    halves = [
        run(
            DataMix(sets, DataConfig(image_size=64, batch_size=2), seed=1, rank=rank, world_size=2),
            0,
            6,
        )
        for rank in range(2)
    ]
    for batch, left, right in zip(full, *halves, strict=True):
        assert batch.dataset == left.dataset == right.dataset
        assert batch.sample_ids == left.sample_ids + right.sample_ids
        assert torch.equal(batch.images, torch.cat([left.images, right.images]))


def test_an_epoch_shows_every_image_once(sets: Sets) -> None:
    mix = DataMix(sets[:1], DataConfig(image_size=64, batch_size=2), seed=3)
    epochs = [
        [identity for batch in run(mix, 4 * e, 4 * e + 4) for identity in batch.sample_ids]
        for e in range(2)
    ]
    assert [sorted(epoch) for epoch in epochs] == [sorted(f"p{seed}" for seed in range(8))] * 2
    assert epochs[0] != epochs[1]


def test_an_image_is_augmented_anew_every_epoch(sets: Sets) -> None:
    single = [data for data in sets if data.name == "pan"]
    batches = run(DataMix(single, DataConfig(image_size=64, batch_size=8), seed=3), 0, 2)
    views = [batch.images[batch.sample_ids.index("p3")] for batch in batches]
    assert not torch.equal(views[0], views[1])


def test_zoom_shows_small_objects_large() -> None:
    sample = instance_sample("a", 4, height=400, width=600)
    assert sample.segments
    policies = dict.fromkeys((5, 9, 2, 30), "mask")
    shares = {}
    for probability in (0.0, 1.0):
        config = DataConfig(image_size=64, zoom_probability=probability)
        crops = [
            choose_crop(sample, policies, config, np.random.default_rng(seed))
            for seed in range(100)
        ]
        shares[probability] = np.median([crop.content[2] / crop.source[2] for crop in crops])
    assert shares[1.0] > 3 * shares[0.0]


def test_targets_follow_the_mask_policy(sets: Sets) -> None:
    instances = [data for data in sets if data.name == "inst"]
    batch = run(
        DataMix(instances, DataConfig(image_size=64, mask_policy={"inst": "box"}), seed=0), 0, 1
    )[0]
    assert not any(bool(targets.has_mask.any()) for targets in batch.targets)
    config = DataConfig(image_size=64, mask_policy={"inst": "box", "inst:cat": "mask"})
    (batch,) = run(DataMix(instances, config, seed=0), 0, 1)
    labels = torch.cat([targets.labels for targets in batch.targets])
    assert torch.equal(
        torch.cat([targets.has_mask for targets in batch.targets]), labels == TAXONOMY.index[5]
    )
    assert 0 < (labels == TAXONOMY.index[5]).sum() < len(labels)


def test_a_killed_loader_process_is_not_a_bug(sets: Sets) -> None:
    batches = DataMix(sets, with_workers(1), seed=0).batches(0, 50)
    next(batches)
    (worker,) = multiprocessing.active_children()
    # torch may raise its error at any line from the kill on.
    with pytest.raises(SegkitError, match=KILLED), name_killed_workers():
        worker.kill()
        for _ in batches:
            pass


@pytest.mark.parametrize(
    ("error", "killed"),
    [
        (EOFError(), True),  # half of a batch has arrived
        (ConnectionResetError("reset by peer"), True),
        (OSError("got end of file during message"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (RuntimeError("Pin memory thread exited unexpectedly"), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal"), False),
        (OSError("Caught OSError in DataLoader worker process 0.\nOriginal"), False),
        (RuntimeError("expected a tensor"), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_that_mean_a_killed_process(
    sets: Sets, monkeypatch: pytest.MonkeyPatch, error: Exception, killed: bool, workers: int
) -> None:
    """Without workers there is none that could be killed."""

    def failing(loader: object) -> Iterator[object]:
        raise error
        yield

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", failing)
    monkeypatch.setattr("segkit.data.mix.EXIT_SECONDS", 0.0)
    named = killed and workers > 0
    expected = (SegkitError, KILLED) if named else (type(error), f"^{re.escape(str(error))}$")
    with pytest.raises(expected[0], match=expected[1]):
        next(DataMix(sets, with_workers(workers), seed=0).batches(0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, workers: int) -> None:
    broken = publish(
        tmp_path / "broken",
        "panoptic",
        [panoptic_sample("bad-one", 0)],
        image=lambda seed: b"not an image",
    )
    mix = DataMix([NamedDataset("broken", broken, 1.0)], with_workers(workers), seed=0)
    with pytest.raises(InputError, match="bad-one") as error:
        next(iter(mix.batches(0, 1)))
    assert "\n" not in str(error.value)


def test_labels_of_another_size_are_named(tmp_path: Path) -> None:
    sample = panoptic_sample("wrong", 0)
    mismatched = Sample("wrong", "wrong.png", 99, 80, sample.segments)
    shards = publish(
        tmp_path / "unfit", "panoptic", [mismatched], image=lambda seed: picture(80, 99, seed=seed)
    )
    with pytest.raises(SegkitError, match=r"wrong.*validate"):
        next(iter(DataMix([NamedDataset("unfit", shards, 1.0)], CONFIG, seed=0).batches(0, 1)))


def test_invalid_mixes_are_refused(sets: Sets, tmp_path: Path) -> None:
    empty = publish(tmp_path / "empty", "boxes", [])
    wrong: list[tuple[Sets, DataConfig, str]] = [
        ([], CONFIG, "no data set"),
        ([sets[0], sets[0]], CONFIG, r"given more than once; give it once.*SET=WEIGHT"),
        (
            [sets[0], replace(sets[1], name=sets[0].name)],
            CONFIG,
            "two data sets are named .*; give each its own name",
        ),
        ([replace(sets[0], weight=0.0)], CONFIG, "its sampling weight is 0"),
        ([NamedDataset("empty", empty, 1.0)], CONFIG, "no images"),
        (sets, DataConfig(mask_policy={"elsewhere": "box"}), "elsewhere"),
        (sets, DataConfig(mask_policy={"pan:horse": "box"}), "horse"),
    ]
    for entries, config, message in wrong:
        with pytest.raises(InputError, match=message):
            DataMix(entries, config, seed=0)
