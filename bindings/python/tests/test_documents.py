"""What the documents and the examples show works: each block of Python is run as a program."""

import re
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT

import dlock

DOCUMENTS = ["docs/python.md", "bindings/python/README.md", "README.md"]
BLOCKS = [
    pytest.param(block, id=f"{document}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL), 1)
]
PRINTED = {
    "minimal": "nobody else writes the billing report now\n",
    "timeouts": "one attempt: False\na tenth of a second: False\nthree attempts: False\nwith: LockTimeoutError\nafter the release: True\n",
    "fenced_work": "the second holder's write is taken\nthe first holder's late write is refused\nthe register has: new\n",
    "many_tasks": "99 tasks had their turn, 1 was cancelled\n",
    "workers": "counted to 60\n",
}


def output(*arguments):
    ran = subprocess.run([sys.executable, "-W", "error", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, universal_newlines=True, timeout=PATIENCE * 2)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_the_documents(server, tmp_path, block):
    program = tmp_path / "block.py"
    assert "redis://localhost:6379" in block
    program.write_text(block.replace("redis://localhost:6379", server.url))
    assert output(program) != ""
    assert server.ask("KEYS", "billing:*") == []


def test_there_are_blocks():
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("example", sorted(path.stem for path in (ROOT / "examples" / "python").glob("*.py")))
def test_examples(server, example):
    assert output(ROOT / "examples" / "python" / f"{example}.py", server.url) == PRINTED[example]


def test_the_pages_of_the_api_have_every_public_name_with_its_docstring(tmp_path):
    """As `make docs` makes them; where a docstring is missing it fails and says where."""
    assert output(ROOT / "tools" / "python_pages.py", tmp_path) == ""
    shown = set(re.findall(r'id="([A-Z]\w*(?:\.\w+)?)"', (tmp_path / "dlock.html").read_text()))
    assert shown >= set(dlock.__all__)
    for kind in (dlock.Locker, dlock.Lock, dlock.AsyncLocker, dlock.AsyncLock):
        assert shown >= {f"{kind.__name__}.{name}" for name in dir(kind) if not name.startswith("_")}


def test_the_manual_names_everything():
    manual = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in dlock.__all__ if name not in manual and name != "Duration"] == []
    for kind in (dlock.Locker, dlock.Lock):
        assert [name for name in dir(kind) if not name.startswith("_") and f"{name}" not in manual] == []
