"""Variables of the environment that look like one of our settings and are none: most likely misspelt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final

from taskcenter.config import PREFIX, Settings

OF_THE_CLIENT: Final = frozenset({"URL", "API_KEY", "BUSINESS"})  # read by the commands that call the API
ALIKE: Final = 0.8  # of 1; a transposition or a lost letter in a short name still reaches it


def misspelt(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each with the setting that was probably meant. What resembles none is left to others: orchestrators set
    variables like TASKCENTER_SERVICE_HOST unasked.
    """
    known = {field.upper() for field in Settings.model_fields} | OF_THE_CLIENT
    for name in sorted(names):
        given = name.upper()
        if not given.startswith(PREFIX) or (short := given.removeprefix(PREFIX)) in known:
            continue
        for meant in get_close_matches(short, known, n=1, cutoff=ALIKE):
            yield name, f"{PREFIX}{meant}"
