"""The journal: what was recorded comes back, what was torn does not, and nobody shares it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguftool.errors import JournalError
from gguftool.run.journal import Done, open_journal

KEY = {"recipe or options": "a", "imatrix": "b"}
RECORDS = [Done(n, 1.5 * n, 2.0, 3.0, 4.0, 5.0, 6.0, n) for n in range(5)]


def filled(path: Path) -> bytes:
    with open_journal(path, KEY) as journal:
        assert journal.new and not journal.done
        journal.append(RECORDS[:2])
        journal.append(RECORDS[2:], sync=False)
    return path.read_bytes()


def test_records_come_back(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    with open_journal(tmp_path / "j", KEY) as journal:
        assert journal.done == {r.task: r for r in RECORDS}
        assert not journal.new and not journal.renaming
        journal.mark_renaming()
    with open_journal(tmp_path / "j", KEY) as journal:
        assert journal.renaming


def test_every_torn_tail_gives_the_records_before_it(tmp_path: Path) -> None:
    whole = filled(tmp_path / "j")
    seen = set()
    for size in range(len(whole) + 1):
        (tmp_path / "t").write_bytes(whole[:size])
        with open_journal(tmp_path / "t", KEY) as journal:
            count = len(journal.done)
            assert journal.done == {r.task: r for r in RECORDS[:count]}
            journal.append([Done(99)])
        with open_journal(tmp_path / "t", KEY) as journal:
            assert set(journal.done) == {*range(count), 99}
        seen.add(count)
    assert seen == set(range(len(RECORDS) + 1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_bit_never_makes_a_record(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("flip") / "j"
    whole = bytearray(filled(path))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    path.write_bytes(whole)
    try:
        with open_journal(path, KEY) as journal:
            assert set(journal.done.items()) < {(r.task, r) for r in RECORDS}
    except JournalError as trouble:
        assert "in the way" in str(trouble)


def test_another_key_is_refused_by_name_and_given_up_on_request(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    with pytest.raises(JournalError, match=r"another imatrix: .*--restart"):
        open_journal(tmp_path / "j", KEY | {"imatrix": "c"})
    with pytest.raises(JournalError, match="another recipe or options and imatrix"):
        open_journal(tmp_path / "j", {"recipe or options": "x", "imatrix": "c"})
    with open_journal(tmp_path / "j", KEY) as journal:
        assert len(journal.done) == 5
    with open_journal(tmp_path / "j", KEY | {"imatrix": "c"}, restart=True) as journal:
        assert not journal.done


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("dear diary")
    with pytest.raises(JournalError, match="no journal"):
        open_journal(tmp_path / "j", KEY, restart=True)
    assert (tmp_path / "j").read_text() == "dear diary"


def test_only_one_process_has_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gguftool.run.journal import open_journal\n"
        "j = open_journal(Path(sys.argv[1]), {'k': 'v'}); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "j")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalError, match="another process"):
            open_journal(tmp_path / "j", {"k": "v"})
        other.stdin.close()
    with open_journal(tmp_path / "j", {"k": "v"}) as journal:
        assert not journal.new


def test_reset_forgets(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    with open_journal(tmp_path / "j", KEY) as journal:
        journal.reset()
    with open_journal(tmp_path / "j", KEY) as journal:
        assert not journal.done
        journal.remove()
    assert not (tmp_path / "j").exists()
