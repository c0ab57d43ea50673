#!/usr/bin/env python3
"""Writes THIRD-PARTY-NOTICES: what the libraries that are linked into libdlock ask to be passed on with it. Reads what cargo has
fetched; knows nothing of what they are for.

    tools/notices.py            writes the file
    tools/notices.py --check    is it up to date?
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "THIRD-PARTY-NOTICES"
# The same file on every machine: what is linked on any of these.
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
HEAD = """libdlock contains the libraries below, each under the licence that stands with it; where there was a choice, under the MIT
licence. Rust's standard library, which it contains as well, is Copyright (c) The Rust Project contributors, under the MIT licence
or the Apache License 2.0: https://github.com/rust-lang/rust/blob/master/COPYRIGHT

`make notices` writes this file.
"""


def linked():
    """Those that become a part of the library: not what only builds it, nor what only tests it."""
    filters = [word for platform in PLATFORMS for word in ("--filter-platform", platform)]
    told = subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1", *filters], cwd=ROOT, check=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    metadata = json.loads(told.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    us = next(package["id"] for package in packages.values() if package["manifest_path"] == str(ROOT / "Cargo.toml"))
    found, ahead = set(), [us]
    while ahead:
        here = ahead.pop()
        is_macro = any("proc-macro" in target["kind"] for target in packages[here]["targets"])
        if here in found or is_macro:
            continue
        found.add(here)
        ahead += [dependency["pkg"] for dependency in nodes[here]["deps"]
                  if any(kind["kind"] is None for kind in dependency["dep_kinds"])]
    return sorted((packages[name] for name in found - {us}), key=lambda package: (package["name"], package["version"]))


def licence(package):
    """The texts that come with it."""
    directory = Path(package["manifest_path"]).parent
    files = [directory / "LICENSE-MIT"]
    if not files[0].exists():
        files = sorted(path for path in directory.iterdir() if path.name.upper().startswith(("LICENSE", "COPYING", "NOTICE")))
    if not files:
        sys.exit(f"{package['name']} {package['version']} comes without a licence's text")
    return "\n".join("\n".join(line.rstrip() for line in path.read_text(encoding="utf-8").strip().splitlines()) for path in files)


def notices():
    parts = [HEAD]
    for package in linked():
        title = f"{package['name']} {package['version']} ({package['license']})"
        parts.append(f"{'-' * 80}\n{title}\n{package['repository'] or ''}\n\n{licence(package)}\n")
    return "\n".join(parts)


def main(arguments):
    if arguments == ["--check"]:
        if not FILE.exists() or FILE.read_text(encoding="utf-8") != notices():
            sys.exit(f"{FILE.name} is not what Cargo.lock asks for: `make notices` writes it anew")
    elif arguments:
        sys.exit(__doc__)
    else:
        FILE.write_text(notices(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
