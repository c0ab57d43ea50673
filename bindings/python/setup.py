"""What pyproject.toml cannot say: the extension module with the Rust library in it, and the Rust sources in a source
distribution."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_native  # noqa: E402  (beside this file)

# What cargo needs to build the library, from the root of the repository. Cargo.toml names the two of tests/.
SOURCES = ["Cargo.toml", "Cargo.lock", "build.rs", "include/dlock.h", "src", "tests/history", "tests/tls"]


class BuildWithRust(build_ext):
    """The library is built when the module is, and not when setuptools only wants to know the package's name."""

    def run(self):
        archive = str(build_native.library())
        for extension in self.extensions:
            extension.extra_objects.append(archive)
            extension.depends.append(archive)
        super().run()


class SourcesWithRust(sdist):
    """Copies the Rust sources to rust/."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for source in SOURCES:
            origin, copy = build_native.RUST / source, Path(base_dir) / "rust" / source
            copy.parent.mkdir(parents=True, exist_ok=True)
            if origin.is_dir():
                shutil.copytree(origin, copy, dirs_exist_ok=True)
            else:
                shutil.copy(origin, copy)
        for name in ("LICENSE", "THIRD-PARTY-NOTICES"):  # links, in the repository
            licence = Path(base_dir) / name
            content = licence.read_bytes()
            licence.unlink()
            licence.write_bytes(content)


setup(version=build_native.version(), cffi_modules=["build_native.py:builder"],
      cmdclass={"build_ext": BuildWithRust, "sdist": SourcesWithRust},
      # One wheel for every Python from 3.9 on. In the repository nothing is built outside of target/.
      options={"bdist_wheel": {"py_limited_api": "cp39"},
               "build": {} if build_native.HERE in build_native.RUST.parents else
               {"build_base": str(build_native.RUST / "target" / "python" / "build")}})
