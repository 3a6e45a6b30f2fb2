"""Teacher: a trained run, by box prompts or by its own proposals."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from segkit.arguments import check_choice
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.match_proposals import match_proposals
from segkit.inference.pipeline import Image, ModelOutput, infer
from segkit.inference.predict_boxes import predict_box_masks
from segkit.inference.teacher import Teacher
from segkit.model.text_classifier import ClassEmbeddings, class_probability
from segkit.recipes.schema import Strategy
from segkit.runs.open_run import (
    check_min_iou,
    check_trained,
    default_strategy,
    require_box_prompts,
)
from segkit.runs.run import Run
from segkit.shards.manifest import Parent
from segkit.storage import StrPath
from segkit.taxonomy import Taxonomy


class RunTeacher(Teacher):
    """A trained run; its text classifier takes the classes of any set.

    Args:
        run: the run; `inference.pseudo_score` is the lowest score of a mask.
        strategy: `box-prompts`: the model segments each box by itself; `proposals`: the model's own
            proposals are matched to the boxes by class and overlap. None: box prompts, or proposals
            for a public Mask2Former, which has no box prompts.
        min_iou: lowest expected IoU of a mask, 0-1; of box prompts of a calibrated run.
        tta: test-time augmentation of box prompts, see `predict_box_masks`.

    Raises:
        InputError: an unknown strategy, box prompts of a public Mask2Former, a lowest expected IoU
            without calibration or box prompts, or test-time augmentation without box prompts.
    """

    def __init__(
        self,
        run: Run,
        strategy: Strategy | None = None,
        *,
        min_iou: float | None = None,
        tta: bool = False,
    ) -> None:
        if strategy is not None:
            check_choice(strategy, Strategy, "strategy")
        self.strategy: Strategy = strategy or default_strategy(run.recipe)
        check_trained(run.recipe, self.strategy, run.path)
        self.run, self.name = run, str(run.path)
        self.min_score = run.recipe.inference.pseudo_score
        if self.strategy == "box-prompts":
            self.calibration = run.calibration
            self.score_name = "expected IoU" if run.calibration else "mean probability"
        if min_iou is not None:
            check_min_iou(run.path, self.strategy)
            self.min_iou = min_iou
        if tta:
            require_box_prompts("--tta", run.path, self.strategy)
        self.tta = tta

    def prepare(self, taxonomy: Taxonomy) -> None:
        """Look up the class embeddings, which `Run.class_embeddings` encodes if need be."""
        self._class_embeddings = self.run.class_embeddings(taxonomy)

    def predict(self, prompts: Iterable[ImagePrompts]) -> Iterator[Sequence[BoxMask | None]]:
        """As of `Teacher`; None where no proposal matches."""
        if self.tta:
            return segment_prompts(self.run, self._class_embeddings, prompts, tta=True)
        return STRATEGIES[self.strategy](self.run, self._class_embeddings, prompts)

    def as_arguments(self) -> dict[str, Any]:
        """The run, its inference settings, the strategy, and test-time augmentation if on."""
        arguments = {**super().as_arguments(), **self.run.as_arguments(), "strategy": self.strategy}
        return arguments | ({"tta": True} if self.tta else {})

    def parents(self, destination: StrPath) -> tuple[Parent, ...]:
        """The run."""
        return (self.run.as_parent(destination),)


def segment_prompts(
    run: Run,
    class_embeddings: ClassEmbeddings,
    prompts: Iterable[ImagePrompts],
    *,
    tta: bool = False,
) -> Iterator[Sequence[BoxMask]]:
    """Strategy `box-prompts`: `predict_box_masks` with the settings of the run."""
    config, crop_size = run.recipe.inference, run.recipe.data.image_size
    return predict_box_masks(
        run.model,
        class_embeddings,
        prompts,
        config,
        crop_size=crop_size,
        calibration=run.calibration,
        tta=tta,
    )


def assign_proposals(
    run: Run, class_embeddings: ClassEmbeddings, prompts: Iterable[ImagePrompts]
) -> Iterator[Sequence[BoxMask | None]]:
    """Strategy `proposals`: `match_proposals` of the run's proposals to the boxes of each image."""
    config = run.recipe.inference

    def read(image: ImagePrompts) -> tuple[ImagePrompts, Image]:
        return image, image.image

    def match(output: ModelOutput[ImagePrompts]) -> Sequence[BoxMask | None]:
        output = output.of_things()
        boxes, labels = output.record.boxes, list(output.record.labels)
        probability = class_probability(output.class_logits, config.classes)[:, labels]  # (N, Q)
        of_boxes = probability.cpu().numpy()
        return match_proposals(output.mask_logits, output.crop, of_boxes, boxes, labels, config)

    return infer(run.model, class_embeddings, prompts, read, match, config)


STRATEGIES: dict[
    Strategy,
    Callable[[Run, ClassEmbeddings, Iterable[ImagePrompts]], Iterator[Sequence[BoxMask | None]]],
] = {"box-prompts": segment_prompts, "proposals": assign_proposals}
"""How each strategy predicts the masks of a stream of images with boxes: one per box, or None."""
