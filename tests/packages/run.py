#!/usr/bin/env python3
"""Installs the library that was built, packs it, and uses it from foreign projects as those find it: by CMake, a Makefile with
pkg-config, Meson, the tarball, the Debian packages; each program runs against a private server. And: does the library still have
all that its ABI is recorded to have?

    tests/packages/run.py [part of a job's name …]       `--list` names the jobs

A tool that is not installed (cmake, pkg-config, meson, dpkg-deb) leaves out its job, which is said in a line of its own.
DLOCK_INCLUDE_DIR, DLOCK_LIB_DIR, DLOCK_TEST_SERVER: as for tests/c/run.py.
"""

import gzip
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "c"))

import harness  # noqa: E402
from harness import INCLUDE, LIBRARY, ROOT, TEMPORARY, Report, Server, run  # noqa: E402

TOOL = ROOT / "tools" / "package.py"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
EXPECTED = "locked and released\n"
WORKERS = 2

report = Report()
environment = {name: value for name, value in os.environ.items() if name not in ("PREFIX", "LIBDIR", "DESTDIR", "MAKEFLAGS")}


def directory():
    return Path(tempfile.mkdtemp(dir=TEMPORARY))


def step(name, command, seconds=120, **variables):
    """Is the command well? Its output."""
    status, output = run(command, seconds, env=dict(environment, **{key: str(value) for key, value in variables.items()}))
    report.line(status == 0, name, f"exit status {status}\n{output}")
    return output if status == 0 else None


def runs(name, program, server, **variables):
    status, output = run([program, server.url], 30, env=dict(environment, **variables))
    report.line(status == 0 and output == EXPECTED, f"{name}: locks and releases", f"exit status {status}\n{output}")


def linked(program):
    """Does it need the shared library, by its SONAME?"""
    return "[libdlock.so.0]" in run(["readelf", "-d", program], 20)[1]


def with_tool(tool, job):
    def either():
        if shutil.which(tool):
            job()
        else:
            report.line(True, f"notice: {tool} is not installed, so what needs it was not tried")
    return either


def package(*words):
    return [sys.executable, TOOL, *words]


# The installation that several jobs use: another prefix than the default one.

installed = directory() / "prefix"
installation = threading.Lock()


def prefix():
    with installation:
        if not installed.exists():
            step("make install into another prefix", ["make", "-C", ROOT, "install", f"PREFIX={installed}"])
    return installed


def use(name, build, programs):
    """Runs the programs that a foreign project built; those named static must not need the shared library."""
    with Server() as server:
        for program in programs:
            runs(f"{name}, {program}", build / program, server)
            report.line(linked(build / program) == (not program.endswith("static")),
                        f"{name}, {program}: linked as its name says")
        report.check(f"{name}: only the counter remains", server.expect_only_counter)


PROGRAMS = ("c-shared", "c-static", "cpp-shared", "cpp-static")


def by_cmake():
    """In a copy of the installation, at a path with a space, and by a link: on many systems /lib leads to /usr/lib."""
    build, moved = directory(), directory() / "moved root"
    shutil.copytree(prefix(), moved / "usr", symlinks=True)
    (moved / "lib").symlink_to("usr/lib")
    if step("CMake finds dlock where it was moved to, and no version and no component that is not there",
            ["cmake", "-S", HERE / "cmake", "-B", build, f"-DCMAKE_PREFIX_PATH={moved}"]) is None:
        return
    if step("CMake builds a foreign project", ["cmake", "--build", build]) is not None:
        use("CMake", build, PROGRAMS)


def by_make():
    build = directory()
    variables = {"PKG_CONFIG_PATH": prefix() / "lib" / "pkgconfig"}
    told = step("pkg-config knows dlock", ["pkg-config", "--modversion", "dlock"], **variables)
    report.line(told == VERSION + "\n", "pkg-config: the version is that of the library", str(told))
    told = step("pkg-config takes another prefix", ["pkg-config", "--define-variable=prefix=/else", "--cflags", "--libs", "dlock"],
                **variables)
    report.line((told or "").split() == ["-I/else/include", "-L/else/lib", "-ldlock"], "pkg-config: the prefix is said once",
                str(told))
    # What has no shared library at all needs a static C library, which is not installed everywhere.
    whole = ("wholly-static",) if os.path.isabs(run(["cc", "-print-file-name=libc.a"], 20)[1].strip()) else ()
    if step("a Makefile with pkg-config builds a foreign project",
            ["make", "-f", HERE / "make" / "Makefile", f"OUT={build}", "all", *(build / name for name in whole)],
            **variables) is not None:
        use("pkg-config", build, PROGRAMS + whole)


