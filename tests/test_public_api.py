"""Public names and their signatures do not change by accident.

After an intended change run `python tests/test_public_api.py`, which writes the list again, and
describe the change in CHANGELOG.md.
"""

import inspect
from pathlib import Path

import xplique_dirpairs

LIST = Path(__file__).with_name("public_api.txt")


def members(cls):
    """Return (name, member) of the public methods and properties of a class.

    Members that are inherited from classes of other packages are left out.
    """
    by_name = {}
    for owner in cls.__mro__:
        if owner.__module__.startswith("xplique_dirpairs"):
            for name, member in vars(owner).items():
                if not name.startswith("_"):
                    by_name.setdefault(name, member)
    return sorted(by_name.items())


def called(function):
    """Return the signature of a function as text, with defaults and without annotations."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def described():
    """Return the text of the list: public names, their members and signatures."""
    lines = [f"version {xplique_dirpairs.__version__}"]
    for name in sorted(set(xplique_dirpairs.__all__) - {"__version__"}):
        value = getattr(xplique_dirpairs, name)
        if not inspect.isclass(value):
            lines.append(f"{name}{called(value)}")
            continue
        lines.append(name if issubclass(value, Warning) else f"{name}{called(value)}")
        for member_name, member in members(value):
            if isinstance(member, (staticmethod, classmethod)):
                member = member.__func__
            shown = called(member) if inspect.isfunction(member) else ""
            lines.append(f"{name}.{member_name}{shown}")
    return "\n".join(lines) + "\n"


def test_public_names_and_signatures_equal_the_list():
    kept, now = (text.splitlines() for text in (LIST.read_text(encoding="utf-8"), described()))
    gone = sorted(set(kept) - set(now))
    new = sorted(set(now) - set(kept))
    assert not gone and not new, f"gone: {gone}, new: {new}; if this is intended: python {__file__}"


def test_every_public_name_is_documented():
    for name in set(xplique_dirpairs.__all__) - {"__version__"}:
        value = getattr(xplique_dirpairs, name)
        assert value.__doc__ and len(value.__doc__.strip()) > 20, name


if __name__ == "__main__":
    LIST.write_text(described(), encoding="utf-8")
