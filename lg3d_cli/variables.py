"""Check for environment variables that look like settings but are not."""

import difflib
from collections.abc import Mapping

from lg3d_core.settings import COMMANDS
from lg3d_core.settings.fields import fields_of

PREFIX = "LG3D_"
OTHER_VARIABLES = ("RECIPE", "COMPLETE")
"""Variables without a field: the recipe, and the shell's variable for completion."""
TEST_VARIABLES = ("REQUIRE_", "TEST_")
"""Prefixes of variables of the test suite."""


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a message for every variable `LG3D_...` without a setting, with the closest known name."""
    fields = [field for settings in COMMANDS.values() for field in fields_of(settings).values()]
    names = {name.upper() for field in fields for name in (field.name, field.key)}
    known = sorted(PREFIX + name for name in (*names, *OTHER_VARIABLES))
    messages = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name[len(PREFIX) :].startswith(TEST_VARIABLES):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        messages.append(f"the variable {name} has no effect: there is no such setting{hint}")
    return messages
