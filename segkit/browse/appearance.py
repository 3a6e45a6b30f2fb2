"""How the App shows a dataset: visible fields, colors by class name, saved views."""

from collections.abc import Mapping
from typing import Any

from segkit.browse.connect import fiftyone
from segkit.browse.labels import DETECTIONS, MAPS, mask_targets
from segkit.images.palette import class_color
from segkit.shards.reader import ShardSet

VIEWS = "segkit:"
"""Saved views with this prefix are written anew by each load; all others belong to the user."""


def label_fields(prefix: str, shards: ShardSet) -> list[str]:
    """The label fields of a set: `<prefix>_classes`, `<prefix>_things` or both."""
    kind = shards.manifest.kind
    names = (("classes", kind in MAPS), ("things", kind in DETECTIONS))
    return [f"{prefix}_{name}" for name, is_there in names if is_there]


def set_appearance(dataset: Any, sets: Mapping[str, ShardSet]) -> None:
    """Make all labels visible, and give each class name its color of `segkit.images.palette`.

    Args:
        dataset: the FiftyOne dataset.
        sets: prefix of the fields -> the set that they show; the first is the ground truth.
    """
    fo = fiftyone()
    targets = {
        f"{prefix}_classes": mask_targets(shards)
        for prefix, shards in sets.items()
        if shards.manifest.kind in MAPS
    }
    dataset.mask_targets = targets
    dataset.default_classes = list(next(iter(sets.values())).taxonomy.unique_names.values())
    fields = [
        _colors(path, shards, targets.get(path))
        for prefix, shards in sets.items()
        for path in label_fields(prefix, shards)
    ]
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="value", fields=fields)
    # FiftyOne leaves class maps inactive, so that a semantic set would open without its labels
    paths = [field["path"] for field in fields]
    dataset.app_config.active_fields = fo.core.odm.dataset.ActiveFields(paths=paths)
    dataset.save()


def save_views(dataset: Any, sets: Mapping[str, ShardSet], min_score: float) -> list[str]:
    """Save the views to begin with: confident, worst, lowest score, and so on.

    Args:
        dataset: the FiftyOne dataset, loaded.
        sets: prefix of the fields -> the set that they show.
        min_score: instances of lower score are hidden in the view `confident`.

    Returns:
        The names of the views.
    """
    fo = fiftyone()
    field = fo.ViewField
    views: dict[str, Any] = {}
    scored = [p for p, shards in sets.items() if _has_scores(dataset, p, shards)]
    if scored:
        confident = dataset.view()
        for prefix in scored:
            above = (field("confidence") >= min_score) | (field("confidence") == None)  # noqa: E711
            confident = confident.filter_labels(f"{prefix}_things", above, only_matches=False)
        views[f"confident ({min_score:g} or more)"] = confident
        lowest = field(f"{scored[0]}_things.detections.confidence").min()
        views["lowest score"] = dataset.match(
            field(f"{scored[0]}_things.detections").length() > 0
        ).sort_by(lowest)
    figures = [name for name in dataset.get_field_schema() if name.endswith("_figure")]
    for name in figures:
        views[f"worst {name.removesuffix('_figure')}"] = dataset.exists(name).sort_by(name)
    if len(figures) > 1:
        first, second = figures[:2]
        difference = (field(first) - field(second)).abs()
        both = dataset.exists(first).exists(second)
        views["disagreement"] = both.sort_by(difference, reverse=True)
    for prefix, shards in sets.items():
        if shards.manifest.kind == "instance" and shards.manifest.statistics.boxes_only:
            bare = field("mask_from") == None  # noqa: E711
            views[f"boxes without a mask in {prefix}"] = dataset.filter_labels(
                f"{prefix}_things", bare
            )
    for tag in ("quarantined", "leak"):
        if dataset.match_tags(tag).count():
            views[{"quarantined": "quarantined", "leak": "leaks"}[tag]] = dataset.match_tags(tag)
    for name in dataset.list_saved_views():
        if name.startswith(VIEWS):
            dataset.delete_saved_view(name)
    for name, view in views.items():
        dataset.save_view(f"{VIEWS} {name}", view)
    return [f"{VIEWS} {name}" for name in views]


def _colors(path: str, shards: ShardSet, targets: Mapping[int, str] | None) -> dict[str, Any]:
    """The colors of one field, in FiftyOne's form."""
    if targets is not None:
        colors = [{"intTarget": i, "color": hex_color(name)} for i, name in targets.items()]
        return {"path": path, "maskTargetsColors": colors}
    values = [
        {"value": name, "color": hex_color(shards.taxonomy.by_id[class_id].name)}
        for class_id, name in shards.taxonomy.unique_names.items()
    ]
    return {"path": path, "colorByAttribute": "label", "valueColors": values}


def hex_color(name: str) -> str:
    """The color of a class name as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*class_color(name))


def _has_scores(dataset: Any, prefix: str, shards: ShardSet) -> bool:
    if shards.manifest.kind not in DETECTIONS:
        return False
    lowest, _ = dataset.bounds(f"{prefix}_things.detections.confidence")
    return lowest is not None
