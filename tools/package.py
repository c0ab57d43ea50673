#!/usr/bin/env python3
"""Installs the library that was built, and makes packages of it: what `make install`, `uninstall`, `dist`, `deb` and `abi` call.
Knows where each file belongs, and nothing of what is in it.

    tools/package.py install|uninstall      into PREFIX (/usr/local), LIBDIR (lib, below PREFIX unless absolute), below DESTDIR
    tools/package.py dist [DIRECTORY]       tarballs of the sources and of what is installed, with their sums
    tools/package.py deb [DIRECTORY]        Debian packages, by dpkg-deb
    tools/package.py libs                   asks rustc what a static library needs besides, and notes it beside the library
    tools/package.py abi [--update]         does the library still have all that packaging/dlock.abi and dlock.symbols record?

    DLOCK_LIB_DIR             where libdlock.so and libdlock.a are; default: where cargo puts them, target/release/ or as
                              CARGO_TARGET_DIR and CARGO_BUILD_TARGET tell it
    DEBFULLNAME, DEBEMAIL     the maintainer that the Debian packages name
    SOURCE_DATE_EPOCH         the time that they are of; default: when CHANGELOG.md was changed
"""

import email.utils
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is built for; empty: for this machine.
TRIPLE = os.environ.get("CARGO_BUILD_TARGET", "")
LIBRARY = Path(os.environ.get("DLOCK_LIB_DIR") or ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / TRIPLE / "release")
PACKAGING = ROOT / "packaging"
HEADERS = ("dlock.h", "dlock.hpp")
# What must go with every copy of the library.
LICENCES = ("LICENSE", "THIRD-PARTY-NOTICES")
DOCUMENTS = (*LICENCES, "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/performance/*.svg", "examples/c*/*.c*",
             "examples/c*/README.md", "examples/c/Makefile")
PACKAGES = ("libdlock0", "libdlock-dev")
MAINTAINER = f"{os.environ.get('DEBFULLNAME') or 'The dlock authors'} <{os.environ.get('DEBEMAIL') or 'dlock@localhost'}>"


class Failed(Exception):
    """What was asked for cannot be done; the text says why."""


def found(pattern, file):
    return re.search(pattern, (ROOT / file).read_text(), re.MULTILINE).group(1)


VERSION = found(r'^version = "(.*)"', "Cargo.toml")
ABI_MAJOR = found(r"^const ABI_MAJOR: u32 = (\d+);", "build.rs")
SONAME = f"libdlock.so.{ABI_MAJOR}"


def shared_name():
    """The file that the links lead to: libdlock.so.A.x.y, with the minor version and the patch of the package."""
    major, rest = VERSION.split(".", 1)
    if major != ABI_MAJOR:
        raise Failed(f"version {VERSION} and ABI {ABI_MAJOR}: decide on the name of the library's file, see CONTRIBUTING.md")
    return f"libdlock.so.{ABI_MAJOR}.{rest}"


