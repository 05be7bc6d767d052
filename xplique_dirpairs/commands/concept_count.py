"""How many concepts a command learns."""

from __future__ import annotations

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.subject import Subject
from xplique_dirpairs.learning.number_of_concepts import count_skewed_sources

#: Number of concepts if it cannot be estimated from the features: the default of `CraftTf`.
USUAL_NUMBER = 20


def number_of_concepts(wanted: int | str, subject: Subject, seed: int, console: Console) -> int:
    """Return the number of concepts, estimated from the features if ``wanted`` is "auto".

    If it cannot be estimated, `USUAL_NUMBER` is returned, and the console notes why.
    """
    if isinstance(wanted, int):
        if wanted > subject.channels:
            console.note(
                f"--concepts {wanted}: layer {subject.split.layer!r} has {subject.channels} "
                "channels, so no more than that many concepts can be told apart"
            )
        return wanted
    console.step("count the concepts")
    try:
        count = count_skewed_sources(subject.activations, random_state=seed)
        number, reason = count.number, count.reason
    except ValueError as error:  # too few images
        number, reason = None, str(error)
    if number is None:
        console.note(
            f"the number of concepts cannot be estimated ({reason}): {USUAL_NUMBER} are learned"
        )
        return USUAL_NUMBER
    console.note(f"{number} concepts: {reason}")
    return number
