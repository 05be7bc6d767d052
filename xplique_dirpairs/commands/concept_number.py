"""How many concepts, where the user leaves it to the features."""

from __future__ import annotations

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.subject import Subject
from xplique_dirpairs.learning.number_of_concepts import count_skewed_sources

#: As `CraftTf` has it.
USUAL = 20


def number_of_concepts(wanted: int | str, subject: Subject, seed: int, console: Console) -> int:
    """The number that was asked for; "auto": what the features tell, or else the usual one."""
    if isinstance(wanted, int):
        channels = subject.second.input_shape[-1]
        if channels is not None and wanted > channels:
            console.note(
                f"--concepts {wanted}: layer {subject.layer!r} has {channels} channels, and no "
                "more directions can be told apart"
            )
        return wanted
    console.step("count the concepts")
    try:
        count = count_skewed_sources(subject.activations, random_state=seed)
        number, reason = count.number, count.reason
    except ValueError as error:  # too few images
        number, reason = None, str(error)
    if number is None:
        console.note(f"the features do not tell how many concepts ({reason}): {USUAL} are learned")
        return USUAL
    console.note(f"{number} concepts: {reason}")
    return number
