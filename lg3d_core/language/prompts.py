"""Prompt templates: the texts that stand for a category."""

from collections.abc import Sequence

from lg3d_core.errors import UsageError


def fill_prompts(names: Sequence[str], prompts: Sequence[str]) -> list[list[str]]:
    """Put each name into each template.

    Args:
        names: Category names.
        prompts: Templates with exactly one `{}` for the name. Other braces stay as they are.

    Returns:
        One list per template, in the order of `names`.

    Raises:
        UsageError: No template, or one without exactly one `{}`.
    """
    if not prompts:
        raise UsageError("--prompt needs at least one template, such as 'a {} in a room'")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise UsageError(f"--prompt {prompt!r} must have exactly one {{}} where the category's name goes")
    return [[prompt.replace("{}", name) for name in names] for prompt in prompts]
