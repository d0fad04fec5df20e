"""Everything that the README and the documents show runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
INSTALLS = re.compile(r"^python3 -m venv ")
TLS = "cluster_configs/tls/README.md"  # its commands are run by tests/test_tls.py
ONE_AFTER_ANOTHER = """
import json, sys
from daskgmm.cli import main

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        assert main(arguments) == 0, arguments
"""


def code(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    return [line for block in code(document, "sh") for line in block.splitlines() if line and not line.startswith("#")]


@pytest.mark.cluster
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_and_commands(document: str, times: int, tmp_path: Path) -> None:
    """In order, in one directory: later blocks use what earlier ones have made, and a second run finds all of it."""
    script = tmp_path / "document.py"
    # One script, run as such, because worker processes import the main module again.
    blocks = [
        block if "__main__" in block else f"if __name__ == '__main__':\n{indent(block)}"
        for block in code(document, "python")
    ]
    script.write_text("\n".join(blocks))
    lines = [line for line in commands(document) if not INSTALLS.match(line) and line not in commands(TLS)]
    asked = [shlex.split(line) for line in lines]
    assert {program for program, *_ in asked} <= {"daskgmm"}
    for _ in range(times):
        # Other tests of this machine may have a cluster of their own, and Dask's dashboards all want one port.
        run([sys.executable, "-W", "error", "-W", "ignore:Port 8787:UserWarning", str(script)], tmp_path)
        if times == 1 and asked:  # one process for all commands: most of a short one is its imports
            run([sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps([words[1:] for words in asked])], tmp_path)
        else:
            for words in asked:
                run([sys.executable, "-m", *words], tmp_path)


def indent(block: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in block.splitlines())


def run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_two_install_commands() -> None:
    """One runs the main job, one the tests, and the latter is what continuous integration runs."""
    demo, test = [command for command in commands("README.md") if INSTALLS.match(command)]
    assert demo.endswith("daskgmm demo")
    assert "pytest" in test
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_demo_command_on_a_fresh_machine(tmp_path: Path) -> None:
    """The README's first command, as it stands, in a copy of what git tracks."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x"], cwd=tmp_path, input=archive, check=True)
    (command,) = [command for command in commands("README.md") if command.endswith("daskgmm demo")]
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "daskgmm-demo").glob("*.png"))) == 2


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t]
    missing = [target for target in targets if not ((ROOT / document).parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_are_named_exist(document: str) -> None:
    """``tests/test_file.py::test_name``; ``::test_name`` of a file that the text names; ``test_name`` of any."""
    text = (ROOT / document).read_text()
    code = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = "".join(code[path] for path in set(re.findall(r"tests/[\w/]+\.py", text)) & set(code))
    for path, mark, name in re.findall(r"`(?:(tests/[\w/]+\.py)?(::))?(test_\w+)`", text):
        searched = code[path] if path else named if mark else "".join(code.values())
        assert f"def {name}(" in searched, f"{path}{mark}{name}"
