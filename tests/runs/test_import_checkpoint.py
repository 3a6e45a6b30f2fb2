"""A public Mask2Former imported as a run: logits, answers, then training and new classes."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError, Notice
from segkit.inference.predictor import Predictor
from segkit.masks import rle
from segkit.model.hf_processor import image_sizes
from segkit.runs.import_checkpoint import cached_run, import_checkpoint
from segkit.runs.open_run import check_inference, load_run, read_run_files
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy, load_taxonomy
from tests.model.checkpoints import mask2former, save, spread_queries, transformers
from tests.training.toy import write_toy_set

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
PHOTOS = [(384, 384), (300, 412), (500, 333)]


class Public(NamedTuple):
    """A checkpoint as Hugging Face has it."""

    model: Any
    folder: Path

    @property
    def spec(self) -> str:
        return f"hf:{self.folder}"


KINDS = {
    "panoptic": ("resnet18", "coco-panoptic-133"),
    "semantic": ("resnet18", "ade20k-150"),
    "instance": ("swin_tiny_patch4_window7_224", "coco-80"),
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Public]:
    """The checkpoint of a task, its class names in the order of the public files."""
    saved: dict[str, Public] = {}

    def make(task: str) -> Public:
        if task not in saved:
            backbone, vocabulary = KINDS[task]
            labels = load_taxonomy(vocabulary).names
            model = mask2former(backbone, labels)
            spread_queries(model, logits=6.0)
            saved[task] = Public(model, save(model, tmp_path_factory.mktemp(task)))
        return saved[task]

    return make


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of several sizes, without loss."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, (height, width) in enumerate(PHOTOS):
        small = rng.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{number}.png")
    return folder


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.parametrize("task", list(KINDS))
@torch.no_grad()
def test_class_and_mask_logits_are_the_checkpoints(
    public: Callable[[str], Public], task: str
) -> None:
    checkpoint, run = public(task), load_run(public(task).spec)
    (taxonomy,) = run.taxonomies.values()
    assert taxonomy == load_taxonomy(KINDS[task][1])
    images = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    text = run.class_embeddings(taxonomy).text
    ours = run.model(images, text, aux_outputs=False).queries
    expected = checkpoint.model((images - MEAN) / STD).class_queries_logits
    assert expected.std() > 2
    torch.testing.assert_close(ours.class_logits[:, -1], expected, rtol=1e-4, atol=1e-4)
    # In double precision, rounding cannot hide a mistake in the masks of so loud a model.
    images, model = images.double(), copy.deepcopy(checkpoint.model).double()
    masks = run.model.double()(images, text.double(), aux_outputs=False).queries.mask_logits
    theirs = model((images - MEAN) / STD).masks_queries_logits
    torch.testing.assert_close(masks[:, -1], theirs, rtol=1e-5, atol=1e-5)


def _predict(checkpoint: Public, photos: Path, out: Path, task: str) -> Iterator[Sample]:
    _run(
        *("predict", "--checkpoint", checkpoint.spec, "--images", str(photos), "--task", task),
        *("--out", str(out), "--no-overlays", "--device", "cpu"),
        *("--set", "inference.batch_size=1"),  # as by transformers below
    )
    return ShardSet.open(out / "predictions").samples()


@torch.no_grad()
def _outputs(checkpoint: Public, photos: Path, sample: Sample) -> tuple[Any, Any, tuple[int, int]]:
    """transformers' processor, its model's outputs and the size of an image."""
    processor = transformers.Mask2FormerImageProcessor.from_pretrained(checkpoint.folder)
    with Image.open(photos / sample.file_name) as image:
        pixels = processor(image, return_tensors="pt")
    return processor, checkpoint.model(**pixels), (sample.height, sample.width)


def _alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether at most one pixel in 100 differs.

    Rounding decides pixels of the attention masks, which move the logits of this random model by up
    to 0.01; tests/inference/test_mask2former.py compares post-processing of equal logits exactly.
    """
    return bool((ours != theirs).mean() <= 1e-2)


def test_predict_gives_transformers_semantic_maps(
    public: Callable[[str], Public], photos: Path, tmp_path: Path
) -> None:
    checkpoint, taxonomy = public("semantic"), load_taxonomy("ade20k-150")
    samples = list(_predict(checkpoint, photos, tmp_path, "semantic"))
    assert len(samples) == len(PHOTOS)
    for sample in samples:
        processor, outputs, size = _outputs(checkpoint, photos, sample)
        theirs = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
        ours = _class_map(sample, taxonomy)
        assert len(np.unique(ours)) > 2
        assert _alike(ours, theirs.numpy())


def _class_map(sample: Sample, taxonomy: Taxonomy) -> NDArray[np.int64]:
    """(H, W) index of the class of each pixel, -1 without one."""
    size = sample.height, sample.width
    classes = np.full(size, -1)
    for segment in sample.segments:
        assert segment.mask is not None
        classes[rle.decode(segment.mask, *size)] = taxonomy.index[segment.class_id]
    return classes