def output_of(*command, **options):
    try:
        return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              **options)
    except OSError as error:
        raise Failed(f"{command[0]} does not run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise Failed(f"{command[0]}: {error.stderr.decode(errors='replace').strip()}") from error


def native_libraries():
    """What a program needs that links libdlock.a, as rustc tells it. Noted by the build, since root may have no rustc."""
    note = LIBRARY / "native-static-libs"
    if not note.exists():
        with tempfile.TemporaryDirectory() as directory:
            target = ["--target", TRIPLE] if TRIPLE else []
            told = output_of("rustc", *target, "--crate-type", "staticlib", "--print", "native-static-libs", "-", "-o",
                             Path(directory, "empty.a"), stdin=subprocess.DEVNULL).stderr.decode()
        note.write_text(re.search(r"native-static-libs: (.*)", told).group(1) + "\n")
    # The compiler adds the unwinder by itself: this one, or with -static, for which there is none of this name, the static one.
    return [word for word in note.read_text().split() if word != "-lgcc_s"]


# Where each file belongs.

class Layout:
    """The directories of an installation. In dlock.pc they are told from where that file is, if they are `movable`. What is
    `packed` has no debug information, which is most of the size."""

    def __init__(self, prefix, libdir=None, movable=False, packed=False):
        self.prefix = Path(prefix)
        self.libdir = self.prefix / (libdir or "lib")
        if not self.prefix.is_absolute():
            raise Failed(f"PREFIX: {self.prefix} is not an absolute path")
        for name, directory in (("PREFIX", self.prefix), ("LIBDIR", self.libdir)):
            if re.search(r"[\s@]", str(directory)):
                raise Failed(f"{name}: '{directory}' has a space or an @ in it, which pkg-config and make do not take")
        self.includedir = self.prefix / "include"
        self.docdir = self.prefix / "share" / "doc" / "dlock"
        self.movable = movable
        self.packed = packed

    def files(self):
        """Every file or link: its path, and what gives its content, or the name that it leads to (a str)."""
        shared = shared_name()
        for header in HEADERS:
            yield self.includedir / header, (ROOT / "include" / header).read_bytes
        yield self.libdir / shared, lambda: self.library("libdlock.so")
        yield self.libdir / SONAME, shared
        yield self.libdir / "libdlock.so", SONAME
        yield self.libdir / "libdlock.a", lambda: self.library("libdlock.a")
        yield self.libdir / "pkgconfig" / "dlock.pc", lambda: self.filled("dlock.pc")
        for name in ("dlock-config.cmake", "dlock-config-version.cmake"):
            yield self.libdir / "cmake" / "dlock" / name, lambda name=name: self.filled(name)
        for pattern in DOCUMENTS:
            for path in sorted(ROOT.glob(pattern)):
                yield self.docdir / path.relative_to(ROOT), path.read_bytes

    def library(self, name):
        if not (LIBRARY / name).exists():
            raise Failed(f"{LIBRARY / name} is missing: make build")
        return stripped(LIBRARY / name) if self.packed else (LIBRARY / name).read_bytes()

    def filled(self, name):
        libraries = native_libraries()
        prefix, libdir = self.prefix, self.libdir
        if self.movable:
            prefix = "${pcfiledir}/" + os.path.relpath(self.prefix, self.libdir / "pkgconfig")
        if self.prefix in self.libdir.parents:
            libdir = f"${{prefix}}/{self.libdir.relative_to(self.prefix)}"
        values = {
            "PREFIX": prefix, "LIBDIR": libdir, "INCLUDEDIR": "${prefix}/include", "VERSION": VERSION, "SONAME": SONAME,
            "SHARED": shared_name(), "NATIVE_LIBS": " ".join(libraries), "NATIVE_LIBS_LIST": ";".join(libraries),
            "LIBDIR_TO_INCLUDE": os.path.relpath(self.includedir, self.libdir),
        }
        text = (PACKAGING / f"{name}.in").read_text()
        return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match.group(1)]), text).encode()

    def install(self, destination):
        """All or nothing, where something is missing. Each file is written beside its place and moved there: a program that runs
        keeps the library it has."""
        contents = [(path, source if isinstance(source, str) else source()) for path, source in self.files()]
        for path, content in contents:
            target = below(destination, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.new")
            fresh.unlink(missing_ok=True)
            if isinstance(content, str):
                fresh.symlink_to(content)
            else:
                fresh.write_bytes(content)
                fresh.chmod(0o755 if ".so" in target.name else 0o644)
            fresh.replace(target)

    def uninstall(self, destination):
        """Removes what install() of this version writes, and the directories that are only dlock's."""
        ours = {self.libdir / "cmake" / "dlock"}
        for path, _ in self.files():
            below(destination, path).unlink(missing_ok=True)
            ours.update(directory for directory in path.parents if self.docdir in (directory, *directory.parents))
        for directory in sorted(ours, reverse=True):
            try:
                below(destination, directory).rmdir()
            except OSError:
                pass  # Not there, or it holds what is not ours.


def stripped(library):
    """A library without its debug information, and without what only the linker that made it needed."""
    flags = ["--strip-unneeded"] if library.suffix == ".so" else ["--strip-debug", "--enable-deterministic-archives"]
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, library.name)
        output_of(os.environ.get("STRIP", "strip"), *flags, "--remove-section=.comment", "-o", copy, library)
        return copy.read_bytes()


def below(destination, path):
    return Path(destination) / path.relative_to("/") if destination else path


def layout_of_environment():
    return Layout(os.environ.get("PREFIX") or "/usr/local", os.environ.get("LIBDIR")), os.environ.get("DESTDIR", "")


# Tarballs.

