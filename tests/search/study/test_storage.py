from pathlib import Path

import optuna
import pytest

from petlas.petl.design import Design
from petlas.search.study import Ending, Entry, StorageError, StudyRecord, export_database, mend_journal, sqlite_url
from petlas.search.study.storage import open_storage
from petlas.search.training.fidelity import Fidelity
from petlas.spaces import Candidate

ODD_NAMES = ("q?1", "a%20b", "c#d", "with blank", "ü'\"", "[bold]", "x" * 200)


def filled(folder: Path) -> StudyRecord:
    record = StudyRecord.create(folder)
    number = record.begin(Entry(Candidate(Design()), Fidelity(1, 0), "search", 3), {}, {}, {})
    record.finish(number, Ending(1, 0.5, 0.1))
    return record


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_of_any_name_has_a_study_of_its_own_and_its_copy(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    record = filled(folder)
    export_database(record.storage, record.name, folder / "study.db")
    assert {path.name for path in folder.iterdir()} == {"study.journal", "study.db"}
    (study,) = optuna.get_all_study_summaries(sqlite_url(folder / "study.db"))
    assert (study.study_name, study.n_trials) == (name, 1)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_the_copy_says_what_the_journal_says(tmp_path: Path) -> None:
    record = filled(tmp_path)
    export_database(record.storage, record.name, tmp_path / "study.db")
    study = optuna.load_study(study_name=record.name, storage=sqlite_url(tmp_path / "study.db"))
    (copy,), (trial,) = study.trials, record.trials()
    assert (copy.values, copy.user_attrs, copy.state) == (trial.values, trial.user_attrs, trial.state)


def test_a_half_written_last_line_is_taken_off_and_what_comes_next_is_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 4, "work')
    mend_journal(tmp_path)
    record = filled(tmp_path)
    assert len(record.trials()) == 2
    assert len(StudyRecord.read(tmp_path).trials()) == 2


def test_mending_leaves_a_whole_journal_and_a_missing_one_alone(tmp_path: Path) -> None:
    mend_journal(tmp_path)
    filled(tmp_path)
    before = (tmp_path / "study.journal").read_bytes()
    mend_journal(tmp_path)
    assert (tmp_path / "study.journal").read_bytes() == before


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no study yet; petlas search makes it"):
        StudyRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("mysql://user:secret@127.0.0.1:1/x", r"needs a driver for mysql://user:\*\*\*@.*pip install"),
        ("nonsense://x", "needs a driver for nonsense://x"),
        ("postgresql://user:secret@127.0.0.1:1/x", r"storage.*\*\*\*"),
        ("sqlite:////nowhere/at/all.db", "no database answers at sqlite:////nowhere/at/all.db"),
    ],
)
def test_a_database_that_cannot_be_opened_is_the_users_with_what_to_do_and_without_the_password(
    tmp_path: Path, url: str, match: str
) -> None:
    with pytest.raises(StorageError, match=match) as caught:
        open_storage(tmp_path, url)
    assert "secret" not in str(caught.value)


def test_a_journal_with_a_broken_line_is_told(tmp_path: Path) -> None:
    StudyRecord.create(tmp_path)
    journal = tmp_path / "study.journal"
    journal.write_bytes(b"garbage\n" + journal.read_bytes())
    with pytest.raises(StorageError, match=r"study\.journal must be what petlas wrote.*restore the file, or remove"):
        open_storage(tmp_path, None)
