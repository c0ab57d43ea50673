"""The API of the Python package as pages, by pdoc: `tools/python.py docs` runs this where both are installed. Fails, and names
them, where public names have no docstring. Its argument is the directory for the pages.
"""

import sys
from pathlib import Path

import pdoc
import pdoc.doc
import pdoc.render

PACKAGE = "dlock"


def own_members(self):
    """Those of private base classes, which have no page of their own, are shown with the class that is public. Constructors
    without a docstring are the package's own to call."""
    classes = {self.qualname, *(base.__name__ for base in self.obj.__mro__ if base.__name__.endswith("Base"))}
    return [member for member in self.members.values() if member.taken_from[1].rpartition(".")[0] in classes
            and (member.name != "__init__" or member.docstring)]


def public(members):
    """These, and what is in them."""
    for member in members:
        if not member.name.startswith("_"):
            yield member
            if isinstance(member, pdoc.doc.Class):
                yield from public(member.own_members)


def main(directory):
    pdoc.doc.Class.own_members = property(own_members)
    module = pdoc.doc.Module.from_name(PACKAGE)
    bare = [member.fullname for member in public(module.own_members) if not member.docstring.strip()]
    if not module.docstring.strip() or bare:
        print(*(f"{name}: no docstring" for name in bare or [PACKAGE]), sep="\n")
        return 1
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc(PACKAGE, output_directory=Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
