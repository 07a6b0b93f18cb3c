"""Loading: every problem at its line, in the user's words, and nothing a file can do beyond data."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, model_validator

from autotune.errors import InputError, NotFound
from autotune.loading import bundled, find, load
from autotune.records import Record
from autotune.spec import JobSpec


class Cat(Record):
    kind: Literal["cat"]
    lives: PositiveInt


class Dog(Record):
    kind: Literal["dog"]
    tricks: tuple[str, ...] = ()


class Box(Record):
    """Wide and heavy boxes are refused in one go."""

    width: float = 1
    weight: float = 1

    @model_validator(mode="after")
    def _is_handy(self):
        problems = [f"{name}: too much" for name in ("width", "weight") if getattr(self, name) > 10]
        if problems:
            raise ValueError("\n".join(problems))
        return self


class House(Record):
    name: str
    rooms: PositiveInt | Literal["all"] = 3
    pets: dict[str, Annotated[Cat | Dog, Field(discriminator="kind")]] = {}
    levels: tuple[PositiveInt, ...] = ()
    box: Box = Box()
    colour: Literal["red", "green"] = "red"


class Shed(Record):
    width: PositiveInt
    depth: int = Field(default_factory=lambda fields: fields["width"])


def problems(text, *overrides):
    with pytest.raises(InputError) as caught:
        load(text, House, source="house.yaml", overrides=overrides)
    return caught.value.problems


def test_a_valid_file_becomes_its_record():
    text = "name: mill\nrooms: all\npets:\n  tom: {kind: cat, lives: 9}\nlevels: [1, 2]\n"
    assert load(text, House, source="house.yaml") == House(
        name="mill", rooms="all", pets={"tom": Cat(kind="cat", lives=9)}, levels=(1, 2)
    )


def test_all_problems_of_a_file_are_named_at_once_in_its_order():
    assert problems("roms: 2\nbox:\n  width: wide\ncolour: gren\nlevels: [1, 0]\n") == (
        "house.yaml:1: name: missing key",
        "house.yaml:1: roms: unknown key; did you mean 'rooms'?",
        "house.yaml:3: box.width: must be a number, not 'wide'",
        "house.yaml:4: colour: must be 'red' or 'green', not 'gren'; did you mean 'green'?",
        "house.yaml:5: levels.1: must be above 0, not 0",
    )


def test_a_default_that_waits_for_a_wrong_key_is_no_problem_of_its_own():
    with pytest.raises(InputError) as caught:
        load("width: -1\n", Shed, source="shed.yaml")
    assert caught.value.problems == ("shed.yaml:1: width: must be above 0, not -1",)


def test_a_key_like_no_other_gets_the_list_of_known_keys():
    assert problems("name: a\nbox: {zzz: 1}\n") == ("house.yaml:2: box.zzz: unknown key; known are weight, width",)


def test_a_missing_key_is_reported_at_the_line_of_its_parent():
    assert problems("name: a\npets:\n  tom:\n    kind: cat\n") == ("house.yaml:3: pets.tom.lives: missing key",)


def test_alternatives_are_one_message():
    assert problems("name: a\nrooms: none\n") == ("house.yaml:2: rooms: must be a whole number or 'all', not 'none'",)


def test_inside_a_tagged_record_the_path_has_no_tag_and_the_suggestion_fits_the_kind():
    assert problems("name: a\npets:\n  rex:\n    kind: dog\n    triks: [sit]\n") == (
        "house.yaml:5: pets.rex.triks: unknown key; did you mean 'tricks'?",
    )


def test_an_unknown_tag_names_the_known_ones():
    assert problems("name: a\npets:\n  rex: {kind: dgo}\n") == (
        "house.yaml:3: pets.rex.kind: must be one of 'cat', 'dog', not 'dgo'; did you mean 'dog'?",
    )


def test_a_missing_tag_names_the_known_ones():
    assert problems("name: a\npets:\n  rex: {tricks: []}\n") == (
        "house.yaml:3: pets.rex.kind: missing key; one of 'cat', 'dog'",
    )


def test_a_validator_may_name_several_places():
    assert problems("name: a\nbox:\n  width: 11\n  weight: 12\n") == (
        "house.yaml:3: box.width: too much",
        "house.yaml:4: box.weight: too much",
    )


def test_a_key_written_twice_is_refused_with_both_lines():
    assert problems("name: a\nrooms: 2\nname: b\n") == ("house.yaml:3: name: written twice, first on line 1",)


def test_text_that_is_no_yaml_is_reported_at_its_line():
    assert problems("name: a\nbox: [1\nrooms: 2\n") == (
        "house.yaml:3: not valid YAML: while parsing a flow sequence: expected ',' or ']', but got ':'",
    )


def test_a_document_that_is_no_mapping_is_refused():
    assert problems("- name\n") == ('house.yaml:1: must be a mapping of keys, not ["name"]',)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: !!python/object/apply:os.system [ls]", "tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("name: &a [*a]", "too many or too deeply nested values"),
        ("name: " + "[" * 200, "nested too deeply"),
        ("a: &a [x]\nb: [" + "*a, " * 20 + "]", "more than 16 aliases"),
        ("name: " + "x" * (1 << 20), "larger than 1 MiB"),
        ("name: \x07", "not YAML"),
        ("name: 2026-13-45", "month must be in 1..12"),
        ("{[1]: 2}", "a key must be plain text"),
    ],
)
def test_hostile_or_broken_text_is_refused_in_one_message(text, told):
    (problem,) = problems(text)
    assert told in problem


def test_aliases_that_multiply_are_stopped_by_the_number_of_values():
    layers = ["l0: &l0 [" + "x, " * 200 + "]"]
    layers += [f"l{n}: &l{n} [" + f"*l{n - 1}, " * 5 + "]" for n in (1, 2, 3)]  # 200 x 5 x 5 x 5 values
    (problem,) = problems("\n".join(layers))
    assert problem == "house.yaml:1: not valid YAML: too many or too deeply nested values"


def test_overrides_win_over_the_file_and_reach_into_lists_and_missing_mappings():
    house = load(
        "name: a\nlevels: [1, 2]\n", House, source="house.yaml", overrides=["levels.0=4", "box.width=2.5", "name=b"]
    )
    assert (house.levels, house.box.width, house.name) == ((4, 2), 2.5, "b")


def test_problems_of_an_override_name_the_override():
    assert set(problems("name: a\nrooms: 2\n", "rooms=0", "bxo.width=1", "box.weigth=1")) == {
        "--set bxo.width: bxo: unknown key; did you mean 'box'?",
        "--set rooms: must be above 0 or 'all', not 0",
        "--set box.weigth: unknown key; did you mean 'weight'?",
    }


def test_an_override_that_does_not_fit_is_explained():
    assert problems("name: a\nlevels: [1]\n", "levels.3=1", "name.x=1", "rooms", "box=[1") == (
        "--set levels.3: '3' is no position of a list with 1 entries, from 0",
        "--set name.x: 'x' cannot be set inside 'a', which is a single value",
        "--set rooms: write dotted.path=value, such as sla.p99_ttft_ms=200",
        "--set box: not valid YAML: while parsing a flow sequence: expected ',' or ']', but got '<stream end>'",
    )


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=80), st.lists(st.text(max_size=20), max_size=3))
def test_no_text_and_no_override_ends_in_anything_but_a_record_or_an_input_error(text, overrides):
    try:
        told = load(text, House, source="f", overrides=overrides).name
    except InputError as exc:
        told = str(exc)
    assert "pydantic" not in told


def test_the_bundled_spaces_are_found_by_name():
    assert bundled("search_spaces") == (
        "ascend-dense",
        "ascend-low-latency",
        "ascend-moe",
        "ascend-throughput",
        "cpu",
        "cuda",
        "demo",
        "seed-guide",
        "simulated",
    )
    assert find("cpu", "search_spaces", relative_to=Path("/nowhere")).read_text().startswith("#")


def test_a_path_is_relative_to_the_folder_of_the_job(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    assert find("mine.yaml", "workloads", relative_to=tmp_path) == tmp_path / "mine.yaml"


def test_an_unknown_reference_says_what_was_meant_and_what_there_is(tmp_path):
    with pytest.raises(NotFound) as caught:
        find("ascend-dens", "search_spaces", relative_to=tmp_path)
    assert str(caught.value) == (
        "no search space 'ascend-dens'; did you mean 'ascend-dense'? "
        f"Bundled are {', '.join(bundled('search_spaces'))}; no file is at {tmp_path / 'ascend-dens'}"
    )


def test_the_dot_of_a_percentile_is_part_of_its_name_in_an_override():
    job = (
        "{version: 1, name: j, model: m, devices: {resource: CPU}, search_space: s, workload: w, sla: {p99_ttft_ms: 9}}"
    )
    loaded = load(job, JobSpec, source="job.yaml", overrides=["sla.p99.9_ttft_ms=200"])
    assert [line.name for line in loaded.sla.latency_limits] == ["p99_ttft_ms", "p99.9_ttft_ms"]
