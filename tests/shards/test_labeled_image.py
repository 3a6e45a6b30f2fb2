import io
import sys

import numpy as np
import pytest
from PIL import Image

import segkit
from segkit.masks.rle import decode
from segkit.shards.reader import ShardSet
from tests.training.toy import write_toy_set


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


def test_indices_and_iteration_agree_with_the_samples(toy: ShardSet) -> None:
    samples = list(toy.samples())
    assert [labeled.sample for labeled in toy] == samples
    assert toy[0].sample == samples[0] and toy[-1].sample == samples[-1]
    for index in (len(toy), -len(toy) - 1):
        with pytest.raises(IndexError, match=f"image {index} of {len(toy)}"):
            toy[index]


def test_arrays_equal_the_rows(toy: ShardSet) -> None:
    labeled = segkit.open(str(toy.path))[1]
    sample = labeled.sample
    assert np.array_equal(labeled.image, toy.image(sample))
    for mask, segment, name in zip(
        labeled.masks, labeled.segments, labeled.class_names, strict=True
    ):
        assert np.array_equal(mask, decode(segment.mask or b"", sample.height, sample.width))
        assert name == toy.taxonomy.by_id[segment.class_id].name
    assert labeled.boxes.tolist() == [list(segment.box) for segment in labeled.segments]


def test_the_picture_of_a_notebook_is_the_drawing(toy: ShardSet) -> None:
    picture = Image.open(io.BytesIO(toy[0]._repr_png_()))
    assert picture.format == "PNG"
    assert np.array_equal(np.asarray(picture), toy[0].draw())
    assert repr(toy[0]).startswith(f"LabeledImage({toy[0].id!r}, ") and len(repr(toy[0])) < 80


def test_show_draws_in_a_terminal(
    toy: ShardSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    toy[0].show()
    assert capsys.readouterr().out.count("\n") > 3


def test_supervision_gets_each_segment(toy: ShardSet) -> None:
    pytest.importorskip("supervision")
    labeled = toy[0]
    detections = labeled.to_supervision()
    assert len(detections) == len(labeled.segments)
    assert np.array_equal(detections.mask, labeled.masks)
    assert detections.class_id.tolist() == [segment.class_id for segment in labeled.segments]
    assert detections["class_name"].tolist() == labeled.class_names
    assert detections.confidence is None, "human labels have no score"
    widths = detections.xyxy[:, 2:] - detections.xyxy[:, :2]
    assert np.allclose(widths, labeled.boxes[:, 2:])


def test_the_torch_dataset_changes_image_masks_and_boxes_together(toy: ShardSet) -> None:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.ops import masks_to_boxes
    from torchvision.transforms import v2

    dataset = segkit.TorchDataset(toy, v2.RandomHorizontalFlip(p=1))
    image, target = dataset[0]
    plain, straight = segkit.TorchDataset(toy)[0]
    assert torch.equal(image, plain.flip(-1)) and image.dtype == torch.uint8
    assert torch.equal(target["masks"], straight["masks"].flip(-1))
    tight = masks_to_boxes(target["masks"])
    assert torch.allclose(target["boxes"][:, :2], tight[:, :2])
    assert torch.allclose(target["boxes"][:, 2:], tight[:, 2:] + 1)
    names = [toy.taxonomy.names[index] for index in target["labels"]]
    assert names == toy[0].class_names
    loader = DataLoader(dataset, batch_size=2, collate_fn=list, num_workers=0)
    assert sum(len(batch) for batch in loader) == len(toy)
