"""Optuna's storage as one request of the dashboard sees it: only the studies its caller may see."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from optuna.storages import RDBStorage
from optuna.storages._rdb.models import StudyModel, TrialModel  # only they list studies without all that these hold
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study._frozen import FrozenStudy

Sees = Callable[[int, str], bool]  # a study's id and name


def _nothing(_study_id: int, _name: str) -> bool:
    return False


_sees: ContextVar[Sees] = ContextVar("sees", default=_nothing)


class SeenStorage(RDBStorage):
    """Lists the studies that the request may see, and reads no others.

    Optuna's own list holds every attribute of every study, the notes and artifacts of all trials among them, and the
    dashboard asks for it whenever it shows one study.
    """

    def get_all_studies(self) -> list[FrozenStudy]:
        """The studies of this request, by id."""
        sees = _sees.get()
        return [self._whole(study_id, name) for study_id, name in self.names().items() if sees(study_id, name)]

    def names(self) -> dict[int, str]:
        """The name of every study, by id."""
        with _create_scoped_session(self.scoped_session) as session:
            found = session.query(StudyModel.study_id, StudyModel.study_name).order_by(StudyModel.study_id).all()
        return {study_id: name for study_id, name in found}  # noqa: C416  (rows are no pairs to mypy)

    def study_of(self, trial_id: int) -> int:
        """The id of a trial's study. Raises KeyError when there is no such trial."""
        with _create_scoped_session(self.scoped_session) as session:
            return int(TrialModel.find_or_raise_by_id(trial_id, session).study_id)

    def _whole(self, study_id: int, name: str) -> FrozenStudy:
        return FrozenStudy(
            study_name=name,
            direction=None,
            directions=self.get_study_directions(study_id),
            user_attrs=self.get_study_user_attrs(study_id),
            system_attrs=self.get_study_system_attrs(study_id),
            study_id=study_id,
        )


@contextmanager
def seeing(sees: Sees) -> Iterator[None]:
    """What the storage shows to what runs inside the block."""
    token = _sees.set(sees)
    try:
        yield
    finally:
        _sees.reset(token)
