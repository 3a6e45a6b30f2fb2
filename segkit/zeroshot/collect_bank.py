"""Collect a feature bank: one pass of the frozen model over the images of a seen set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segkit.arguments import check_number
from segkit.criterion.matcher import HungarianMatcher
from segkit.criterion.merge_proposals import merge_proposals, mergeable_classes
from segkit.criterion.pooled_targets import PooledTargets
from segkit.data.augment import Crop
from segkit.data.targets import build_targets
from segkit.distributed import autocast
from segkit.inference.pipeline import Image, load_batches, upload
from segkit.masks import rle
from segkit.model.dataseg import DataSeg, Proposals
from segkit.model.text_classifier import class_probability
from segkit.runs.run import Run
from segkit.sample import Sample
from segkit.shards.manifest import TASKS
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.zero_shot_split import ZeroShotRecord
from segkit.zeroshot.bank import FeatureBank

GRAY = 128
"""Value of the pixels that the model must not see: that of the padding."""


class Rows(NamedTuple):
    """Query embeddings of one image, with their labels."""

    features: Tensor
    """(M, H)."""
    labels: Tensor
    """(M,) index of the class; K for no-object."""


def write_bank(
    run: Run,
    data: ShardSet,
    record: ZeroShotRecord,
    out: str | Path,
    *,
    no_object: int,
    on_image: Callable[[], None] = lambda: None,
) -> Path:
    """Publish the bank of a run and a seen set.

    Args:
        run: trained on the split of the set.
        data: the seen part of a zero-shot split.
        record: its record.
        out: directory of the bank's versions.
        no_object: query embeddings without a target to keep of each image, at most.
        on_image: called after each image.

    Returns:
        The version's directory.
    """
    check_number(no_object, "no_object", 0)
    arguments = {**run.as_arguments(), "data": str(data.path), "no_object": no_object}
    fingerprint = {"command": "zeroshot bank"}
    parents = (run.as_parent(out), data.as_parent(out))
    inputs = [parent.digest for parent in parents]
    with staging(out, fingerprint, inputs=inputs, resume=False, content="bank") as stage:
        bank = BankCollector(run, data, record, no_object).collect(on_image)
        return bank.write(
            stage,
            name=data.manifest.name,
            parents=parents,
            arguments=arguments,
        )


class BankCollector:
    """Matches the queries of a frozen model to the targets of a seen set, as in training.

    Merged proposals get the label of their group; a proposal that mostly covers void is left out.
    By the policy ignore-pixels, the images contain objects of unseen classes: their pixels, all
    void ones, are painted gray before the model sees them.

    Args:
        run, data, record, no_object: as in `write_bank`.
    """

    def __init__(self, run: Run, data: ShardSet, record: ZeroShotRecord, no_object: int) -> None:
        self.run, self.data, self.record, self.no_object = run, data, record, no_object
        self.classes = run.class_embeddings(data.taxonomy)
        self.task = TASKS[data.manifest.kind]
        self.mergeable = mergeable_classes(self.task, self.classes.is_thing)
        self.matcher = HungarianMatcher(run.recipe.loss)
        device = self.classes.text.device
        self.generator = torch.Generator(device).manual_seed(0)

    def collect(self, on_image: Callable[[], None] = lambda: None) -> FeatureBank:
        """The bank of all images."""
        config, text = self.run.recipe.inference, self.classes.text
        rows: dict[int, Rows] = {}
        samples = enumerate(self.data.read_ahead(self.data.samples(check_masks=True)))
        for batch in load_batches(samples, self._read, config):
            images = upload([loaded.pixels for _, loaded in batch], text.device)
            with torch.no_grad(), autocast(config.precision, text.device):
                features, proposals = query_features(self.run.model, images, text)
            for row, (_, loaded) in enumerate(batch):
                number, sample = loaded.record
                logits, masks = (
                    part[row : row + 1].float()
                    for part in (proposals.class_logits, proposals.mask_logits)
                )
                of_image = Proposals(logits, masks)
                rows[number] = self._label(features[row].float(), of_image, sample, loaded.crop)
                on_image()
        order = sorted(rows)
        counts = [len(rows[number].labels) for number in order]
        return FeatureBank(
            features=torch.cat([rows[number].features for number in order]).numpy(),
            labels=torch.cat([rows[number].labels for number in order]).numpy(),
            images=np.repeat(np.array(order, np.int64), counts),
            image_ids=tuple(self.data.image_ids()),
            seen_classes=self.data.taxonomy,
            unseen_classes=self.record.taxonomy,
        )

    def _read(self, numbered: tuple[int, Sample]) -> tuple[tuple[int, Sample], Image]:
        image = self.data.image(numbered[1])
        hides = self.record.policy == "ignore-pixels"
        return numbered, hide_void(image, numbered[1]) if hides else image

    def _label(self, features: Tensor, proposals: Proposals, sample: Sample, crop: Crop) -> Rows:
        """The query embeddings (N, H) of one image that get a label."""
        targets = build_targets(
            sample, crop, taxonomy=self.data.taxonomy, task=self.task, policies={}
        ).to(features.device)
        pooled = PooledTargets.from_targets(targets)
        pooled = pooled.select(torch.nonzero(~targets.is_part)[:, 0])
        annotated = [targets.annotated]
        loss = self.run.recipe.loss
        threshold, classes = loss.merge_threshold, loss.classes
        merged = merge_proposals(proposals, self.mergeable, annotated, threshold, classes)
        costs = self.matcher.start(merged, [pooled], annotated, self.generator)
        indices = self.matcher.finish(costs)
        heads = torch.arange(len(features))  # (N,) each proposal by itself
        if costs.heads is not None:
            heads = costs.heads[0, 0]
        labels = torch.full_like(heads, -1)  # -1: neither an object nor no-object
        for row, target in zip(indices.query.tolist(), indices.target.tolist(), strict=True):
            labels[heads == row] = pooled.labels[target].cpu()
        free = costs.background[0, 0] & (labels < 0)
        probability = class_probability(proposals.class_logits[0, -1], classes)  # (N, K + 1)
        background = probability[:, -1].cpu()
        candidates = torch.nonzero(free)[:, 0]
        chosen = candidates[background[candidates].argsort(stable=True)[: self.no_object]]
        labels[chosen] = len(self.data.taxonomy.categories)
        kept = torch.nonzero(labels >= 0)[:, 0]
        return Rows(features.cpu()[kept], labels[kept])


def query_features(model: DataSeg, images: Tensor, text: Tensor) -> tuple[Tensor, Proposals]:
    """The query embeddings (B, N, H) that the class head gets, and the last layer's proposals."""
    with _head_inputs(model) as inputs:
        proposals = model(images, text, aux_outputs=False).queries
    return inputs[-1][:, -1], proposals


@contextmanager
def _head_inputs(model: DataSeg) -> Iterator[list[Tensor]]:
    """Record the query embeddings (B, L, N, H) that the class head gets."""
    inputs: list[Tensor] = []
    hook = model.text_classifier.register_forward_pre_hook(
        lambda module, arguments: inputs.append(arguments[0])
    )
    try:
        yield inputs
    finally:
        hook.remove()


def hide_void(image: Image, sample: Sample) -> Image:
    """The image with its void pixels gray."""
    if sample.void is None:
        return image
    hidden = image.copy()
    hidden[rle.decode(sample.void, sample.height, sample.width)] = GRAY
    return hidden
