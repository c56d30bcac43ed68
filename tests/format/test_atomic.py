"""A file appears whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gguftool.format.atomic import atomic_output, check_output


def test_it_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    with atomic_output(target) as file:
        file.write(b"all of it")
        assert not target.exists()
    assert target.read_bytes() == b"all of it"
    assert list(tmp_path.iterdir()) == [target]


def test_its_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_output(tmp_path / "out") as file:
        file.write(b"")
    assert os.stat(tmp_path / "out").st_mode == os.stat(tmp_path / "plain").st_mode


def test_nothing_is_left_after_trouble(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_output(tmp_path / "out") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError), atomic_output(target):
        pass
    with pytest.raises(RuntimeError), atomic_output(target, overwrite=True):
        raise RuntimeError
    assert target.read_bytes() == b"old"
    with atomic_output(target, overwrite=True) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), atomic_output(tmp_path, overwrite=True):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_device_or_pipe_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="no regular file"), atomic_output(tmp_path / name, overwrite=overwrite):
            pass
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_trouble_names_the_output_and_not_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as trouble, atomic_output(tmp_path / "nowhere" / "out"):
        pass
    assert trouble.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(OSError) as trouble, atomic_output(tmp_path / ("x" * 300)):
        pass
    assert trouble.value.filename == str(tmp_path / ("x" * 300))


def test_a_full_disk_is_told_with_the_name_of_the_output(tmp_path: Path) -> None:
    with pytest.raises(OSError) as trouble, atomic_output(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert trouble.value.filename == str(tmp_path / "out") and list(tmp_path.iterdir()) == []
    with pytest.raises(OSError) as trouble, atomic_output(tmp_path / "out"):
        raise OSError(errno.EIO, "reading an input")
    assert trouble.value.filename is None


def test_a_name_may_have_all_the_bytes_that_a_folder_takes(tmp_path: Path) -> None:
    target = tmp_path / ("文" * 85)
    with atomic_output(target) as file:
        file.write(b"x")
    assert target.read_bytes() == b"x"


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(FileExistsError, match="is an input"):
        check_output(tmp_path / "link", overwrite=True, inputs=[tmp_path / "in", tmp_path / "missing"])
    check_output(tmp_path / "other", inputs=[tmp_path / "in"])


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for text in (b"first", b"second"):
        with atomic_output(tmp_path / "link", overwrite=text == b"second") as file:
            file.write(text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "file").read_bytes() == text
