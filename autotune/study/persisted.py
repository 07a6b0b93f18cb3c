"""The study people watch in Optuna dashboard, kept in line with our rows."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import optuna
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import RDBStorage
from optuna.storages._rdb import storage as rdb  # when it connects, Optuna lets SQLAlchemy's own errors through
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import _note, get_note, save_note

from autotune.errors import StoreError
from autotune.results import Trial
from autotune.spec import Sla
from autotune.study.artifacts import Shelf
from autotune.study.grid import Grid
from autotune.study.shown import FAILURE, ROW, Shown, distribution, running, shown, template

THROUGHPUT = "output throughput per device (tok/s)"
P99_TTFT = "P99 TTFT (ms)"
_DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
DATABASE_ERROR: type[Exception] = rdb.sqlalchemy_exc.SQLAlchemyError  # type: ignore[attr-defined]
_STORAGE_ERRORS = (
    StorageInternalError,
    UpdateFinishedTrialError,
    DuplicatedStudyError,
    KeyError,  # what Optuna's storages raise for a study or trial that was deleted
    DATABASE_ERROR,
)

Storage = TypeVar("Storage", bound=RDBStorage)


@dataclass(frozen=True, slots=True)
class Description:
    """What a study says about itself."""

    attributes: dict[str, str]
    note: str  # Markdown


class PersistedStudy:
    """One job's study in the shared database. Our rows are the truth; `sync` brings the study into line with them.

    Every method raises StoreError when the storage fails or the study was changed by others; what it has written by
    then may be incomplete, and `sync` completes it.
    """

    def __init__(self, storage: RDBStorage, name: str, sla: Sla, grid: Grid, shelf: Shelf | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage
        self._name = name
        self._sla = sla
        self._grid = grid
        self._shelf = shelf  # None: trials have no artifacts
        self._description: Description | None = None
        self._is_described = False
        self._ids: dict[int, list[int]] | None = None  # row -> Optuna's ids of its trials; None: to be read
        self._count = 0  # trials in the study, those of others included; meaningless while `_ids` is None
        with self._storage_errors():
            self._study = self._opened()

    @property
    def name(self) -> str:
        """The study's name, as the dashboard lists it."""
        return self._name

    def describe(self, attributes: Mapping[str, str], note: str) -> None:
        """Say what the study is about: user attributes, and a note in Markdown."""
        self._description, self._is_described = Description(dict(attributes), note), False
        with self._storage_errors():
            self._write_description(self._description)

    def sync(self, trials: Sequence[Trial]) -> None:
        """Make the study equal to our rows, whatever it holds.

        Missing trials are added, open ones told, those that belong to no row failed. A study that was deleted, or
        that holds numbers which are not ours and cannot be taken back, is made anew.
        """
        wanted = self._wanted(trials)
        with self._storage_errors():
            self._study = self._opened()
            theirs = self._theirs()
            pairs = _pairs(wanted, theirs)
            if self._is_spoiled(theirs, pairs):
                self._make_anew()
                theirs, pairs = [], {}
            self._ids, self._count = {number: [frozen._trial_id] for number, frozen in pairs.items()}, len(theirs)
            self._fail_open_strangers(theirs, pairs, wanted)
            notes = self._storage.get_study_system_attrs(self._study._study_id)
            for number, what in wanted.items():
                self._bring(what, pairs.get(number))
                self._complete_note(what, pairs.get(number), notes)
        for what in wanted.values():
            self._keep_files(what.row)

    def started(self, trial: Trial) -> None:
        """Show a running trial with its real knob values; one that is shown already is left as it is."""
        self._show(running(trial, self._grid))

    def finished(self, trial: Trial) -> None:
        """Tell a trial's outcome, once; telling it again changes nothing."""
        if trial.result is not None:
            self._show(self._as_shown(trial))
            self._keep_files(trial)

    def differences(self, trials: Sequence[Trial]) -> list[str]:
        """What in the study is not as our rows say, in words; trials without values that belong to no row are none."""
        wanted = self._wanted(trials)
        with self._storage_errors():
            try:
                theirs = self._theirs()
                notes = self._storage.get_study_system_attrs(self._storage.get_study_id_from_name(self._name))
            except KeyError:
                return [f"the study {self._name!r} is missing"]
        pairs = _pairs(wanted, theirs)
        for frozen in _strangers(theirs, pairs):
            if _row(frozen) in wanted and not _is_without_values(frozen):
                pairs.setdefault(_row(frozen), frozen)  # not as its row says, but meant to be it
        missing = [f"row {number} is missing" for number in wanted if number not in pairs]
        wrong = [
            f"trial {frozen.number} of row {number} differs in {part}"
            for number, frozen in pairs.items()
            for part in _unlike(wanted[number], frozen, notes)
        ]
        strangers = [frozen for frozen in _strangers(theirs, pairs) if not _is_without_values(frozen)]
        extra = [f"trial {frozen.number} ({frozen.state.name}) is of no row" for frozen in strangers]
        return missing + wrong + extra

    def _wanted(self, trials: Sequence[Trial]) -> dict[int, Shown]:
        searched = sorted((trial for trial in trials if trial.is_searched), key=lambda t: t.number)
        return {trial.number: self._as_shown(trial) for trial in searched}

    def _as_shown(self, trial: Trial) -> Shown:
        what = shown(trial, self._grid, self._sla)
        return replace(what, artifacts=self._shelf.named(trial)) if self._shelf else what

    def _keep_files(self, trial: Trial) -> None:
        """The files come after what the study says, so that a full disk hides no figure."""
        try:
            if self._shelf is not None:
                self._shelf.keep(trial)
        except OSError as exc:
            raise StoreError(f"the artifacts of row {trial.number} of {self._name!r} cannot be kept: {exc}") from exc

    def _opened(self) -> optuna.Study:
        """The study as it is in the storage now, made when it is missing; nothing of it is remembered."""
        study = optuna.create_study(
            study_name=self._name, storage=self._storage, directions=_DIRECTIONS, load_if_exists=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the version is pinned below 6
            study.set_metric_names([THROUGHPUT, P99_TTFT])
        if self._description is not None and not (self._is_described and study.user_attrs):
            self._study = study
            self._write_description(self._description)
        return study

    def _write_description(self, description: Description) -> None:
        for key, value in description.attributes.items():
            self._study.set_user_attr(key, value)
        save_note(self._study, description.note)
        self._is_described = True

    def _make_anew(self) -> None:
        """Optuna cannot take back a trial that is complete: only a new study is without it."""
        if self._description is None:
            self._description = Description(self._study.user_attrs, get_note(self._study))
        self._storage.delete_study(self._study._study_id)
        self._study = self._opened()

    def _check_unchanged(self) -> None:
        """A deleted study's id may be another study's by now, and then its trials are not ours."""
        if self._storage.get_study_id_from_name(self._name) != self._study._study_id:
            raise StoreError(f"the study {self._name!r} was deleted and made again by others")

    def _theirs(self) -> list[FrozenTrial]:
        study_id = self._storage.get_study_id_from_name(self._name)
        return self._storage.get_all_trials(study_id, deepcopy=False)

    def _known(self) -> dict[int, list[int]]:
        """The trials of each row; the whole study is read only once."""
        if self._ids is None:
            theirs = self._theirs()
            self._ids, self._count = {}, len(theirs)
            for frozen in theirs:
                self._ids.setdefault(_row(frozen), []).append(frozen._trial_id)
        return self._ids

    def _show(self, what: Shown) -> None:
        number = what.row.number
        with self._storage_errors():
            self._check_unchanged()
            candidates = [self._storage.get_trial(trial_id) for trial_id in self._known().get(number, ())]
            frozen = _pairs({number: what}, candidates).get(number)
            if frozen is None and any(candidate.state == TrialState.COMPLETE for candidate in candidates):
                raise StoreError(f"the study {self._name!r} shows values of row {number} that are not ours")
            self._bring(what, frozen)

    def _is_spoiled(self, theirs: Sequence[FrozenTrial], pairs: Mapping[int, FrozenTrial]) -> bool:
        """Whether the study shows numbers that are not ours, or is of other objectives or parameters than ours."""
        strangers = any(frozen.state == TrialState.COMPLETE for frozen in _strangers(theirs, pairs))
        ours = {knob.name: distribution(knob) for knob in self._grid.knobs}
        others = any(ours.get(name, kind) != kind for frozen in theirs for name, kind in frozen.distributions.items())
        return strangers or others or self._storage.get_study_directions(self._study._study_id) != _DIRECTIONS

    def _fail_open_strangers(
        self, theirs: Sequence[FrozenTrial], pairs: Mapping[int, FrozenTrial], wanted: Mapping[int, Shown]
    ) -> None:
        for frozen in _strangers(theirs, pairs):
            if frozen.state.is_finished():
                continue
            advice = "Another trial shows it." if _row(frozen) in wanted else "The tuner was stopped during this trial."
            self._storage.set_trial_user_attr(frozen._trial_id, FAILURE, "interrupted")
            self._storage.set_trial_user_attr(frozen._trial_id, "advice", advice)
            self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def _bring(self, what: Shown, frozen: FrozenTrial | None) -> None:
        """Make a trial as it should be. Its state comes last, so one that is finished lacks at most its note."""
        if frozen is None:
            trial_id = self._add(what)
            if what.note:
                self._write_first_note(trial_id, what.note)
        elif frozen.state != what.state:
            self._tell(frozen._trial_id, what)

    def _add(self, what: Shown) -> int:
        """Add a trial; Optuna's id. Optuna adds it again by itself when the answer to the first time was lost."""
        ids = self._known().setdefault(what.row.number, [])
        ids.append(self._storage.create_new_trial(self._study._study_id, template(what, self._grid)))
        number = self._storage.get_trial(ids[-1]).number
        if number != self._count:
            raise StoreError(f"the study {self._name!r} has trials that were not there before trial {number}")
        self._count += 1
        return ids[-1]

    def _tell(self, trial_id: int, what: Shown) -> None:
        for key, value in what.attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        for key, limit in what.system_attributes.items():
            self._storage.set_trial_system_attr(trial_id, key, limit)
        self._write_note(trial_id, what.note)
        self._storage.set_trial_state_values(trial_id, what.state, what.values)

    def _complete_note(self, what: Shown, frozen: FrozenTrial | None, notes: Mapping[str, Any]) -> None:
        """The note of a trial that was finished before: one that was added finished may have been left without."""
        if frozen is not None and frozen.state == what.state and not _has_note(what, frozen, notes):
            self._write_note(frozen._trial_id, what.note)

    def _write_first_note(self, trial_id: int, text: str) -> None:
        """The note of a new trial, without reading those of all others, of which there may be hundreds."""
        attributes = {_note.note_ver_key(trial_id): 1, **_note.split_body(text, trial_id)}
        for key, value in attributes.items():
            self._storage.set_study_system_attr(self._study._study_id, key, value)

    def _write_note(self, trial_id: int, text: str) -> None:
        study_id = self._study._study_id
        version = self._storage.get_study_system_attrs(study_id).get(_note.note_ver_key(trial_id), 0)
        _note.save_note_with_version(self._storage, study_id, trial_id, version + 1, text)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except _STORAGE_ERRORS as exc:
            self._ids = None  # nobody knows what was written
            cause = exc.__cause__ or exc
            raise StoreError(f"the study {self._name!r} cannot be written or read: {_first_line(cause)}") from exc
        except StoreError:
            self._ids = None
            raise


def open_storage(url: str, kind: type[Storage] = RDBStorage) -> Storage:  # type: ignore[assignment]
    """Optuna's tables in the database at `url`.

    Raises StoreError when the database cannot be reached, or another Optuna version owns the tables.
    """
    settings = {} if url.startswith("sqlite") else {"pool_pre_ping": True}  # a server may have cut idle connections
    try:
        return kind(url, engine_kwargs=settings)
    except RuntimeError as exc:
        raise StoreError(
            f"Optuna's tables in the database are of another version: {exc} Run `optuna storage upgrade --storage URL`."
        ) from exc
    except (StorageInternalError, DATABASE_ERROR) as exc:
        raise StoreError(f"Optuna's tables in the database cannot be opened: {_first_line(exc)}") from exc


def _pairs(wanted: Mapping[int, Shown], theirs: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trial of each row: one that is as it should be, else one that is open and can be told so."""
    by_row: dict[int, list[FrozenTrial]] = {number: [] for number in wanted}
    for frozen in theirs:
        by_row.get(_row(frozen), []).append(frozen)
    pairs = {}
    for number, candidates in by_row.items():
        fitting = [frozen for frozen in candidates if wanted[number].can_become(frozen)]
        if fitting:
            pairs[number] = min(fitting, key=lambda frozen: len(wanted[number].unlike(frozen)))
    return pairs


def _unlike(what: Shown, frozen: FrozenTrial, notes: Mapping[str, Any]) -> list[str]:
    parts = what.unlike(frozen)
    return parts if parts or _has_note(what, frozen, notes) else ["note"]


def _has_note(what: Shown, frozen: FrozenTrial, notes: Mapping[str, Any]) -> bool:
    return _note.get_note_from_system_attrs(notes, frozen._trial_id)["body"] == what.note  # type: ignore[no-any-return]


def _row(frozen: FrozenTrial) -> int:
    """The number of our row; -1 for a trial that others have added."""
    number = frozen.user_attrs.get(ROW)
    return number if isinstance(number, int) else -1


def _strangers(theirs: Sequence[FrozenTrial], pairs: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
    ours = {frozen._trial_id for frozen in pairs.values()}
    return [frozen for frozen in theirs if frozen._trial_id not in ours]


def _is_without_values(frozen: FrozenTrial) -> bool:
    return frozen.state in {TrialState.FAIL, TrialState.PRUNED}


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0]
