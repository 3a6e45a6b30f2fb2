"""Write and publish the files of a run."""

from pathlib import Path

from torch import nn

from segkit.runs import content_files
from segkit.runs.init_from import init_from_parents
from segkit.runs.run import check_readable
from segkit.runs.run_manifest import CHECKPOINTS
from segkit.shards.publish import Staging
from segkit.text.embeddings import EmbeddingStore
from segkit.training.setup import TrainingSetup


def write_inputs(setup: TrainingSetup, folder: Path) -> None:
    """Write the inputs that a run keeps: recipe, taxonomies and text embeddings."""
    taxonomies = {data.name: data.shards.taxonomy for data in setup.datasets}
    text = {data.name: data.embeddings.text for data in setup.datasets}
    encoding = setup.recipe.text.encoding
    metadata = encoding.to_metadata(EmbeddingStore(encoding).encoder_digest())
    content_files.write_inputs(folder, setup.recipe, taxonomies, text, metadata)


def write_model(setup: TrainingSetup, model: nn.Module, step: int, stage: Staging) -> None:
    """Write the EMA weights after a step, then the manifest, which marks the run as complete."""
    content_files.write_weights(stage.path, model)
    content_files.write_manifest(
        stage.path,
        setup.recipe,
        model,
        command="train",
        arguments=setup.arguments,
        parents=(
            *(data.shards.as_parent(stage.destination) for data in setup.datasets),
            *init_from_parents(setup.recipe.model.init_from, stage.destination),
        ),
        rates={data.name: data.weight for data in setup.datasets},
        steps=step,
        encoder=setup.recipe.text.encoding.name,
    )


def publish(stage: Staging) -> Path:
    """Load the run once, make the version visible and delete the checkpoints; returns its path.

    Until the files of the run are flushed to the disk, a crash of the machine may lose some of
    them, and the checkpoints are what is left of the training.

    Raises:
        SegkitError: the run cannot be loaded; nothing is published, and the checkpoints remain.
    """
    check_readable(stage.path)
    return stage.publish({entry.name for entry in stage.path.iterdir()} - {CHECKPOINTS})
