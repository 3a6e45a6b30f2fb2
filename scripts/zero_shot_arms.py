"""The arms of `experiment_pading.py`: ways to classify the same masks, and their evaluation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.data.augment import Crop
from segkit.inference.outputs import predicted_sample
from segkit.inference.pipeline import Image, load_batches, upload
from segkit.inference.postprocess import LabeledMask, encode, penalize_seen, postprocess
from segkit.inference.upscale import to_image
from segkit.metrics.evaluate import evaluate
from segkit.metrics.mask_recall import MaskRecall
from segkit.metrics.task_metrics import EvalOptions
from segkit.model.text_classifier import TextClassifier
from segkit.runs.run import Run
from segkit.sample import Sample
from segkit.shards.manifest import TASKS
from segkit.shards.reader import ShardSet
from segkit.shards.zero_shot_split import ZeroShotRecord
from segkit.zeroshot.bank import FeatureBank
from segkit.zeroshot.class_heads import train_head
from segkit.zeroshot.collect_bank import BankCollector, query_features
from segkit.zeroshot.settings import ZeroShotSettings

NO_PARTS = {"related": 0.0, "unrelated": 0.0, "reconstruction": 0.0, "align_seen": 0.0}
ONLY_MMD = NO_PARTS | {"align_unseen": 0.0, "align_cross": 0.0}
FOLDS = 4
Unseen = tuple[Tensor, Tensor]
"""Features (M, H) of unseen classes and their labels (M,)."""


@dataclass(frozen=True)
class Arm:
    """One class head."""

    key: str
    label: str
    settings: Mapping[str, Any] | None = None
    """Of the second stage; None keeps the run's text classifier."""
    calibrated: bool = False
    """Whether seen logits are penalized."""
    oracle: bool = False
    """Train on real features of unseen classes."""
    permuted: bool = False
    """Shuffle the class vectors of the unseen classes that the generator reads."""

    def train(
        self, run: Run, bank: FeatureBank, unseen: Unseen, seed: int, overrides: Sequence[str]
    ) -> nn.Module:
        """The class head of the arm: (queries, text) -> logits."""
        if self.settings is None:
            return run.model.text_classifier
        base = ZeroShotSettings.from_overrides(overrides).model_dump()
        settings = ZeroShotSettings(**{**base, **self.settings, "seed": seed})
        text = run.class_embeddings(bank.classes).text.cpu()
        if self.permuted:
            places = torch.from_numpy(bank.unseen_index())
            text[places] = text[places.roll(1)]
        real = unseen if self.oracle else None
        model = train_head(run, bank, settings, generator_text=text, real_unseen=real)
        return model.text_classifier


ARMS = (
    Arm("text", "text classifier"),
    Arm("calibrated", "text classifier, seen logits calibrated", calibrated=True),
    Arm("mmd", "generator: MMD (GMMN)", {"generator": "mlp", **ONLY_MMD}),
    Arm("primitives", "+ primitives", ONLY_MMD),
    Arm("alignment", "+ alignment", NO_PARTS),
    Arm("full", "+ disentangling (all of PADing)", {}),
    Arm("residual", "all, as a residual of the text classifier", {"head": "text_residual"}),
    Arm("oracle", "oracle: real unseen features", {"generator_steps": 0}, oracle=True),
    Arm("permuted", "control: permuted class vectors", {}, permuted=True),
    Arm("untrained", "control: untrained generator", {"generator_steps": 0}),
)
CURVES = ("text", "full", "residual", "oracle")
"""Arms whose seen-unseen curve is drawn."""


@dataclass(frozen=True)
class _Output:
    """What a class head needs of one image."""

    sample: Sample
    crop: Crop
    features: Tensor
    """(N, H)."""
    mask_logits: Tensor
    """(N, h, w)."""


