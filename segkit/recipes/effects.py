"""Keys of a recipe that would do nothing in the training that starts.

They are not part of the recipe's own checks: a run that has such keys stays readable.
"""

from collections.abc import Iterator
from typing import Any

from segkit.errors import InputError
from segkit.recipes.schema import Recipe

Case = tuple[bool, str, str, str]
"""Whether a key does nothing, the key, the reason, and a hint."""
_OF_BOX_PROMPTS = ("box_noise", "outline", "label_dropout")
"""Keys of the loss that only the training of box prompts reads."""
_QUERY_WEIGHTS = ("classification", "focal", "projection")
_OF_QUERIES = (*_QUERY_WEIGHTS, "points", "merge_threshold")
"""Keys of the loss that only the training of queries reads. `dice` and `pairwise` weight the losses
of box prompts as well, whose other losses have fixed weights."""

_WITHOUT_BATCH_NORMS = ("vitdet:", "swin_", "swinv2_", "convnext_", "convnextv2_")
"""How the names of backbones with layer norms begin."""


def may_have_batch_norms(backbone: str) -> bool:
    """Whether a backbone has batch norms, as far as its name says it."""
    return not backbone.startswith(_WITHOUT_BATCH_NORMS)


def drop_needless_freeze_norm(recipe: dict[str, Any]) -> None:
    """Remove `model.freeze_norm` from the JSON values of a recipe where it has no influence.

    Interrupted trainings by the shipped recipes of an earlier segkit have it nevertheless.
    """
    model = recipe.get("model")
    if isinstance(model, dict) and not may_have_batch_norms(str(model.get("backbone"))):
        model.pop("freeze_norm", None)


def require_effects(recipe: Recipe, *, resume: bool = False) -> None:
    """Raise InputError for a key that changes nothing, whatever the data.

    Args:
        recipe: that of the training.
        resume: accept keys that nothing reads: the interrupted run may be of a version that did.
    """
    cases = _without_learning(recipe) if resume else (*_without_learning(recipe), *_unread(recipe))
    for useless, key, message, hint in cases:
        if useless:
            raise InputError(f"it does nothing: {message}", record=key, hint=hint)


def _without_learning(recipe: Recipe) -> tuple[Case, ...]:
    """Keys whose part of the training has no loss, or no loss with a weight."""
    loss = recipe.loss
    without_masks = loss.focal == 0 and loss.dice == 0
    without_boxes = loss.box_l1 == 0 and loss.box_giou == 0
    weights = [loss.classification, loss.dense, loss.focal, loss.dice]
    weights += [loss.projection, loss.pairwise]
    if recipe.model.foreground:
        weights += [loss.box_l1, loss.box_giou]
    return (
        (
            not loss.box_prompts and not (loss.matching and any(weights)),
            "loss",
            "nothing would be learned",
            "set loss.box_prompts above 0, or loss.matching=true and weights above 0",
        ),
        (
            loss.matching and not any(weights),
            "loss.matching",
            "no loss of the queries has a weight",
            "set loss.matching=false, or weights above 0",
        ),
        (
            loss.classes == "sigmoid" and not loss.matching,
            "loss.classes",
            "box prompts by themselves name nothing",
            "leave it at softmax, or set loss.matching=true",
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


def _unread(recipe: Recipe) -> Iterator[Case]:
    """Keys that nothing reads, where they differ from their defaults."""
    loss, has_encoder = recipe.loss, recipe.model.pixel_decoder == "deformable"
    prompted, queried = loss.box_prompts > 0, loss.matching
    softmax = loss.classes == "softmax"
    reasons = {
        **{f"loss.{key}": (prompted, "no box prompts are trained") for key in _OF_BOX_PROMPTS},
        **{f"loss.{key}": (queried, "no queries are trained") for key in _OF_QUERIES},
        "loss.background": (
            (queried and softmax) or loss.dense > 0,
            "no queries are trained" if softmax else "focal loss has no weight of background",
        ),
        "loss.pairwise_warmup_steps": (
            queried and loss.pairwise > 0,
            "loss.pairwise is 0" if queried else "no queries are trained",
        ),
        **{
            f"model.{key}": (has_encoder, 'only model.pixel_decoder = "deformable" has an encoder')
            for key in ("encoder_layers", "encoder_feedforward_dim")
        },
        "model.freeze_norm": (
            may_have_batch_norms(recipe.model.backbone),
            f"{recipe.model.backbone} has no batch norms",
        ),
        "optimizer.backbone_layer_decay": (
            recipe.optimizer.backbone_lr_factor > 0,
            "the backbone is frozen (optimizer.backbone_lr_factor is 0)",
        ),
        "model.refine_boxes": (
            loss.box_l1 > 0 or loss.box_giou > 0,
            "nothing trains the corrections of boxes",
        ),
        "inference.max_size": (
            recipe.inference.resize == "shorter",
            'only inference.resize = "shorter" has such a limit',
        ),
    }
    for name, (is_read, reason) in reasons.items():
        section, _, key = name.partition(".")
        values = getattr(recipe, section)
        default = type(values).model_fields[key].default
        value = getattr(values, key)
        is_off = value == 0 and key in _QUERY_WEIGHTS  # as it is without queries
        useless = value != default and not is_off and not is_read
        yield useless, name, reason, f"set {name}={str(default).lower()}"


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