def test_predict_gives_transformers_panoptic_segments(
    public: Callable[[str], Public], photos: Path, tmp_path: Path
) -> None:
    checkpoint, taxonomy = public("panoptic"), load_taxonomy("coco-panoptic-133")
    total = 0
    for sample in _predict(checkpoint, photos, tmp_path, "panoptic"):
        processor, outputs, size = _outputs(checkpoint, photos, sample)
        theirs = processor.post_process_panoptic_segmentation(
            outputs, label_ids_to_fuse=set(), target_sizes=[size]
        )[0]
        numbers = theirs["segmentation"].numpy()
        expected = np.full(size, -1)
        for segment in theirs["segments_info"]:
            expected[numbers == segment["id"]] = segment["label_id"]
        ours = _class_map(sample, taxonomy)
        assert _alike(ours, expected)
        kinds = [taxonomy.categories[s["label_id"]].kind for s in theirs["segments_info"]]
        things = [segment for segment in sample.segments if segment.kind == "thing"]
        assert len(things) == kinds.count("thing")
        total += len(sample.segments)
    assert total > 3


def test_predict_gives_transformers_instances(
    public: Callable[[str], Public], photos: Path, tmp_path: Path
) -> None:
    checkpoint, taxonomy = public("instance"), load_taxonomy("coco-80")
    total = 0
    for sample in _predict(checkpoint, photos, tmp_path, "instance"):
        processor, outputs, size = _outputs(checkpoint, photos, sample)
        theirs = processor.post_process_instance_segmentation(
            outputs, target_sizes=[size], return_binary_maps=True
        )[0]
        left = [
            (taxonomy.index[segment.class_id], segment.score, rle.decode(segment.mask, *size))
            for segment in sample.segments
        ]
        total += len(left)
        for info, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True):
            index = next(
                index
                for index, (label, score, ours) in enumerate(left)
                if label == info["label_id"]
                and score == pytest.approx(info["score"], abs=1e-2)
                and _alike(ours, mask.bool().numpy())
            )
            left.pop(index)
        assert not left
    assert total > 3