def dist(directory):
    """The sources as they are committed, and a tree that can be unpacked anywhere."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"dlock-{VERSION}-{platform()}"
    source, binary = directory / f"dlock-{VERSION}.tar.gz", directory / f"{name}.tar.gz"
    made = [binary]
    if (ROOT / ".git").exists():
        archive = output_of("git", "archive", "--format=tar", f"--prefix=dlock-{VERSION}/", "HEAD", cwd=ROOT).stdout
        source.write_bytes(gzip.compress(archive, 6, mtime=0))
        made.append(source)
    else:
        print("no git repository: no tarball of the sources")
    binary.write_bytes(gzip.compress(tar_of(Layout(Path("/") / name, movable=True, packed=True).files()), 6, mtime=0))
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(made))
    (directory / "SHA256SUMS").write_text(sums)
    print(*sorted(made), directory / "SHA256SUMS", sep="\n")


def tar_of(files):
    """The same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, source in files:
            entry = tarfile.TarInfo(str(path.relative_to("/")))
            if isinstance(source, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, source
                tar.addfile(entry)
            else:
                content = source()
                entry.size, entry.mode = len(content), 0o755 if ".so" in path.name else 0o644
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def platform():
    return output_of(os.environ.get("CC", "cc"), "-dumpmachine").stdout.decode().strip()


# Debian packages.

def deb(directory):
    """libdlock0, what programs run with, and libdlock-dev, what they are built with; below /usr, for this architecture."""
    architecture = output_of("dpkg", "--print-architecture").stdout.decode().strip()
    triplet = output_of("dpkg-architecture", "-qDEB_HOST_MULTIARCH").stdout.decode().strip()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        trees = {name: Path(work, "debian", name) for name in PACKAGES}
        split(Layout("/usr", f"/usr/lib/{triplet}", packed=True), trees)
        runtime, development = PACKAGES
        library = trees[runtime] / f"usr/lib/{triplet}" / shared_name()
        (Path(work) / "debian" / "control").write_text(f"Source: dlock\n\nPackage: {runtime}\nArchitecture: any\n")
        symbols(work, trees[runtime], library)
        needed = output_of("dpkg-shlibdeps", "-O", f"-e{library}", cwd=work).stdout.decode().strip().split("=", 1)[1]
        about = {
            runtime: (f"Section: libs\nMulti-Arch: same\nDepends: {needed}\n", "shared library"),
            development: (f"Section: libdevel\nMulti-Arch: same\nDepends: {runtime} (= {VERSION})\n",
                          "headers and static library"),
        }
        for name, (fields, what) in about.items():
            control(trees[name], name, architecture, fields, what)
            package = directory / f"{name}_{VERSION}_{architecture}.deb"
            output_of("dpkg-deb", "--root-owner-group", "--build", trees[name], package)
            print(package)


def split(layout, trees):
    """Each file into the tree of its package; documents are in both, below the package's own name."""
    runtime, development = PACKAGES
    layout.install(trees[development])
    libraries = below(trees[development], layout.libdir)
    target = below(trees[runtime], layout.libdir)
    target.mkdir(parents=True)
    for name in (shared_name(), SONAME):
        (libraries / name).rename(target / name)
    (target / shared_name()).chmod(0o644)
    documents = below(trees[development], layout.docdir)
    documents.rename(documents.with_name(development))
    for name in PACKAGES:
        place = below(trees[name], layout.docdir).with_name(name)
        place.mkdir(parents=True, exist_ok=True)
        (place / "copyright").write_text("\n".join((ROOT / name).read_text() for name in LICENCES))
        (place / "changelog.gz").write_bytes(gzip.compress(debian_changelog().encode(), 9, mtime=0))
    for name in LICENCES:
        (documents.with_name(development) / name).unlink()


def debian_changelog():
    """One entry, in the form that the policy of Debian asks for."""
    when = float(os.environ.get("SOURCE_DATE_EPOCH") or (ROOT / "CHANGELOG.md").stat().st_mtime)
    return (f"dlock ({VERSION}) unstable; urgency=medium\n\n  * What has changed is told in CHANGELOG.md, in {PACKAGES[1]}.\n\n"
            f" -- {MAINTAINER}  {email.utils.formatdate(when)}\n")


def symbols(work, tree, library):
    """The recorded symbols with what the library has added; a symbol that is gone ends it."""
    (tree / "DEBIAN").mkdir()
    output_of("dpkg-gensymbols", "-c1", f"-p{PACKAGES[0]}", f"-v{VERSION}", f"-I{PACKAGING / 'dlock.symbols'}",
              f"-e{library}", f"-P{tree}", f"-O{tree / 'DEBIAN' / 'symbols'}", cwd=work)
    (tree / "DEBIAN" / "shlibs").write_text(f"libdlock {ABI_MAJOR} {PACKAGES[0]} (>= {VERSION})\n")
    (tree / "DEBIAN" / "triggers").write_text("activate-noawait ldconfig\n")


def control(tree, name, architecture, fields, what):
    (tree / "DEBIAN").mkdir(exist_ok=True)
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file()) // 1024 + 1
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nSource: dlock\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n"
        f"Installed-Size: {size}\nPriority: optional\n{fields}"
        f"Description: distributed locks on Redis and Valkey ({what})\n"
        " One holder at a time for each lock, across threads, processes and machines;\n"
        " leases that are renewed, a queue of waiters, fencing tokens.\n")
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in sorted(tree.rglob("*"))
             if path.is_file() and not path.is_symlink() and "DEBIAN" not in path.parts]
    (tree / "DEBIAN" / "md5sums").write_text("".join(lines))