def by_meson():
    source = directory()
    for file in (HERE / "meson" / "meson.build", HERE / "program.c", HERE / "program.cpp"):
        shutil.copy(file, source)
    variables = {"PKG_CONFIG_PATH": prefix() / "lib" / "pkgconfig"}
    if step("Meson finds dlock", ["meson", "setup", source / "build", source], **variables) is not None and \
            step("Meson builds a foreign project", ["meson", "compile", "-C", source / "build"], **variables) is not None:
        use("Meson", source / "build", ("c-shared", "cpp-shared", "c-static"))


def staged():
    """DESTDIR, the defaults, uninstall, and what is refused."""
    stage = directory()
    step("make install below DESTDIR", ["make", "-C", ROOT, "install", f"DESTDIR={stage}"])
    local = stage / "usr" / "local"
    names = {str(path.relative_to(local)) for path in local.rglob("*") if not path.is_dir()}
    wanted = {"include/dlock.h", "include/dlock.hpp", f"lib/libdlock.so.{VERSION}", "lib/libdlock.so.0", "lib/libdlock.so",
              "lib/libdlock.a", "lib/pkgconfig/dlock.pc", "lib/cmake/dlock/dlock-config.cmake", "share/doc/dlock/LICENSE",
              "share/doc/dlock/THIRD-PARTY-NOTICES",
              "share/doc/dlock/docs/install.md", "share/doc/dlock/examples/c/minimal.c", "share/doc/dlock/examples/cpp/hello.cpp"}
    report.line(wanted <= names, "make install: every file is there", f"missing: {sorted(wanted - names)}")
    links = [os.readlink(local / "lib" / name) for name in ("libdlock.so", "libdlock.so.0")]
    report.line(links == ["libdlock.so.0", f"libdlock.so.{VERSION}"], "make install: the links lead from name to name",
                str(links))
    text = "".join(path.read_text() for path in (local / "lib").rglob("*.[cp]*") if path.suffix in (".pc", ".cmake"))
    report.line(str(stage) not in text and "@" not in text, "make install: no file names DESTDIR, or a place to be filled", text)
    step("make install again replaces what is there", ["make", "-C", ROOT, "install", f"DESTDIR={stage}"])
    step("make install with another LIBDIR",
         ["make", "-C", ROOT, "install", f"DESTDIR={stage}", "PREFIX=/opt/d", "LIBDIR=/opt/d/lib64"])
    text = (stage / "opt/d/lib64/pkgconfig/dlock.pc").read_text()
    report.line((stage / "opt/d/lib64/libdlock.so.0").exists() and "libdir=${prefix}/lib64\n" in text,
                "make install: LIBDIR is where the libraries are, and what dlock.pc says", text)
    step("make install with a LIBDIR that is below PREFIX",
         ["make", "-C", ROOT, "install", f"DESTDIR={stage}", "PREFIX=/opt/e", "LIBDIR=lib/triplet"])
    text = (stage / "opt/e/lib/triplet/pkgconfig/dlock.pc").read_text()
    report.line((stage / "opt/e/lib/triplet/libdlock.so.0").exists() and "libdir=${prefix}/lib/triplet\n" in text,
                "make install: a LIBDIR that is no absolute path is below PREFIX", text)
    elsewhere = directory()
    (elsewhere / "triple" / "release").mkdir(parents=True)
    for name in ("libdlock.so", "libdlock.a", "native-static-libs"):
        (elsewhere / "triple" / "release" / name).write_text("-lelsewhere\n")
    step("make install of what cargo built elsewhere", package("install"), DESTDIR=stage, PREFIX="/opt/f", DLOCK_LIB_DIR="",
         CARGO_TARGET_DIR=elsewhere, CARGO_BUILD_TARGET="triple")
    text = (stage / "opt/f/lib/libdlock.so").read_bytes()[:20].decode(errors="replace")
    report.line(text == "-lelsewhere\n", "make install: CARGO_TARGET_DIR and CARGO_BUILD_TARGET say where the libraries are", text)
    (local / "lib" / "other").write_text("")
    step("make uninstall needs no build", ["make", "-C", ROOT, "uninstall", f"DESTDIR={stage}"], DLOCK_LIB_DIR=stage)
    left = sorted(str(path.relative_to(local)) for path in local.rglob("*") if not path.is_dir())
    report.line(left == ["lib/other"], "make uninstall: what was installed is gone, and nothing else", str(left))
    report.line(not (local / "share/doc/dlock").exists(), "make uninstall: the directories that were dlock's are gone")
    for words, variables in (("PREFIX: usr is not an absolute path", {"PREFIX": "usr"}),
                             ("LIBDIR: '/a b' has a space", {"LIBDIR": "/a b"}),
                             ("is missing: make build", {"DLOCK_LIB_DIR": str(stage), "PREFIX": "/opt/missing"})):
        status, output = run(package("install"), 30, env=dict(environment, DESTDIR=str(stage), **variables))
        report.line(status == 1 and words in output, f"make install says: {words}", output)
    report.line(not (stage / "opt/missing").exists(), "make install: where a library is missing nothing is installed")