def test_labels_in_any_order_keep_their_rows(tmp_path: Path) -> None:
    names = list(load_taxonomy("cityscapes-19").names)
    labels = names[::-1]
    model = mask2former("resnet18", labels)
    run = load_run(import_checkpoint(f"hf:{save(model, tmp_path / 'model')}", tmp_path / "run"))
    (taxonomy,) = run.taxonomies.values()
    assert list(taxonomy.names) == names and taxonomy.name == "cityscapes-19"
    queries = torch.randn(5, 64)
    logits = run.model.text_classifier(queries, run.class_embeddings(taxonomy).text)
    expected = model.class_predictor(queries)
    torch.testing.assert_close(logits[:, :-1], expected[:, :-1].flip(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[:, -1], expected[:, -1], rtol=1e-4, atol=1e-4)


def test_training_continues_from_an_imported_run(
    public: Callable[[str], Public], tmp_path: Path
) -> None:
    run = import_checkpoint(public("panoptic").spec, tmp_path / "public")
    data = write_toy_set(tmp_path / "set")
    still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0.0"]
    small = ["data.image_size=64", "data.batch_size=2", "loss.points=64"]
    for source in (str(run), public("panoptic").spec):
        out = tmp_path / f"trained-{len(source)}"
        _run(
            *("train", "--recipe", str(run / "recipe.toml"), "--data", str(data.path)),
            *("--init-from", source, "--out", str(out), "--steps", "3", "--device", "cpu"),
            *(word for setting in (*still, *small) for word in ("--set", setting)),
        )
        before, after = (
            load_file(run / "model.safetensors"),
            load_file(out / "v1/model.safetensors"),
        )
        for name in (name for name in before if "num_batches" not in name):
            torch.testing.assert_close(after[name], before[name], msg=name)
        assert load_run(out).recipe.model.class_head == "linear"


def test_a_public_model_is_evaluated_and_labels_boxes(
    public: Callable[[str], Public], tmp_path: Path
) -> None:
    data, boxes = (
        write_toy_set(tmp_path / "set"),
        write_toy_set(tmp_path / "boxes", boxes_only=True),
    )
    checkpoint = ("--checkpoint", public("panoptic").spec, "--device", "cpu")
    output = _run(
        *("eval", "--data", str(data.path), *checkpoint, "--task", "instance"),
        *("--out", str(tmp_path / "eval"), "--set", "inference.image_size=64"),
    )
    assert "give --set inference.instance_score=0" in output
    assert (tmp_path / "eval" / "metrics.json").is_file()
    _run(
        *("pseudolabel", "--data", str(boxes.path), *checkpoint, "--strategy", "proposals"),
        *("--out", str(tmp_path / "masks"), "--set", "inference.image_size=64"),
    )
    assert len(ShardSet.open(tmp_path / "masks")) == 6


def test_another_vocabulary_can_be_given(
    public: Callable[[str], Public], photos: Path, tmp_path: Path
) -> None:
    names = "couch, puppy, sky, stained glass"
    _run(
        *("predict", "--checkpoint", public("panoptic").spec, "--images", str(photos / "0.png")),
        *("--classes", names, "--task", "semantic", "--out", str(tmp_path), "--device", "cpu"),
        "--no-overlays",
    )
    (sample,) = ShardSet.open(tmp_path / "predictions").samples()
    assert sum(segment.area for segment in sample.segments) == sample.height * sample.width


def test_new_classes_take_nothing_from_background(public: Callable[[str], Public]) -> None:
    run = load_run(public("panoptic").spec)
    text = run.class_embeddings(load_taxonomy("ade20k-150")).text
    assert (text @ run.model.text_classifier.background).abs().max() < 1e-6


def test_a_model_is_imported_once_and_again_after_a_change(
    public: Callable[[str], Public], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in public("panoptic").folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    first = cached_run(f"hf:{folder}")
    written = (first / "manifest.json").stat().st_mtime_ns
    assert read_run_files(f"hf:{folder}").folder == first.resolve()
    assert (first / "manifest.json").stat().st_mtime_ns == written
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["0"] = "pedestrian"
    (folder / "config.json").write_text(json.dumps(config))
    second = load_run(f"hf:{folder}")
    assert second.path != first
    assert "pedestrian" in next(iter(second.taxonomies.values())).names


def test_box_prompts_of_a_public_model_are_refused(
    public: Callable[[str], Public], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no box prompts"):
        check_inference("hf:owner/name", [], "box-prompts")
    run = import_checkpoint(public("panoptic").spec, tmp_path / "run")
    with pytest.raises(InputError, match="--strategy proposals"):
        read_run_files(run, [], "box-prompts")
    with pytest.raises(InputError, match="no box prompts"):
        Predictor(run, "cpu").predict_boxes(np.zeros((9, 9, 3), np.uint8), [(1, 1, 5, 5)])


def test_settings_are_refused_before_anything_is_fetched() -> None:
    with pytest.raises(InputError, match="semantic does not read inference"):
        check_inference("hf:owner/name", ["inference.score=0.1"], "semantic")
    with pytest.raises(InputError, match="less than or equal to 1"):
        check_inference("hf:owner/name", ["inference.score=7"], "panoptic")
    with pytest.raises(InputError, match="no such folder"):
        check_inference("hf:nowhere", [], "panoptic")


def test_a_checkpoint_without_a_class_head_is_refused(
    public: Callable[[str], Public], tmp_path: Path
) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((public("panoptic").folder / name).read_bytes())
    state = load_file(public("panoptic").folder / "model.safetensors")
    rest = {name: value for name, value in state.items() if "class_predictor" not in name}
    save_file(rest, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="cannot read the class head"):
        cached_run(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"height": 64, "width": 96}}, "height 64 and width 96 differ"),
        ({"size": {"max_height": 64, "max_width": 96}}, "height 64 and width 96 differ"),
        ({"do_resize": False}, "do_resize is false"),
        ({"size_divisor": 64}, "size_divisor is 64, only 32 is supported"),
    ],
)
def test_a_processor_of_other_sizes_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(change))
    with pytest.raises(InputError, match=message):
        image_sizes(tmp_path)


def test_a_missing_processor_is_noted(public: Callable[[str], Public], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((public("panoptic").folder / name).read_bytes())
    with pytest.warns(Notice, match="has no preprocessor_config.json: its images get"):
        run = import_checkpoint(f"hf:{tmp_path}", tmp_path / "run")
    inference = read_run_files(run).recipe.inference
    assert (inference.resize, inference.image_size, inference.max_size) == ("shorter", 800, 1333)


def test_a_checkpoint_without_class_names_is_refused(tmp_path: Path) -> None:
    folder = save(mask2former("resnet18"), tmp_path)
    with pytest.raises(InputError, match="its classes have no names"):
        cached_run(f"hf:{folder}")
    config = json.loads((folder / "config.json").read_text())
    for names, message in (
        ({"0": "LABEL_0", "1": "LABEL_1"}, "its classes have no names"),
        ({"0": "cat"}, "id2label names no class '1' of 2"),
        ({"0": "cat", "1": "Cat"}, "the class name 'cat' comes twice"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"id2label": names}))
        with pytest.raises(InputError, match=message):
            cached_run(f"hf:{folder}")


def test_the_command_tells_what_was_imported(
    public: Callable[[str], Public], tmp_path: Path
) -> None:
    arguments = ("import", str(public("instance").folder), "--out", str(tmp_path), "--json")
    result = json.loads(_run(*arguments))
    assert result["vocabulary"] == "coco-80" and result["classes"]["zebra"] == "thing"
    assert result["path"] == str((tmp_path / "v1").resolve())
    inference = load_run(tmp_path).recipe.inference
    assert (inference.image_size, inference.resize) == (384, "stretch")
    assert (inference.score, inference.overlap, inference.instances) == (0.5, 0.8, 11)
