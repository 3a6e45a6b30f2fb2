"""What the shell completes: recipes, vocabularies, tasks."""

from segkit.taxonomy import known_taxonomies

_TASKS = ("panoptic", "semantic", "instance")


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin like this."""
    from segkit.recipes.load import known_recipes

    return [name for name in known_recipes() if name.startswith(incomplete)]


def complete_vocabulary(incomplete: str) -> list[str]:
    """Return the shipped vocabularies that begin like this."""
    return [name for name in known_taxonomies() if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks that begin like this."""
    return [name for name in _TASKS if name.startswith(incomplete)]
