"""SAM, SAM 2 and SAM-HQ as teachers, against transformers called by hand, one box at a time."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segkit.errors import InputError, SegkitError
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.open_teacher import open_teacher
from segkit.inference.sam import MAX_BOXES, SamTeacher
from segkit.workers import devices, ray_cluster
from segkit.workers.devices import Workers
from tests.inference import sams
from tests.preloaded import Process

Boxes = list[tuple[float, float, float, float]]
HEIGHT, WIDTH = 120, 160
BOXES: Boxes = [
    (10.0, 10.0, 50.5, 40.25),
    (100.0, 60.0, 60.0, 60.0),  # in the corner of the image
    (40.0, 50.0, 1.0, 1.0),  # one pixel
    (-5.0, 30.0, 20.0, 200.0),  # beyond three borders
    (0.0, 0.0, 160.0, 120.0),  # the full image
]


@pytest.fixture(scope="module", params=sams.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return sams.save(kind, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def teacher(source: str) -> SamTeacher:
    opened = open_teacher(source, device="cpu")
    assert isinstance(opened, SamTeacher)
    return opened


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image: np.ndarray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def predict(teacher: SamTeacher, image: np.ndarray, boxes: Boxes) -> list[BoxMask | None]:
    (masks,) = teacher.predict([ImagePrompts(image, boxes, list(range(len(boxes))))])
    return list(masks)


@torch.no_grad()
def by_hand(kind: str, image: np.ndarray, box: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """The mask (H, W) at the box with 5 % of its sides, one pixel at least, and its score."""
    model, processor = sams.build(kind)
    (x, y, w, h), (height, width) = box, image.shape[:2]
    prompt = [max(0, x), max(0, y), min(width, x + w), min(height, y + h)]
    inputs = processor(images=Image.fromarray(image), input_boxes=[[prompt]], return_tensors="pt")
    outputs = model(
        pixel_values=inputs["pixel_values"],
        input_boxes=inputs["input_boxes"].float(),
        multimask_output=False,
    )
    sizes = [inputs[k] for k in ("original_sizes", "reshaped_input_sizes") if k in inputs]
    mask = processor.post_process_masks(outputs.pred_masks, *sizes)[0][0, 0].numpy()
    allowed = np.zeros(mask.shape, bool)
    across, down = max(1, 0.05 * w), max(1, 0.05 * h)
    rows = slice(max(0, int(np.floor(y - down))), int(np.ceil(y + h + down)))
    columns = slice(max(0, int(np.floor(x - across))), int(np.ceil(x + w + across)))
    allowed[rows, columns] = True
    return mask & allowed, min(1.0, max(0.0, float(outputs.iou_scores)))


def test_masks_equal_those_of_transformers_box_by_box(kind: str, teacher: SamTeacher) -> None:
    image = picture()
    together = predict(teacher, image, BOXES)
    filled = 0
    for index, box in enumerate(BOXES):
        mask, score = by_hand(kind, image, box)
        (single,) = predict(teacher, image, [box])
        for answer in (together[index], single):
            assert answer is not None
            assert (answer.mask == mask).all() and answer.score == pytest.approx(score, abs=1e-5)
        assert together[index].class_index == index  # type: ignore[union-attr]
        filled += bool(mask.any() and not mask.all())
    assert filled >= 3, "masks of both values, which could differ"


def test_the_boxes_of_an_image_share_its_embedding(
    kind: str, teacher: SamTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the mask decoder takes a bounded number of them at once, with the same masks."""
    encoded: list[None] = []
    decoded: list[int] = []
    embed, decode = teacher.model.get_image_embeddings, teacher.model.mask_decoder.forward

    def count_images(*arguments: Any, **options: Any) -> Any:
        encoded.append(None)
        return embed(*arguments, **options)

    monkeypatch.setattr(teacher.model, "get_image_embeddings", count_images)

    def count(*arguments: Any, **options: Any) -> Any:
        decoded.append(options["sparse_prompt_embeddings"].shape[1])
        return decode(*arguments, **options)

    monkeypatch.setattr(teacher.model.mask_decoder, "forward", count)
    boxes: Boxes = [(3.0 * i, 2.0 * i, 30.0, 25.0) for i in range(2 * MAX_BOXES + 3)]
    masks = predict(teacher, picture(), boxes)
    assert len(encoded) == 1 and decoded == [MAX_BOXES, MAX_BOXES, 3]
    for index in (0, MAX_BOXES, 2 * MAX_BOXES + 2):
        mask, _ = by_hand(kind, picture(), boxes[index])
        answer = masks[index]
        assert answer is not None and (answer.mask == mask).all()