def tarball():
    """Unpacked elsewhere it still works, and the sums are right."""
    out, again, tree = directory(), directory(), directory()
    if step("make dist", package("dist", out)) is None:
        return
    step("the sums are right", ["sh", "-c", f"cd '{out}' && sha256sum -c SHA256SUMS"])
    step("make dist again", package("dist", again))
    report.line((out / "SHA256SUMS").read_text() == (again / "SHA256SUMS").read_text(), "the same files make the same tarballs")
    (binary,) = (path for path in out.glob("dlock-*-*.tar.gz"))
    step("the tarball can be unpacked", ["tar", "-xzf", binary, "-C", tree])
    top = tree / binary.name.removesuffix(".tar.gz")
    for source in out.glob(f"dlock-{VERSION}.tar.gz"):
        listing = run(["tar", "-tzf", source], 30)[1].splitlines()
        report.line({f"dlock-{VERSION}/Cargo.lock", f"dlock-{VERSION}/Makefile"} <= set(listing), "the sources are in a tarball")
    with Server() as server:
        program = top / "program"
        flags = ["-I", top / "include", "-L", top / "lib", f"-Wl,-rpath,{top / 'lib'}", "-ldlock"]
        if shutil.which("pkg-config"):
            told = step("pkg-config finds it where it was unpacked", ["pkg-config", "--cflags", "--libs", "dlock"],
                        PKG_CONFIG_PATH=top / "lib" / "pkgconfig") or ""
            flags = [*told.split(), f"-Wl,-rpath,{top / 'lib'}"]
        if step("a program is built with the tarball", ["cc", HERE / "program.c", "-o", program, *flags]) is not None:
            runs("tarball", program, server)


def debian():
    out, tree = directory(), directory()
    # (The usual compression takes longer than all the rest.)
    made = step("make deb", package("deb", out), DPKG_DEB_COMPRESSOR_TYPE="gzip", DEBFULLNAME="A Packager", DEBEMAIL="a@example.org")
    if made is None:
        return
    packages = [Path(line) for line in made.splitlines()]
    report.line([path.name.split("_")[0] for path in packages] == ["libdlock0", "libdlock-dev"], "two packages", made)
    for path in packages:
        step(f"{path.name} can be unpacked", ["dpkg-deb", "-x", path, tree])
        place = tree / "usr/share/doc" / path.name.split("_")[0]
        report.line("ring" in (place / "copyright").read_text() and gzip.decompress((place / "changelog.gz").read_bytes()).startswith(
            f"dlock ({VERSION}) ".encode()), f"{path.name}: its licence and its changes are where the policy wants them")
    fields = run(["dpkg-deb", "-f", packages[0]], 20)[1]
    report.line("Maintainer: A Packager <a@example.org>\n" in fields, "its maintainer is who is named", fields)
    report.line(f"Version: {VERSION}\n" in fields and re.search(r"^Depends: .*libc6 \(>= ", fields, re.MULTILINE) is not None,
                "the package of the library depends on what the library needs", fields)
    symbols = run(["dpkg-deb", "--info", packages[0], "symbols"], 20)[1]
    report.line(symbols.startswith("libdlock.so.0 libdlock0 ") and " dlock_lock_acquire@Base 0.1.0\n" in symbols,
                "its symbols say since when", symbols)
    fields = run(["dpkg-deb", "-f", packages[1], "Depends"], 20)[1]
    report.line(fields == f"libdlock0 (= {VERSION})\n", "the package of the headers depends on the other one", fields)
    libraries = next((tree / "usr" / "lib").glob("*/libdlock.so")).parent
    library = (libraries / "libdlock.so").resolve()
    sections = run(["readelf", "-SW", library], 20)[1]
    report.line(library.stat().st_mode & 0o777 == 0o644 and ".dynsym" in sections and not re.search(r"\.(symtab|debug_|comment)",
                sections), "the shared library is stripped and no program, as the policy wants it", sections)
    program = tree / "program"
    with Server() as server:
        if step("a program is built with the packages", ["cc", "-I", tree / "usr/include", HERE / "program.c", "-o", program,
                                                         "-L", libraries, "-ldlock"]) is not None:
            runs("Debian packages", program, server, LD_LIBRARY_PATH=str(libraries))


