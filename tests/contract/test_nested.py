"""Objects and lists in a job's input: read, checked, named and described like fields of the first level.

The declaration is made here: nothing that reads it knows `Request`.
"""

from typing import Annotated, Any, ClassVar

import pytest
from builder.reference import field_table
from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError

from sdworker.request import InputError
from sdworker.request.marks import Also, EmptyIsNull, Int, InWords, Many, Part, Private, whole
from sdworker.request.names import Named, entries
from sdworker.request.problems import check_fields, joined
from sdworker.request.schema import schema_of


class Window(Part):
    start: float = Field(0.0, ge=0, le=1, description="From here.")
    end: float = Field(1.0, ge=0, le=1, description="To here.")


class AddOn(Part):
    name: str = Field(min_length=1, max_length=100, description="Which.")
    scale: Annotated[float, Also("weight", "strength")] = Field(1.0, ge=-2, le=2, description="How strongly.")
    picture: Annotated[str | None, EmptyIsNull(), InWords("a URL"), Private()] = Field(
        None, min_length=1, description="What from."
    )
    window: Annotated[Window | None, Also("interval")] = Field(None, description="When.")


class Job(Part):
    STAND_INS: ClassVar[dict[str, Any]] = {"prompt": "-"}

    prompt: str = Field(min_length=1, description="What.")
    steps: Int = Field(25, ge=1, le=500, description="Steps.")
    addons: Annotated[Many[AddOn], Also("loras")] = Field((), max_length=3, description="Add-ons.")
    hires: AddOn | None = Field(None, description="Larger.")


def read(given: dict[str, Any]) -> Job:
    found, unknown = entries(Job, given)
    named = Named.read(Job, found)
    job, _, problems = check_fields(Job, named, {}, Job.STAND_INS)
    if wrong := [*unknown, *named.problems, *problems]:
        raise InputError(joined(wrong))
    return job


def refusal(**given: Any) -> str:
    with pytest.raises(InputError) as error:
        read({"prompt": "x", **given})
    return str(error.value)


SCHEMA = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema_of(Job)}
VALIDATOR = Draft202012Validator(SCHEMA)


class TestReading:
    def test_objects_become_what_is_declared(self) -> None:
        job = read(
            {"prompt": "x", "addons": [{"name": "a", "scale": 1}, {"name": "b"}], "hires": {"name": "c"}}
        )
        assert job.addons == (AddOn(name="a", scale=1.0), AddOn(name="b"))
        assert job.hires == AddOn(name="c")

    def test_aliases_hold_inside_objects_and_for_them(self) -> None:
        job = read({"prompt": "x", "loras": [{"name": "a", "weight": 0.5, "interval": {"start": 0.25}}]})
        assert job.addons == (AddOn(name="a", scale=0.5, window=Window(start=0.25)),)

    def test_null_means_the_default_inside_objects_too(self) -> None:
        nothing = {"name": "a", "scale": None, "picture": None, "window": None}
        assert read({"prompt": "x", "hires": nothing}).hires == AddOn(name="a")
        assert read({"prompt": "x", "addons": None, "hires": None}) == Job(prompt="x")

    def test_an_empty_text_means_null_where_it_is_declared(self) -> None:
        assert read({"prompt": "x", "hires": {"name": "a", "picture": ""}}).hires == AddOn(name="a")

    def test_whole_floats_are_whole_numbers(self) -> None:
        assert whole(25.0) == read({"prompt": "x", "steps": 25.0}).steps

    def test_what_was_read_cannot_be_changed(self) -> None:
        job = read({"prompt": "x", "addons": [{"name": "a"}]})
        with pytest.raises(ValidationError):
            job.addons[0].scale = 2  # type: ignore[misc]

    def test_what_was_given_is_left_as_it_was(self) -> None:
        given = {"prompt": "x", "loras": [{"name": "a", "weight": None}]}
        read(given)
        assert given == {"prompt": "x", "loras": [{"name": "a", "weight": None}]}


