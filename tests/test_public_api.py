"""The public names and how they are called do not change by accident.

After a change that is meant: `python tests/test_public_api.py` writes the list anew; the change log
should tell of it, too.
"""

import inspect
from pathlib import Path

import xplique_dirpairs

LIST = Path(__file__).with_name("public_api.txt")


def members(cls):
    """(name, member) of the public methods and properties that a class of ours defines or inherits
    from one of ours."""
    found = {}
    for owner in cls.__mro__:
        if owner.__module__.startswith("xplique_dirpairs"):
            for name, member in vars(owner).items():
                if not name.startswith("_"):
                    found.setdefault(name, member)
    return sorted(found.items())


def called(function):
    """A signature without annotations and with the defaults' values."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def described():
    lines = [f"version {xplique_dirpairs.__version__}"]
    for name in sorted(set(xplique_dirpairs.__all__) - {"__version__"}):
        value = getattr(xplique_dirpairs, name)
        if not inspect.isclass(value):
            lines.append(f"{name}{called(value)}")
            continue
        lines.append(name if issubclass(value, Warning) else f"{name}{called(value)}")
        for member, what in members(value):
            if isinstance(what, (staticmethod, classmethod)):
                what = what.__func__
            shown = called(what) if inspect.isfunction(what) else ""
            lines.append(f"{name}.{member}{shown}")
    return "\n".join(lines) + "\n"


def test_public_names_and_their_arguments_are_those_of_the_list():
    kept, now = (text.splitlines() for text in (LIST.read_text(encoding="utf-8"), described()))
    gone = sorted(set(kept) - set(now))
    new = sorted(set(now) - set(kept))
    assert not gone and not new, f"gone: {gone}, new: {new}; if that is meant: python {__file__}"


def test_every_public_name_is_documented():
    for name in set(xplique_dirpairs.__all__) - {"__version__"}:
        value = getattr(xplique_dirpairs, name)
        assert value.__doc__ and len(value.__doc__.strip()) > 20, name


if __name__ == "__main__":
    LIST.write_text(described(), encoding="utf-8")
