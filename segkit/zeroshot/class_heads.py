"""The trained class head as a version of its run: the same masks, new classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.errors import InputError
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import TextResidualClassifier
from segkit.recipes.schema import Recipe
from segkit.runs.content_files import write_inputs, write_manifest, write_weights
from segkit.runs.import_checkpoint import set_class_head
from segkit.runs.run import Run, check_readable
from segkit.runs.run_manifest import METRICS
from segkit.shards.manifest import Parent
from segkit.shards.publish import Staging, staging
from segkit.taxonomy import Taxonomy
from segkit.text.embeddings import EmbeddingStore
from segkit.zeroshot.bank import FeatureBank
from segkit.zeroshot.second_stage import Scale, SecondStage
from segkit.zeroshot.settings import ZeroShotSettings

_HEAD = "text_classifier."
"""Prefix of the weights of the class head."""


class LinearHead(nn.Module):
    """Standardized features (M, H) -> logits (M, K + 1) of known classes and no-object."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, classes + 1)

    def forward(self, features: Tensor) -> Tensor:
        """Class logits."""
        logits: Tensor = self.linear(features)
        return logits


class ResidualHead(nn.Module):
    """The frozen text classifier of a run plus a residual, which is trained.

    Args:
        classifier: of the run.
        text: (K, D) class embeddings.
        scale: of the features.
    """

    def __init__(self, classifier: nn.Module, text: Tensor, scale: Scale) -> None:
        super().__init__()
        self._classifier = [classifier]  # in a list, which keeps its weights from being trained
        self.text, self.scale = text, scale
        self.residual = nn.Linear(len(scale.mean), text.shape[1] + 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Standardized features (M, H) -> logits (M, K + 1)."""
        with torch.no_grad():
            queries = features * self.scale.deviation + self.scale.mean
            base = self._classifier[0](queries, self.text)
        residual = self.residual(features)  # (M, D + 1)
        added = torch.cat((residual[:, :-1] @ self.text.T, residual[:, -1:]), dim=-1)
        logits: Tensor = base + added
        return logits


def fold_scale(linear: nn.Linear, scale: Scale) -> tuple[Tensor, Tensor]:
    """Weight and bias for features as the model has them, of a layer for standardized ones."""
    weight = (linear.weight / scale.deviation).detach()
    return weight, (linear.bias - weight @ scale.mean).detach()


def train_head(
    run: Run,
    bank: FeatureBank,
    settings: ZeroShotSettings,
    *,
    generator_text: Tensor | None = None,
    real_unseen: tuple[Tensor, Tensor] | None = None,
    log: Callable[[str, int, dict[str, float]], None] = lambda part, step, losses: None,
) -> DataSeg:
    """Train the second stage; returns the run's model with the new class head, on the CPU.

    Args:
        run: the run that the bank was collected with.
        bank: its features.
        settings: of the second stage.
        generator_text: (K, D) embeddings of `bank.classes` that the generator reads in place of the
            true ones, for the control of an experiment.
        real_unseen: as of `SecondStage`, for the oracle of an experiment.
        log: called with the losses now and then.

    Raises:
        InputError: a text classifier that takes no residual, class names that the linear head
            cannot tell apart, or a head that diverged.
    """
    text = run.class_embeddings(bank.classes).text.cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        inputs = text if generator_text is None else generator_text
        stage = SecondStage(bank, inputs, settings, real_unseen)
        if settings.head == "linear":
            head: LinearHead | ResidualHead = LinearHead(bank.features.shape[1], len(text))
        else:
            head = ResidualHead(_residual_base(run), text, stage.scale)
        stage.train(head, log)
        if not all(weight.isfinite().all() for weight in head.parameters()):
            hint = "give a lower --set generator_lr or head_lr"
            raise InputError("the class head is not finite: its training diverged", hint=hint)
        return _new_model(run, bank.classes, text, head, stage.scale)


def write_head(
    run: Run,
    bank: FeatureBank,
    bank_parent: Parent,
    settings: ZeroShotSettings,
    out: str | Path,
    arguments: dict[str, Any],
    on_log: Callable[[str, int], None] = lambda part, step: None,
) -> Path:
    """Train a class head and publish it as the next version of a run; returns its path.

    Args:
        run: the run that the bank was collected with.
        bank: its features.
        bank_parent: the bank as a parent of any version under `out`.
        settings: of the second stage.
        out: directory of the new run's versions.
        arguments: the command's arguments.
        on_log: called with part and step now and then.

    Raises:
        InputError: as `train_head`.
    """
    fingerprint, parents = {"command": "zeroshot train"}, (run.as_parent(out), bank_parent)
    inputs = [parent.digest for parent in parents]
    with staging(out, fingerprint, inputs=inputs, resume=False, content="run") as stage:
        with (stage.path / METRICS).open("w", encoding="utf-8") as lines:

            def log(part: str, step: int, losses: dict[str, float]) -> None:
                lines.write(json.dumps({"part": part, "step": step, "losses": losses}) + "\n")
                on_log(part, step)

            model = train_head(run, bank, settings, log=log)
        _write_run(stage, run, model, bank, parents, arguments)
        check_readable(stage.path)
        return stage.publish()


def _residual_base(run: Run) -> nn.Module:
    """The run's class head, if a residual can be added to it."""
    if run.recipe.model.class_head == "linear":
        hint = "give --set head=linear"
        raise InputError("its class head is linear and takes no residual", file=run.path, hint=hint)
    return run.model.text_classifier.cpu()


def _new_model(
    run: Run, classes: Taxonomy, text: Tensor, head: LinearHead | ResidualHead, scale: Scale
) -> DataSeg:
    """The run's model with the trained head in place of its class head."""
    kind = "linear" if isinstance(head, LinearHead) else "text_residual"
    update: dict[str, object] = {"class_head": kind, "backbone_weights": None}
    if kind == "linear":  # no factor of cosines
        update["class_scale"] = type(run.recipe.model).model_fields["class_scale"].default
    config = run.recipe.model.model_copy(update=update)
    model = DataSeg(config).eval()
    state = {name: value.cpu() for name, value in run.model.state_dict().items()}
    if isinstance(head, LinearHead):
        state = {name: value for name, value in state.items() if not name.startswith(_HEAD)}
        model.load_state_dict(state, strict=False)
        weight, bias = fold_scale(head.linear, scale)
        words = np.stack(list(EmbeddingStore(run.encoding).vectors().values()))
        set_class_head(model, text, weight, bias, classes, torch.from_numpy(words))
        return model
    model.load_state_dict(state, strict=False)
    classifier = model.text_classifier
    assert isinstance(classifier, TextResidualClassifier)
    weight, bias = fold_scale(head.residual, scale)
    with torch.no_grad():  # a run that had a residual keeps it below the new one
        classifier.residual.weight.add_(weight)
        classifier.residual.bias.add_(bias)
    return model


def _write_run(
    stage: Staging,
    run: Run,
    model: DataSeg,
    bank: FeatureBank,
    parents: tuple[Parent, Parent],
    arguments: dict[str, Any],
) -> None:
    """Write the files of the run, the manifest last; all classes replace the seen ones."""
    folder, classes = stage.path, bank.classes
    recipe = _recipe(run.recipe, model)
    known = (name for name, taxonomy in run.taxonomies.items() if taxonomy == bank.seen_classes)
    place = next(known, classes.name)
    taxonomies = {**run.taxonomies, place: classes}
    rows = {**run.text_embeddings, place: run.class_embeddings(classes).text.cpu()}
    metadata = run.encoding.to_metadata(run.encoder_digest)
    write_inputs(folder, recipe, taxonomies, rows, metadata)
    write_weights(folder, model)
    write_manifest(
        folder,
        recipe,
        model,
        command="zeroshot train",
        arguments=arguments,
        parents=parents,
        rates=run.manifest.rates,
        steps=run.manifest.steps,
        encoder=run.encoding.name,
    )


def _recipe(recipe: Recipe, model: DataSeg) -> Recipe:
    """The run's recipe with the new class head."""
    head = {key: getattr(model.config, key) for key in ("class_head", "class_scale")}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=head)})
