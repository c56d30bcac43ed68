"""``gguftool calibration build`` at the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from gguftool.cli.main import cli


def test_build_prints_a_table_and_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"line {i} " + "word " * (i % 17) for i in range(300)))
    (tmp_path / "mix.toml").write_text('[[source]]\nname = "a"\npath = "a.txt"\nsplit = "line"\nlicence = "CC0"\n')
    arguments = ["calibration", "build", str(tmp_path / "mix.toml"), "-o", str(tmp_path / "calib.txt")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.stderr
    assert "source" in done.stdout and "100.0" in done.stdout and "calib.manifest.json" in done.stdout
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1 and "exists already" in again.stderr and again.stderr.count("\n") == 1
    forced = CliRunner().invoke(cli, [*arguments, "--force", "--format", "json"])
    assert json.loads(forced.stdout)["sources"][0]["name"] == "a"
    (tmp_path / "a.txt").unlink()
    missing = CliRunner().invoke(cli, [*arguments, "--force"])
    assert missing.exit_code == 1 and "source 'a': no file" in missing.stderr
