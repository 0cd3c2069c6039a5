"""Prompt templates, which turn class names into texts."""

from collections.abc import Sequence

from lg3d_core.errors import UsageError


def fill_prompts(names: Sequence[str], prompts: Sequence[str]) -> list[list[str]]:
    """Insert each name into each template.

    Args:
        names: Class names.
        prompts: Templates with exactly one `{}` for the name. Other braces are kept.

    Returns:
        One list per template, in the order of `names`.

    Raises:
        UsageError: There is no template, or one without exactly one `{}`.
    """
    if not prompts:
        raise UsageError("--prompt needs at least one template, such as 'a {} in a room'")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise UsageError(f"--prompt {prompt!r} must contain exactly one {{}} for the class name")
    return [[prompt.replace("{}", name) for name in names] for prompt in prompts]