def test_no_boxes_and_boxes_outside_ask_no_model(
    teacher: SamTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "model", None)
    assert predict(teacher, picture(), []) == []
    outside: Boxes = [(200.0, 10.0, 5.0, 5.0), (10.0, -9.0, 5.0, 9.0)]
    assert predict(teacher, picture(), outside) == [None, None]
    assert list(teacher.predict([])) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 40), (40, 3), (3, 3), (2000, 3)])
def test_images_of_few_pixels(kind: str, teacher: SamTeacher, size: tuple[int, int]) -> None:
    """An image of one or three rows could be mistaken for channels."""
    image = picture(*size)
    box = (0.0, 0.0, float(size[1]), float(size[0]))
    (answer,) = predict(teacher, image, [box])
    if kind != "sam2" and max(size) / min(size) > 2 * sams.SIDE:
        assert answer is None, "resized, its shorter side has no pixels"
        return
    expected = open_by_tensor(kind, image, box)
    assert answer is not None and (answer.mask == expected).all()


@torch.no_grad()
def open_by_tensor(kind: str, image: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    model, processor = sams.build(kind)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    options = {"input_data_format": "channels_first"}
    encoded = processor.image_processor(images=[pixels], return_tensors="pt", **options)
    x, y, w, h = box
    scale = np.array([1.0, 1.0, 1.0, 1.0])
    if kind == "sam2":
        scale[:] = [sams.SIDE / w, sams.SIDE / h] * 2
    else:
        high, wide = encoded["reshaped_input_sizes"][0].tolist()
        scale[:] = [wide / w, high / h] * 2
    corners = torch.from_numpy([x, y, x + w, y + h] * scale)[None, None].float()
    outputs = model(encoded["pixel_values"], input_boxes=corners, multimask_output=False)
    sizes = [encoded[k] for k in ("original_sizes", "reshaped_input_sizes") if k in encoded]
    (masks,) = processor.post_process_masks(outputs.pred_masks, *sizes)
    mask: np.ndarray = masks[0, 0].numpy()
    return mask


def test_half_precision_keeps_the_decoder_in_float32(
    kind: str, teacher: SamTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, here by autocast on the CPU: masks differ by a few pixels."""
    exact = predict(teacher, picture(), BOXES)
    monkeypatch.setattr(teacher, "precision", "bf16")
    types = set()
    decode = teacher.model.mask_decoder.forward

    def record(*arguments: Any, **options: Any) -> Any:
        types.add(options["image_embeddings"].dtype)
        output = decode(*arguments, **options)
        types.add(output[0].dtype)
        return output

    monkeypatch.setattr(teacher.model.mask_decoder, "forward", record)
    half = predict(teacher, picture(), BOXES)
    assert types == {torch.float32}
    scores = [(a.score, b.score) for a, b in zip(exact, half, strict=True) if a and b]
    assert any(a != b for a, b in scores), "the encoder ran in half precision"
    agreement = [(a.mask == b.mask).mean() for a, b in zip(exact, half, strict=True) if a and b]
    assert np.mean(agreement) > 0.95


def peak() -> float:
    """MiB that this process had in memory at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def print_growth(*sources: str) -> None:
    """MiB by which 300 boxes need more memory than 16, for each teacher."""
    image = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    for source in sources:
        opened, peaks = open_teacher(source, device="cpu"), []
        for count in (16, 300):
            boxes = [(1.5 * i, 1.5 * i, 20.0, 20.0) for i in range(count)]
            (masks,) = opened.predict([ImagePrompts(image, boxes, [0] * count)])
            assert len(masks) == count and None not in masks
            peaks.append(peak())
        print(peaks[1] - peaks[0])


def test_300_boxes_need_as_much_memory_as_16(tmp_path: Path) -> None:
    """All masks at once would take 300 MiB in float32 at the size of the image, 75 MiB as bits."""
    sources = [sams.save(kind, tmp_path / kind) for kind in sams.KINDS]
    code, out, err = Process(print_growth, *sources).wait()
    assert code == 0, err
    assert max(map(float, out.split())) < 40  # MiB


def test_the_public_files_of_sam_2_hold_the_video_model(tmp_path: Path) -> None:
    teacher = open_teacher(sams.save_video_model(tmp_path), device="cpu")
    assert isinstance(teacher, SamTeacher) and type(teacher.model).__name__ == "Sam2Model"
    assert all(mask is not None for mask in predict(teacher, picture(), BOXES))


def test_the_older_file_of_the_image_processor_is_read(tmp_path: Path) -> None:
    sams.save("sam", tmp_path)
    _, processor = sams.build("sam")
    expected = predict(open_sam(tmp_path), picture(), BOXES)
    (tmp_path / "processor_config.json").unlink()
    processor.image_processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    for old, new in zip(expected, predict(open_sam(tmp_path), picture(), BOXES), strict=True):
        assert old is not None and new is not None and (old.mask == new.mask).all()


def open_sam(folder: Path) -> SamTeacher:
    opened = open_teacher(f"sam:{folder}", device="cpu")
    assert isinstance(opened, SamTeacher)
    return opened


def _edit(file: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return edit


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    return edit


def _processor(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "processor_config.json").read_text())
        content["image_processor"] |= values
        (folder / "processor_config.json").write_text(json.dumps(content))

    return edit


_NAME = "mask_decoder.iou_token.weight"
_OTHER_SIZE = {"image_processor_type": "SamImageProcessor", "size": {"longest_edge": 1024}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json; needed are"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "processor_config.json").unlink(), "has no preprocessor_config"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "does not say its model_type"),
        (_edit("config.json", model_type=3), "does not say its model_type"),
        (_edit("config.json", model_type="sam3"), "a sam3 model, not a SAM; give the folder of"),
        (_edit("config.json", model_type="sam2"), r"a sam2 model, not a SAM; give sam2:/"),
        (_edit("config.json", model_type="sam_hq"), r"a sam_hq model, not a SAM; give samhq:/"),
        (_edit("config.json", model_type="mask2former"), r"a mask2former model, .*give hf:/"),
        (_edit("config.json", vision_config=7), "cannot be loaded as a SamModel"),
        (
            _edit("processor_config.json", image_processor=_OTHER_SIZE),
            "gives images of .1024, 1024.",
        ),
        (lambda folder: (folder / "processor_config.json").write_text("{"), "cannot be loaded as"),
        (_processor(do_pad=False), "gives images of .64, 128., the model takes .128, 128."),
        (_processor(do_resize=False), "the image processor fails"),
        (_processor(image_mean=[1, 2]), "the image processor fails"),
        (_processor(size={"shortest_edge": 3}), "the image processor fails|cannot be loaded"),
        (_cut, "cannot be loaded as a SamModel"),
        (_weights(lambda state: state.pop(_NAME)), rf"has no weights for {_NAME}"),
        (_weights(lambda state: state[_NAME].fill_(float("nan"))), rf"weights of {_NAME} are not"),
        (
            _weights(lambda state: state.update({_NAME: torch.zeros(3, 32)})),
            r"cannot be loaded as a SamModel|has no weights for",
        ),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    source = sams.save("sam", tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_teacher(source, device="cpu")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_code_in_a_folder_never_runs(tmp_path: Path) -> None:
    """A folder that names classes of its own is read by transformers' class, or not at all."""
    source = sams.save("sam", tmp_path / "model")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n"
    (tmp_path / "model" / "mine.py").write_text(code)
    references = {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine", "AutoProcessor": "mine.Mine"}
    for file in ("config.json", "processor_config.json"):
        _edit(file, auto_map=references)(tmp_path / "model")
    assert isinstance(open_teacher(source, device="cpu"), SamTeacher)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_cannot_be_fetched_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SegkitError) as caught:
        open_teacher("samhq:owner/name")
    files = "config.json, model.safetensors, preprocessor_config.json, processor_config.json"
    line = (
        r"owner/name is not a local folder and could not be fetched \(HF_HUB_OFFLINE is set\); "
        rf"fetch {files} from \S+/owner/name into a folder and give samhq:FOLDER"
    )
    assert re.fullmatch(line, str(caught.value))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    source = sams.save("sam2", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"never read.*Sam2Model.from_pretrained.*sam2:FOLDER"):
        open_teacher(source)


@pytest.mark.parametrize(
    ("workers", "gpus", "expected"),
    [
        (Workers("local", 2), 0, "fp32"),
        (Workers("local", 2), 2, "bf16"),
        (Workers("local", None, "cpu"), 2, "fp32"),
        (Workers("local", 2, "cuda"), 2, "bf16"),
        (Workers("ray", None), 0, "fp32"),
        (Workers("ray", None), 8, "bf16"),
    ],
)
def test_the_precision_is_that_of_the_devices_of_the_workers(
    teacher: SamTeacher,
    monkeypatch: pytest.MonkeyPatch,
    workers: Workers,
    gpus: int,
    expected: str,
) -> None:
    """Then another number of GPUs resumes what one began, and the manifest is right."""
    monkeypatch.setattr(devices, "_gpus", lambda: gpus)
    monkeypatch.setattr(ray_cluster, "has_gpus", lambda address: gpus > 0)
    assert teacher.worker_arguments(workers) == teacher.as_arguments() | {"precision": expected}
    assert teacher.as_arguments()["precision"] == "fp32", "this process uses its CPU"