def recorded():
    """The ABI as packaging/ has it; and the check itself, on copies with one thing changed."""
    output = step("the ABI has everything that is recorded", package("abi"))
    for line in (output or "").splitlines():
        report.note(line)
    for what, file, old, new in (
            ("a function that is gone", "include/dlock.h", "dlock_status dlock_lock_extend(",
             "dlock_status dlock_lock_prolong("),
            ("another type of a parameter", "include/dlock.h", "uint64_t lease_ms,\n                               dlock_error",
             "uint32_t lease_ms,\n                               dlock_error"),
            ("another number of a status", "include/dlock.h", "DLOCK_ERR_BUSY = 13", "DLOCK_ERR_BUSY = 14"),
            ("a member of a struct between others", "include/dlock.h", "    bool flag;\n", "    bool flag;\n    bool more;\n"),
            ("a declaration that is not for everybody", "include/dlock.h", "const char *dlock_version(void);",
             "#ifdef _WIN32\nconst char *dlock_version(void);\n#endif"),
            ("another packing of structs", "include/dlock.h", "#define DLOCK_UUID_SIZE", "#pragma pack(1)\n#define DLOCK_UUID_SIZE"),
            ("a symbol that is gone", "packaging/dlock.symbols", " dlock_version@Base",
             " dlock_former@Base 0.1.0\n dlock_version@Base"),
            ("another SONAME", "packaging/dlock.symbols", "libdlock.so.0 libdlock0", "libdlock.so.9 libdlock9")):
        status, output = changed(file, old, new)
        report.line(status == 1 and "removed or changed: " in output, f"the ABI's check finds {what}", output)
    status, output = changed("include/dlock.h", "dlock_status dlock_lock_extend(",
                             "void dlock_lock_more(const dlock_lock *lock);\ndlock_status dlock_lock_extend(")
    report.line(status == 0 and "not recorded yet: void dlock_lock_more" in output, "what is added is no fault", output)


def changed(file, old, new):
    """The check of the ABI in a copy of what it reads, with one change."""
    copy = directory()
    for name in ("include", "packaging"):
        shutil.copytree(ROOT / name, copy / name)
    (copy / "tools").mkdir()
    for name in ("Cargo.toml", "build.rs", "tools/package.py"):
        shutil.copy(ROOT / name, copy / name)
    text = (copy / file).read_text()
    if text.count(old) != 1:
        return None, f"{file} has {old!r} {text.count(old)} times"
    (copy / file).write_text(text.replace(old, new))
    return run([sys.executable, copy / "tools/package.py", "abi"], 30, env=dict(environment, DLOCK_LIB_DIR=str(LIBRARY)))


JOBS = {
    "cmake": with_tool("cmake", by_cmake),
    "make": with_tool("pkg-config", by_make),
    "meson": with_tool("meson", by_meson),
    "staged": staged,
    "tarball": tarball,
    "debian": with_tool("dpkg-gensymbols", debian),
    "abi": recorded,
}


def main(arguments):
    return harness.run_jobs(JOBS, arguments, report, WORKERS)


if __name__ == "__main__":
    harness.run_main(main, JOBS, (INCLUDE / "dlock.hpp", LIBRARY / "libdlock.so", LIBRARY / "libdlock.a"))
