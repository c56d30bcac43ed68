"""The door of the command line: help, mistakes, exit statuses, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import gguftool
from gguftool.cli.main import COMMANDS, cli, main
from gguftool.errors import FormatError, PlanError, UsageError


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gguftool", *words], capture_output=True, text=True)


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in result.output
        assert line in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: gguftool {name}")


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"gguftool {gguftool.__version__}\n")
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == gguftool.__version__


def test_a_misspelled_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(cli, ["quantise"])
    assert result.exit_code == 2
    assert "No such command 'quantise': did you mean quantize?" in result.output
    assert "the commands are info, types" in CliRunner().invoke(cli, ["xyzzy"]).output


def test_misuse_is_status_2(tmp_path: Path) -> None:
    for words in (["info"], ["info", "--no-such-option", "x"], ["types", "--format", "html"], ["verify", "--"]):
        done = ran(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        (line,) = done.stderr.splitlines()
        assert line.startswith("gguftool: ") and line.endswith(f"`gguftool {words[0]} --help` says more")
    bare = ran()
    assert bare.returncode == 2 and "Commands:" in bare.stderr


def test_a_reader_that_has_seen_enough_is_no_trouble() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "gguftool", "types"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("info")
    def command() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gguftool.cli.info.command", command)
    result = CliRunner().invoke(cli, ["info"])
    assert (result.exit_code, result.output.strip()) == (1, "gguftool: stopped")


@pytest.mark.parametrize(
    ("trouble", "lines", "status"),
    [
        (FormatError("x.gguf", "is\x1b[31m wrong", 7), ["gguftool: x.gguf: at byte 7: is\\x1b[31m wrong"], 1),
        (UsageError("no such thing"), ["gguftool: no such thing"], 2),
        (PlanError(["first", "second"]), ["gguftool: first", "gguftool: second"], 1),
        (FileNotFoundError(2, "No such file or directory", "y"), ["gguftool: y: No such file or directory"], 1),
        (OSError("something"), ["gguftool: something"], 1),
    ],
)
def test_trouble_is_told_in_lines(
    trouble: Exception, lines: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command("info")
    def command() -> None:
        raise trouble

    monkeypatch.setattr("gguftool.cli.info.command", command)
    result = CliRunner().invoke(cli, ["info"])
    assert result.exit_code == status
    assert result.output.splitlines() == lines


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("info")
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gguftool.cli.info.command", command)
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_a_missing_file_is_one_line_on_stderr(tmp_path: Path) -> None:
    done = ran("info", str(tmp_path / "absent.gguf"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gguftool: {tmp_path / 'absent.gguf'}: No such file or directory\n"


_HEAVY = {"numba", "pandas", "matplotlib", "llama_cpp", "numpy", "rich", "tqdm"}

_IMPORTS = """
import sys
{0}
print("\\n" + " ".join(sorted(m for m in sys.modules if "." not in m)))
"""


def imported(code: str, *words: str) -> set[str]:
    command = [sys.executable, "-c", _IMPORTS.format(code), *words]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1].split())


def test_the_package_alone_imports_nothing_heavy() -> None:
    assert not imported("import gguftool") & (_HEAVY | {"click"})


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_imports_no_command(words: list[str]) -> None:
    code = f"from gguftool.cli.main import cli\ntry:\n    cli.main({words!r})\nexcept SystemExit:\n    pass"
    assert not imported(code) & _HEAVY


def test_info_imports_nothing_heavy(tmp_path: Path) -> None:
    from support_gguf import gguf, string

    path = tmp_path / "a.gguf"
    path.write_bytes(gguf([("general.architecture", string("llama"))], [("a", [256], 12, bytes(144))]))
    for words in (["info", str(path)], ["info", "--json", str(path)], ["info", "--tensors", str(path)]):
        code = f"from gguftool.cli.main import cli\ntry:\n    cli.main({words!r})\nexcept SystemExit:\n    pass"
        assert not imported(code) & _HEAVY


def test_public_names_are_there() -> None:
    for name in gguftool.__all__:
        assert getattr(gguftool, name) is not None
    assert set(gguftool.__all__) <= set(dir(gguftool))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gguftool.nonsense  # noqa: B018
