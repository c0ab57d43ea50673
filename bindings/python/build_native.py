"""The extension module `dlock._native`: include/dlock.h by cffi's API mode, with libdlock.a linked into it.

What cffi is told comes out of the header itself, so that nothing of it is repeated here. Knows nothing of what the
functions do.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
# In a source distribution the Rust sources are in rust/, in the repository two levels up.
RUST = HERE / "rust" if (HERE / "rust").is_dir() else HERE.parent.parent
HEADER = Path(os.environ.get("DLOCK_INCLUDE_DIR", RUST / "include")) / "dlock.h"


def declarations(header):
    """The header without what cffi does not read: directives, but for constants, and the C++ brackets."""
    lines = []
    for line in re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL).splitlines():
        constant = re.match(r"#define (DLOCK_\w+) (\S+)$", line)
        if constant:
            name, value = constant.groups()
            lines.append(f"static char *const {name};" if value.startswith('"') else
                         f"#define {name} {value if value.isdigit() else '...'}")
        elif not line.startswith(("#", 'extern "C"', "}  // extern")):
            lines.append(line)
    return "\n".join(lines)


def version():
    return re.search(r'^version = "(.*)"$', (RUST / "Cargo.toml").read_text(), re.MULTILINE).group(1)


def library():
    """The path of libdlock.a: in $DLOCK_LIB_DIR, else what cargo builds, and finds built, out of the Rust sources."""
    if "DLOCK_LIB_DIR" in os.environ:
        archive = Path(os.environ["DLOCK_LIB_DIR"]) / "libdlock.a"
        if not archive.exists():
            raise SystemExit(f"dlock: there is no {archive}; DLOCK_LIB_DIR names the directory of libdlock.a")
        return archive
    command = ["cargo", "build", "--locked", "--release", "--lib", "--message-format", "json-render-diagnostics"]
    try:
        built = subprocess.run(command, cwd=RUST, stdout=subprocess.PIPE, check=True)
    except FileNotFoundError:
        raise SystemExit("dlock: cargo is not installed. Building needs Rust 1.89 or newer (rustup), or a wheel does not need it.")
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"dlock: {' '.join(command)} in {RUST} ended with status {error.returncode}")
    files = [file for line in built.stdout.splitlines() for file in json.loads(line).get("filenames", [])]
    return Path(next(file for file in files if file.endswith("libdlock.a")))


builder = FFI()
builder.cdef(declarations(HEADER.read_text()))
builder.set_source("dlock._native", "#include <dlock.h>", include_dirs=[str(HEADER.parent)], libraries=["pthread", "dl", "m"],
                   # The names of the library and of Rust stay inside, whatever else the process loads.
                   extra_link_args=["-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,--strip-debug"]
                   if sys.platform == "linux" else [])
