"""`segkit convert`: the formats of labeling tools, and `auto`, which recognizes a format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import note
from .convert import Images, source_command
from .convert import app as app

if TYPE_CHECKING:
    from segkit.sources.source import Source

Labels = Annotated[
    Path | None,
    typer.Option(
        help="Classes, one a line (`name` or `index name`); by default the labels that occur, in "
        "alphabetical order."
    ),
]
BoxesOnly = Annotated[
    bool, typer.Option("--boxes-only", help="Keep only the boxes of polygons and masks.")
]


@source_command
def yolo(
    data: Annotated[
        Path,
        typer.Option(help="data.yaml or its folder; or a folder of images with a classes.txt."),
    ],
    split: Annotated[
        str | None, typer.Option(help="train, val or test; needed where there are several.")
    ] = None,
    contours: Annotated[
        bool,
        typer.Option(
            "--contours",
            help="Polygons run through the outermost pixels (contours of OpenCV, exports of "
            "segkit), not around them.",
        ),
    ] = False,
    boxes_only: BoxesOnly = False,
) -> "Source":
    """YOLO: a text file of boxes or polygons for each image; names and splits in data.yaml.

    An image without a label file has no objects. A label file without an image is a defect.

    Example: segkit convert yolo --data parts/data.yaml --split train --out work/parts-train
    """
    from segkit.sources.yolo_labels import open_yolo

    return open_yolo(data, split, contours=contours, boxes_only=boxes_only)


@source_command
def voc_boxes(
    annotations: Annotated[Path, typer.Option(help="Folder of the XML files.")],
    images: Images,
    list_: Annotated[
        Path | None,
        typer.Option(
            "--list", help="Images to convert, one name a line: ImageSets/Main/train.txt."
        ),
    ] = None,
    labels: Labels = None,
    zero_based: Annotated[
        bool,
        typer.Option(
            "--zero-based", help="Coordinates count from 0 and are edges, unlike those of VOC."
        ),
    ] = False,
) -> "Source":
    """Pascal VOC detection: an XML file of boxes for each image, as labelImg and Roboflow write it.

    Objects that are `difficult` are ignored, as in VOC. Images without an XML file are left out.

    Example: segkit convert voc-boxes --annotations VOC2012/Annotations --images VOC2012/JPEGImages
    --out work/voc
    """
    from segkit.sources.voc_boxes import open_voc_boxes

    return open_voc_boxes(annotations, images, labels=labels, listed=list_, zero_based=zero_based)


@source_command
def cvat(
    annotations: Annotated[
        Path, typer.Option(help="annotations.xml of a dump in the format `CVAT for images 1.1`.")
    ],
    images: Images,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Classes, one a line (`name` or `index name`); by default the dump's own list, in "
            "its order."
        ),
    ] = None,
    boxes_only: BoxesOnly = False,
) -> "Source":
    """CVAT for images 1.1: boxes, polygons, ellipses and masks of a job, task or project.

    Polygons and masks of one group and label are one object. Lines, points and tags are left out.

    Example: segkit convert cvat --annotations task/annotations.xml --images task/images
    --out work/task
    """
    from segkit.sources.cvat_xml import open_cvat

    return open_cvat(annotations, images, labels=labels, boxes_only=boxes_only)


@source_command
def labelstudio(
    annotations: Annotated[Path, typer.Option(help="Export of a project in the format JSON.")],
    images: Images,
    labels: Labels = None,
    predictions: Annotated[
        bool,
        typer.Option("--predictions", help="Take the predictions of tasks without an annotation."),
    ] = False,
    boxes_only: BoxesOnly = False,
) -> "Source":
    """Label Studio: polygons, brush masks, ellipses and boxes of its JSON export.

    Of several annotations of a task, the ground truth or else the last change is taken.

    Example: segkit convert labelstudio --annotations project.json --images media/upload/1
    --out work/project
    """
    from segkit.sources.label_studio import open_label_studio

    return open_label_studio(
        annotations, images, labels=labels, predictions=predictions, boxes_only=boxes_only
    )


@source_command
def labelme(
    annotations: Annotated[Path, typer.Option(help="Folder of the JSON files.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images; by default that of the JSON files.")
    ] = None,
    labels: Labels = None,
    boxes_only: BoxesOnly = False,
) -> "Source":
    """labelme: a JSON file of polygons, boxes, circles and masks for each image.

    Shapes of one group and label are one object. Lines and points are left out.

    Example: segkit convert labelme --annotations labeled --out work/labeled
    """
    from segkit.sources.labelme_json import open_labelme

    return open_labelme(annotations, images, labels=labels, boxes_only=boxes_only)


@source_command
def auto(
    path: Annotated[Path, typer.Argument(help="An annotation file, or the folder of a data set.")],
    split: Annotated[
        str | None, typer.Option(help="The split, where the data set has several.")
    ] = None,
) -> "Source":
    """Recognize the format of a data set, print the command that converts it, and run it.

    Example: segkit convert auto parts/data.yaml --split train --out work/parts-train
    """
    from segkit.sources.recognize import recognize

    recognition = recognize(path, split)
    note(f"recognized as {recognition.source.name}: {recognition.command}")
    return recognition.source
