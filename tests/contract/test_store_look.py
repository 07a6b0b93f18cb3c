"""A look at a database changes nothing, on SQLite and on PostgreSQL."""

from pathlib import Path

import pytest

from autotune.errors import InputError, StoreError
from autotune.store import Store, look


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'autotune.db'}"
    return str(request.getfixturevalue("postgresql_url"))


def test_a_database_without_our_schema_has_no_revision_and_gets_none(url: str) -> None:
    for _ in range(2):
        assert (look(url).revision, look(url).known) == (None, True)


def test_a_database_that_was_opened_has_the_newest_revision(url: str) -> None:
    Store.open(url).close()
    state = look(url)
    assert state.exists
    assert state.revision == state.newest
    assert state.known


def test_a_server_that_is_not_there_is_an_error_without_its_password() -> None:
    with pytest.raises(StoreError, match=r"cannot be opened") as caught:
        look("postgresql+psycopg://me:secret@127.0.0.1:1/autotune")
    assert "secret" not in str(caught.value)


def test_a_database_of_another_kind_is_an_error() -> None:
    with pytest.raises(InputError, match="not supported"):
        look("mysql://host/database")


def test_an_sqlite_file_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        look(f"sqlite:///{tmp_path}/file/autotune.db")