@dataclass
class Features:
    """The proposals of a run on a validation set: each arm only classifies them."""

    run: Run
    data: ShardSet
    unseen: Sequence[str]
    outputs: list[_Output] = field(default_factory=list)

    @classmethod
    def from_run(cls, run: Run, data: ShardSet, unseen: Sequence[str]) -> "Features":
        """One pass of the model over the set."""
        features = cls(run, data, unseen)
        features.outputs = list(features._propose())
        return features

    def _propose(self) -> Iterator[_Output]:
        text = self.run.class_embeddings(self.data.taxonomy).text

        def read(numbered: tuple[int, Sample]) -> tuple[tuple[int, Sample], Image]:
            return numbered, self.data.image(numbered[1])

        outputs: dict[int, _Output] = {}
        config = self.run.recipe.inference
        for batch in load_batches(enumerate(self.data.samples()), read, config):
            images = upload([loaded.pixels for _, loaded in batch], text.device)
            with torch.no_grad():
                queries, proposals = query_features(self.run.model, images, text)
            for row, (_, loaded) in enumerate(batch):
                number, sample = loaded.record
                masks = proposals.mask_logits[row, -1]
                outputs[number] = _Output(sample, loaded.crop, queries[row], masks)
        yield from (outputs[number] for number in sorted(outputs))

    def ceiling(self) -> float | None:
        """Per cent of the masks of unseen classes that some proposal covers, whatever its class."""
        recall = MaskRecall(self.data.taxonomy)
        for output in self.outputs:
            masks = to_image(output.mask_logits, output.crop) >= 0  # (N, H, W)
            regions = encode(masks)
            size = output.sample.height, output.sample.width
            labeled = [LabeledMask(0, region, size, 1.0) for region in regions if region.area]
            predicted = predicted_sample(output.sample, labeled, self.data.taxonomy)
            recall.update([output.sample], [predicted])
        return recall.compute(self.unseen)

    def evaluate(self, head: nn.Module, penalty: float) -> dict[str, Any]:
        """The zero-shot figures of a class head."""
        return self._metrics(self._predict(head, penalty, self.run.recipe.inference))

    def _metrics(self, samples: Iterable[Sample]) -> dict[str, Any]:
        task = TASKS[self.data.manifest.kind]
        options = EvalOptions(unseen=list(self.unseen))
        zero_shot: dict[str, Any] = evaluate(self.data, samples, task, options).metrics["zero_shot"]
        return zero_shot

    def _predict(self, head: nn.Module, penalty: float, config: Any) -> Iterator[Sample]:
        taxonomy = self.data.taxonomy
        classes = self.run.class_embeddings(taxonomy).mark_unseen(taxonomy, self.unseen)
        task = TASKS[self.data.manifest.kind]
        for output in self.outputs:
            with torch.no_grad():
                logits = head(output.features, classes.text)
                logits = penalize_seen(logits, classes.is_unseen, penalty, config.classes)
                masks = postprocess(
                    task, logits, output.mask_logits, output.crop, classes.is_thing, config
                )
            yield predicted_sample(output.sample, masks, taxonomy)


def real_unseen_features(
    run: Run, data: ShardSet, record: ZeroShotRecord, bank: FeatureBank
) -> Unseen:
    """Query embeddings of unseen classes, from the unseen set with its labels: the oracle's."""
    plain = replace(record, policy="drop-image")  # nothing is hidden from the oracle
    collected = BankCollector(run, data, plain, no_object=0).collect()
    places = torch.from_numpy(bank.unseen_index())
    labels = torch.from_numpy(collected.labels)
    chosen = torch.isin(labels, places)
    return torch.from_numpy(collected.features)[chosen], labels[chosen]


def choose_penalty(
    run: Run, bank: FeatureBank, penalties: Sequence[float], seed: int, steps: int = 300
) -> float:
    """The penalty of seen logits by cross-validation on seen classes only.

    Each fold hides a share of the seen classes from a text classifier that is trained anew on the
    bank, and scores the harmonic mean of the accuracies of known and hidden classes. (The frozen
    features have seen the hidden classes, so the chosen value is rather too small.)
    """
    text = run.class_embeddings(bank.seen_classes).text.cpu()
    features, labels = torch.from_numpy(bank.features), torch.from_numpy(bank.labels)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(text), generator=rng)
    totals = torch.zeros(len(penalties))
    for fold in range(FOLDS):
        is_hidden = torch.zeros(len(text), dtype=torch.bool)
        is_hidden[order[fold::FOLDS]] = True
        head = _train_text_classifier(features, labels, text, is_hidden, rng, steps)
        rows = labels < len(text)
        with torch.no_grad():
            logits = head(features[rows], text)
        for number, penalty in enumerate(penalties):
            answers = penalize_seen(logits, is_hidden, penalty)[:, :-1].argmax(-1)
            right, hidden = answers == labels[rows], is_hidden[labels[rows]]
            known, unknown = right[~hidden].float().mean(), right[hidden].float().mean()
            totals[number] += 2 * known * unknown / (known + unknown).clamp(min=1e-9)
    return penalties[int(totals.argmax())]


def _train_text_classifier(
    features: Tensor,
    labels: Tensor,
    text: Tensor,
    is_hidden: Tensor,
    rng: torch.Generator,
    steps: int,
) -> TextClassifier:
    """A text classifier for the classes that are not hidden."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = TextClassifier(features.shape[1], text.shape[1])
    known = torch.nonzero(~is_hidden)[:, 0]
    place = torch.full((len(text) + 1,), -1)
    place[known] = torch.arange(len(known))
    place[-1] = len(known)
    rows = torch.nonzero(place[labels] >= 0)[:, 0]
    weight = torch.ones(len(known) + 1)
    weight[-1] = 0.1
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (512,), generator=rng)]
        logits = head(features[batch], text[known])
        loss = F.cross_entropy(logits, place[labels[batch]], weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head
