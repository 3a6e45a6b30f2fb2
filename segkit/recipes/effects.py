"""Keys of a recipe that would do nothing in the training that starts.

They are not part of the recipe's own checks: a run that has such keys stays readable.
"""

from segkit.errors import InputError
from segkit.recipes.schema import LossConfig, Recipe


def require_effects(recipe: Recipe) -> None:
    """Raise InputError for a key that changes nothing, whatever the data."""
    loss = recipe.loss
    without_masks = loss.focal == 0 and loss.dice == 0
    without_boxes = loss.box_l1 == 0 and loss.box_giou == 0
    background = loss.background != LossConfig().background
    masks = (loss.focal, loss.dice, loss.projection, loss.pairwise)
    queries = [loss.classification, loss.dense]
    if recipe.model.foreground:
        queries += [loss.box_l1, loss.box_giou]
    learns = any(masks) or (loss.matching and any(queries))
    cases = (
        (
            not learns or not (loss.matching or loss.box_prompts),
            "loss",
            "nothing would be learned",
            "set loss.box_prompts above 0, or loss.matching=true and weights above 0",
        ),
        (
            loss.classes == "sigmoid" and not loss.matching,
            "loss.classes",
            "box prompts alone name nothing",
            "leave it at softmax, or set loss.matching=true",
        ),
        (
            loss.classes == "sigmoid" and background and loss.dense == 0,
            "loss.background",
            "focal loss has no weight of background",
            "leave it out, or set loss.dense above 0",
        ),
        (
            loss.box_assist != "off" and without_masks,
            "loss.box_assist",
            "masks that assist have no loss and no cost",
            "set loss.focal or loss.dice above 0",
        ),
        (
            recipe.inference.boxes == "head" and without_boxes,
            "inference.boxes",
            "nothing trains the box head",
            "set loss.box_l1 or loss.box_giou above 0",
        ),
        (
            loss.denoising > 0 and loss.classification == 0 and without_masks and without_boxes,
            "loss.denoising",
            "no loss has a weight",
            "set loss.classification above 0, or leave it out",
        ),
    )
    for useless, key, message, hint in cases:
        if useless:
            raise InputError(f"it does nothing: {message}", record=key, hint=hint)


def effect_notes(recipe: Recipe) -> list[str]:
    """A line for each key that has no effect, or not its full one, because training is short."""
    loss, steps, warmup = recipe.loss, recipe.training.steps, recipe.optimizer.warmup_steps
    notes = []
    if loss.box_assist != "off" and loss.box_assist_start >= steps:
        notes.append(
            f"loss.box_assist does nothing: it starts after {loss.box_assist_start} steps "
            f"(loss.box_assist_start), and training has {steps}"
        )
    if warmup > steps:
        notes.append(
            f"the learning rate never reaches optimizer.lr: optimizer.warmup_steps is {warmup}, "
            f"and training has {steps} steps"
        )
    return notes