class TestErrors:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"addons": [{"name": "a"}, {"name": "b", "scale": 5}]},
                "addons[1].scale: 5 is not allowed; allowed: a number from -2 to 2",
            ),
            (
                {"loras": [{"name": "a"}, {"name": "b", "weight": 5}]},
                "loras[1].weight (addons[1].scale): 5 is not allowed; allowed: a number from -2 to 2",
            ),
            ({"addons": [{}]}, "addons[0].name: is missing; allowed: text of 1 to 100 characters"),
            (
                {"hires": {"name": "a", "window": {"start": "0"}}},
                "hires.window.start: '0' is not allowed; allowed, without quotes: a number from 0 to 1",
            ),
            (
                {"hires": {"name": "a", "interval": {"end": True}}},
                "hires.interval.end (hires.window.end): true is not allowed; allowed: a number from 0 to 1",
            ),
            ({"addons": "a"}, "addons: 'a' is not allowed; allowed: a list of at most 3"),
            ({"addons": {"name": "a"}}, "addons: an object is not allowed; allowed: a list of at most 3"),
            ({"addons": ["a"]}, "addons[0]: 'a' is not allowed; allowed: an object with name"),
            ({"addons": [None]}, "addons[0]: null is not allowed; allowed: an object with name"),
            ({"hires": []}, "hires: a list is not allowed; allowed: an object with name"),
            ({"hires": 5}, "hires: 5 is not allowed; allowed: an object with name"),
            (
                {"addons": [{"name": "a"}] * 4},
                "addons: a list of 4 is not allowed; allowed: a list of at most 3",
            ),
            (
                {"addons": [{"name": "a", "scal": 1}]},
                "'scal' in addons[0]: there is no such field; the nearest is scale",
            ),
            (
                {"hires": {"name": "a", "window": {"begin": 0}}},
                "'begin' in hires.window: there is no such field",
            ),
            (
                {"hires": {"name": "a", "scale": 1, "weight": 2}},
                "hires.scale: is given twice, as scale and as weight, with different values",
            ),
        ],
    )
    def test_an_error_names_the_full_path_and_what_is_allowed(
        self, given: dict[str, Any], message: str
    ) -> None:
        assert refusal(**given) == message

    def test_all_problems_at_all_depths_are_told_at_once(self) -> None:
        message = refusal(
            steps=0, addons=[{"scale": 3}, {"name": "", "x": 1}], hires={"name": "a", "scale": "1"}
        )
        for start in (
            "'x' in addons[1]",
            "steps: 0",
            "addons[0].name",
            "addons[0].scale",
            "addons[1].name",
            "hires.scale",
        ):
            assert start in message

    def test_what_is_private_is_never_repeated(self) -> None:
        assert "secret" not in refusal(hires={"name": "a", "picture": "secret \ud800"})
        assert "secret" not in refusal(addons=[{"name": "a", "picture": ["secret"]}])

    @pytest.mark.parametrize(
        "junk",
        [[{}] * 100_000, [{"name": "a", **{f"k{i}": i for i in range(100_000)}}], [[[[{}]]]] * 50_000],
        ids=["many objects", "many keys", "many lists"],
    )
    def test_junk_gives_a_short_error(self, junk: list[Any]) -> None:
        assert len(refusal(addons=junk)) < 2000

    def test_twenty_wrong_objects_give_a_short_error(self) -> None:
        class Crowd(Part):
            addons: Many[AddOn] = ()

        found, _ = entries(Crowd, {"addons": [{"name": "n" * 50, "scale": "s" * 50, "u" * 50: 1}] * 900})
        named = Named.read(Crowd, found)
        _, wrong, problems = check_fields(Crowd, named, {}, {})
        assert wrong == {"addons"}
        assert len(joined([*named.problems, *problems])) < 2000


class TestSchema:
    def test_it_is_one_and_takes_what_is_taken(self) -> None:
        Draft202012Validator.check_schema(SCHEMA)
        for given in (
            {"addons": [{"name": "a", "weight": 0.5, "interval": {"start": None}}], "hires": None},
            {"loras": [{"name": "a", "picture": "", "window": None}]},
            {"hires": {"name": "a"}, "steps": None},
        ):
            assert VALIDATOR.is_valid({"prompt": "x", **given}), given

    @pytest.mark.parametrize(
        "given",
        [
            {"addons": [{}]},
            {"addons": [{"name": "a", "scale": 5}]},
            {"addons": [{"name": "a", "x": 1}]},
            {"addons": [{"name": "a"}] * 4},
            {"addons": {"name": "a"}},
            {"hires": []},
            {"hires": {"name": "a", "interval": {"end": 2}}},
        ],
    )
    def test_it_refuses_what_is_refused(self, given: dict[str, Any]) -> None:
        assert not VALIDATOR.is_valid({"prompt": "x", **given})
        assert refusal(**given)

    def test_the_table_has_the_fields_inside_objects(self) -> None:
        table = field_table(Job, SCHEMA)
        assert "| `addons` | `loras` | array of objects |" in table
        assert "| `addons[].scale` | `weight`, `strength` | number | `1` | a number from -2 to 2 |" in table
        assert "| `hires.window.start` |  | number | `0` | a number from 0 to 1 | From here. |" in table


class OneMore(Job):
    """A new field is one line."""

    tiles: Annotated[Int, Also("tile_count")] = Field(4, ge=1, le=9, description="How many tiles.")


def test_a_new_field_is_one_line_and_has_names_limits_words_schema_and_row() -> None:
    found, _ = entries(OneMore, {"prompt": "x", "tile_count": 12})
    named = Named.read(OneMore, found)
    _, _, problems = check_fields(OneMore, named, {}, OneMore.STAND_INS)
    assert problems == ["tile_count (tiles): 12 is not allowed; allowed: a whole number from 1 to 9"]
    schema = schema_of(OneMore)
    assert schema["properties"]["tiles"]["aliases"] == ["tile_count"]
    assert (
        "| `tiles` | `tile_count` | integer | `4` | a whole number from 1 to 9 | How many tiles. |"
        in field_table(OneMore, schema)
    )
