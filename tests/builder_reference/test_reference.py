"""The tables of the documentation say what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from builder.reference import ROOT, TABLES, MarkerError, main, rewrite

from sdworker.request import Request, aliases_of
from sdworker.samplers import SAMPLERS, find_sampler
from sdworker.settings import Settings

DOCUMENTS = [
    file
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if file.is_file() and ":begin -->" in file.read_text("utf-8")
]
MARKED = "# Title\n\n<!-- settings:begin -->\nold\n<!-- settings:end -->\n\ntail\n"


def first_cells(table: str) -> list[str]:
    return [line.split("|")[1].strip(" `") for line in table.splitlines()[2:]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_is_out_of_date(document: Path) -> None:
    text = document.read_text("utf-8")
    assert rewrite(text) == text, "run: python -m builder.reference"


def test_every_field_has_its_row_with_its_aliases() -> None:
    table = TABLES["parameters"]()
    assert [cell for cell in first_cells(table) if "." not in cell] == list(Request.model_fields)
    for field in Request.model_fields:
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{field}` |"))
        assert all(f"`{alias}`" in row for alias in aliases_of(field))


def test_the_fields_at_a_glance_are_those_of_the_whole_table_that_are_for_new_jobs() -> None:
    whole = [cell for cell in first_cells(TABLES["parameters"]()) if "." not in cell]
    glance = first_cells(TABLES["fields"]())
    assert glance == [field for field in whole if field in glance]
    assert set(whole) - set(glance) == {"lora", "lora_scale"}


def test_every_variable_has_its_row_and_no_secret() -> None:
    table = TABLES["settings"]()
    assert first_cells(table) == [name.upper() for name in Settings.model_fields]
    assert "**" not in table


def test_every_sampler_has_its_row_and_every_name_in_it_is_its_own() -> None:
    table = TABLES["samplers"]()
    assert first_cells(table) == list(SAMPLERS)
    for line in table.splitlines()[2:]:
        name, aliases = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:3])
        assert {find_sampler(alias).name for alias in aliases} <= set(name)


def test_the_tables_are_of_a_deployment_with_nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [table() for table in TABLES.values()]
    monkeypatch.setenv("MAX_OUTPUTS", "3")
    monkeypatch.setenv("DEFAULT_STEPS", "7")
    assert [table() for table in TABLES.values()] == plain


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_table_has_as_many_cells_in_every_row(table: object) -> None:
    assert callable(table)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table().splitlines()}) == 1


def test_only_what_is_between_markers_changes() -> None:
    text = rewrite(MARKED)
    assert text == MARKED.replace("old\n", TABLES["settings"]())
    assert rewrite(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "<!-- nonsense:begin -->\n<!-- nonsense:end -->",
        "<!-- settings:begin -->\n",
        "<!-- settings:end -->",
        "<!-- settings:begin -->\n<!-- samplers:end -->",
        "<!-- settings:begin --> <!-- settings:end -->",
    ],
)
def test_markers_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(MarkerError):
        rewrite(text)


class TestCommand:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "docs").mkdir()
        (tmp_path / "README.md").write_text("no table\n")
        (tmp_path / "docs" / "tuning.md").write_text(MARKED)
        return tmp_path

    def test_check_changes_nothing_and_exits_with_1(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--check"], root=root) == 1
        assert (root / "docs" / "tuning.md").read_text() == MARKED
        assert "docs/tuning.md is out of date" in capsys.readouterr().out

    def test_without_it_the_files_are_rewritten_once(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([], root=root) == 0
        assert "docs/tuning.md rewritten" in capsys.readouterr().out
        assert main(["--check"], root=root) == 0
        assert main([], root=root) == 0
        assert capsys.readouterr().out == ""

    def test_markers_that_make_no_sense_exit_with_2(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (root / "README.md").write_text("<!-- samplers:begin -->\n")
        assert main([], root=root) == 2
        assert "README.md: the marker samplers:begin" in capsys.readouterr().err

    def test_it_runs_as_a_module_from_the_root(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "builder.reference", "--check"], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
