"""Build what a training setup describes: the batches of this process, and the trainer."""

import torch

from segkit import distributed
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.mix import DataMix
from segkit.model.dataseg import DataSeg
from segkit.runs.init_from import init_from
from segkit.training.setup import TrainingSetup, require_batch_statistics
from segkit.training.trainer import Trainer

_CLASS_PRIOR = 0.01
"""Probability of each sigmoid class at the start (focal loss, section 4.1; Deformable DETR)."""


def build_mix(setup: TrainingSetup) -> DataMix:
    """The batches of this process."""
    return DataMix(
        setup.datasets,
        setup.recipe.data,
        seed=setup.recipe.training.seed,
        trust_scores=setup.recipe.loss.trust_scores,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def build_trainer(setup: TrainingSetup) -> Trainer:
    """A trainer with the model as the recipe initializes it, on the setup's device.

    Raises:
        InputError: `model.init_from` cannot be loaded into the model, or a batch is too small for
            its batch statistics.
    """
    recipe = setup.recipe
    torch.manual_seed(recipe.training.seed)
    model = DataSeg(recipe.model)
    if recipe.loss.classes == "sigmoid":
        model.text_classifier.set_class_prior(_CLASS_PRIOR)
    require_batch_statistics(model.train(), recipe.data)
    if recipe.model.init_from is not None:
        init_from(model, recipe.model.init_from, recipe.text.encoding)
    if recipe.training.activation_checkpointing:
        model.recompute_activations()
    if recipe.training.compile:
        model.compile_parts()
    is_thing = {data.name: data.embeddings.is_thing.to(setup.device) for data in setup.datasets}
    return Trainer(model, SetCriterion(recipe.loss, is_thing), setup)