# The ABI.

def header():
    """dlock.h without its comments, and without what makes it one of C for C++."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", (ROOT / "include" / "dlock.h").read_text(), flags=re.DOTALL)
    return re.sub(r'^#ifdef __cplusplus\n(extern "C" \{|\}) *\n#endif *$', "", text, flags=re.MULTILINE)


def directives():
    """Those by which declarations would mean something else than they say: conditions, packing, names for names."""
    plain = r"# *(include <std\w+\.h>|ifndef DLOCK_H|define DLOCK_\w+( .*[^\\])?|endif) *$"
    return [line for line in re.findall(r"^ *#.*$", header(), re.MULTILINE) if not re.match(plain, line)]


def declarations():
    """Each declaration of dlock.h on a line of its own: constants, types, values of enumerations, prototypes."""
    text = header()
    lines = [" ".join(line.split()) for line in re.findall(r"^#define (DLOCK_\w+ .*)$", text, re.MULTILINE)
             if not line.startswith("DLOCK_VERSION")]
    code = re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)
    for body, name in re.findall(r"typedef enum \{(.*?)\}\s*(\w+);", code, re.DOTALL):
        lines += [f"enum {name} {' '.join(value.split())}" for value in body.split(",") if value.strip()]
    code = re.sub(r"typedef enum \{.*?\}\s*\w+;", "", code, flags=re.DOTALL)
    for structure in re.findall(r"typedef struct \{.*?\}\s*\w+;", code, re.DOTALL):
        lines.append(" ".join(structure.split()))
        code = code.replace(structure, "")
    lines += [" ".join(statement.split()) for statement in code.split(";") if "dlock" in statement]
    return lines


def exported():
    listing = output_of("nm", "-D", "--defined-only", "--format=posix", LIBRARY / "libdlock.so").stdout.decode()
    return sorted(line.split()[0] for line in listing.splitlines())


def abi(update):
    """What is recorded and no longer there, one line each; and what is there and not recorded. `update` records that."""
    declared, record = declarations(), PACKAGING / "dlock.abi"
    recorded = record.read_text().splitlines() if record.exists() else []
    file = PACKAGING / "dlock.symbols"
    head = f"{SONAME} {PACKAGES[0]} #MINVER#\n* Build-Depends-Package: {PACKAGES[1]}\n"
    known = dict(re.findall(r"^ (\w+)@Base (\S+)$", file.read_text(), re.MULTILINE)) if file.exists() else {}
    there = exported()
    soname = output_of("readelf", "-d", LIBRARY / "libdlock.so").stdout.decode()
    gone = [line for line in recorded if line not in declared] + [name for name in known if name not in there]
    gone += [f"{line} (what it does to the declarations is not in the record)" for line in directives()]
    if f"[{SONAME}]" not in soname or (file.exists() and not file.read_text().startswith(head)):
        gone.append(f"SONAME {SONAME}")
    added = [line for line in declared if line not in recorded] + [name for name in there if name not in known]
    if update and not gone:
        record.write_text("".join(line + "\n" for line in recorded + [line for line in declared if line not in recorded]))
        known.update({name: VERSION for name in there if name not in known})
        file.write_text(head + "".join(f" {name}@Base {known[name]}\n" for name in sorted(known)))
    for line in added:
        print(f"{'recorded' if update and not gone else 'not recorded yet'}: {line}")
    for line in gone:
        print(f"removed or changed: {line}")
    return 1 if gone else 0


def main(arguments):
    os.umask(0o022)  # What is installed is for everybody.
    command, rest = (arguments + [""])[0], arguments[1:]
    out = Path(rest[0] if rest else ROOT / "target" / "dist").resolve()
    if command in ("install", "uninstall") and not rest:
        layout, destination = layout_of_environment()
        getattr(layout, command)(destination)
    elif command == "dist":
        dist(out)
    elif command == "deb":
        deb(out)
    elif command == "libs":
        (LIBRARY / "native-static-libs").unlink(missing_ok=True)
        native_libraries()
    elif command == "abi" and rest in ([], ["--update"]):
        return abi(bool(rest))
    else:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failed, OSError) as problem:
        print(f"{' '.join(sys.argv[1:])}: {problem}", file=sys.stderr)
        sys.exit(1)
