"""`sdworker generate`: a job from the command line, on the embedded model."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image

from sdworker import __version__
from sdworker.cli import main
from sdworker.settings import Settings

SMALL = ["--set", "width=64", "--set", "height=64", "--set", "steps=2"]
COMMAND = [sys.executable, "-m", "sdworker.cli"]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path) -> None:
    """An empty folder to work in, and no configuration but the embedded model."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MODEL_DIR", str(model))
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    # A relative PYTHONPATH means something else from here.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(part).absolute()) for part in sys.path if part))


def job_file(content: object, name: str = "job.json") -> Path:
    file = Path(name)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


class TestDrawing:
    def test_a_prompt_is_drawn_and_its_images_told_with_their_seeds(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", "a red apple", *SMALL, "--set", "seed=7", "--set", "num_outputs=2"]) == 0
        assert capsys.readouterr().out == "out/a-red-apple-7.png  seed 7\nout/a-red-apple-8.png  seed 8\n"
        for i in range(2):
            with Image.open(f"out/a-red-apple-{7 + i}.png") as image:
                assert image.size == (64, 64)
                assert f"Seed: {7 + i}" in str(image.info["parameters"])

    def test_it_is_shown_on_its_way_in_a_file_where_the_terminal_shows_no_pictures(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", "x", *SMALL, "--set", "seed=1", "--previews"]) == 0
        with Image.open("out/preview.jpg") as image:
            assert image.format == "JPEG"
        assert "previews: out/preview.jpg" in capsys.readouterr().err

    @pytest.mark.parametrize(("format", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
    def test_a_file_is_named_by_its_format(self, format: str, suffix: str) -> None:
        assert (
            main(
                [
                    "generate",
                    "x",
                    *SMALL,
                    "--set",
                    f"output_format={format}",
                    "--set",
                    "seed=1",
                    "--out",
                    "a/b",
                ]
            )
            == 0
        )
        with Image.open(f"a/b/x-1.{suffix}") as image:
            assert image.format == format.upper()

    def test_the_job_is_read_from_test_input_json_unless_told_otherwise(self) -> None:
        job = {"input": {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 3}}
        job_file(job, "test_input.json")
        assert main(["generate", "--out", "default"]) == 0
        job_file({"id": "mine", **job}, "other.json")
        assert main(["generate", "--job", "other.json", "--set", "seed=3", "--out", "named"]) == 0
        assert Path("default/x-3.png").read_bytes() == Path("named/x-3.png").read_bytes()

    def test_a_prompt_beside_a_job_is_that_jobs_prompt(self, capsys: pytest.CaptureFixture[str]) -> None:
        job_file({"input": {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 3}})
        assert main(["generate", "a pear", "--job", "job.json"]) == 0
        assert capsys.readouterr().out == "out/a-pear-3.png  seed 3\n"

    def test_a_picture_is_sent_by_its_file(self) -> None:
        Image.new("RGB", (64, 64), "red").save("red.png")
        Image.new("L", (64, 64), 0).save("black.png")
        options = ["--init-image", "red.png", "--set", "mask=@black.png", "--set", "seed=1"]
        assert main(["generate", "x", *SMALL, *options]) == 0
        with Image.open("out/x-1.png") as image:
            red, green, blue = image.getpixel((32, 32))  # type: ignore[misc]
            assert (red > 200, green < 60, blue < 60) == (True, True, True), "all of it was kept"

    def test_it_runs_as_a_process(self) -> None:
        done = subprocess.run(
            [*COMMAND, "generate", "a red apple", *SMALL], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0
        assert "2/2" in done.stderr, "the progress bar"
        told = re.fullmatch(r"(out/a-red-apple-(\d+)\.png)  seed (\d+)\n", done.stdout)
        assert told
        assert told[2] == told[3]
        assert Path(told[1]).is_file()


class TestRefusal:
    def test_every_problem_of_the_input_is_told_and_nothing_is_written(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", "x", "--set", "stepz=1", "--set", "width=100"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("sdworker: 'stepz': there is no such field; the nearest is steps")
        assert "; width: 100 is" in error
        assert not Path("out").exists()

    def test_a_value_is_json_where_it_can_be_and_text_else(self, capsys: pytest.CaptureFixture[str]) -> None:
        odd = [
            "seed=NaN",
            "num_outputs=[1]",
            "scheduler=none",
            "width=",
            "negative_prompt=a=b",
            "height=null",
        ]
        assert main(["generate", "x", *(part for one in odd for part in ("--set", one))]) == 1
        error = capsys.readouterr().err
        for part in ("seed: nan", "num_outputs: a list", "scheduler: 'none'", "width: ''"):
            assert part in error
        assert "negative_prompt" not in error
        assert "height" not in error

    def test_settings_that_make_no_sense(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MAX_OUTPUTS", "0")
        assert main(["generate", "x"]) == 1
        assert capsys.readouterr().err.startswith("sdworker: MAX_OUTPUTS: ")

    def test_a_model_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MODEL_DIR", "/nowhere")
        assert main(["generate", "x"]) == 1
        assert capsys.readouterr().err.startswith("sdworker: there is no model folder at /nowhere")

    def test_a_picture_that_cannot_be_had(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", "x", "--set", "init_image=nonsense!"]) == 1
        assert "init_image" in capsys.readouterr().err

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
    def test_images_that_cannot_be_saved(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("out").mkdir()
        Path("out/x-1.png").symlink_to("/dev/full")
        assert main(["generate", "x", *SMALL, "--set", "seed=1"]) == 1
        assert capsys.readouterr().err.endswith("sdworker: out takes no images: No space left on device\n")


class TestUsage:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "job.json cannot be read: No such file or directory"),
            ("", "job.json is not JSON: Expecting value"),
            ("{", "job.json is not JSON: Expecting property name"),
            ("[" * 100_000, "job.json is not JSON: "),
            ([], 'job.json should hold a job: {"input": {"prompt": …}}'),
            ({"prompt": "x"}, "job.json should hold a job"),
            ({"input": "x"}, "job.json should hold a job"),
            ({"input": None}, "job.json should hold a job"),
        ],
        ids=["missing", "empty", "broken", "deep", "list", "bare", "text", "null"],
    )
    def test_a_file_without_a_job(
        self, capsys: pytest.CaptureFixture[str], content: object, said: str
    ) -> None:
        if content is not None:
            job_file(content)
        assert main(["generate", "--job", "job.json"]) == 2
        assert capsys.readouterr().err.startswith(f"sdworker: {said}")

    def test_a_file_that_is_no_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("job.json").write_bytes(b"\xff\xfe\x00")
        assert main(["generate", "--job", "job.json"]) == 2
        assert capsys.readouterr().err.startswith("sdworker: job.json is not JSON: ")

    @pytest.mark.parametrize("assignment", ["seed", "=7", "="])
    def test_an_assignment_without_field_or_value(
        self, capsys: pytest.CaptureFixture[str], assignment: str
    ) -> None:
        assert main(["generate", "x", "--set", assignment]) == 2
        assert capsys.readouterr().err == f"sdworker: --set {assignment}: should be FIELD=VALUE\n"

    def test_a_file_in_the_folders_place_is_told_before_anything_is_drawn(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("out").write_text("")
        assert main(["generate", "x"]) == 2
        assert capsys.readouterr().err == "sdworker: --out out: is not a folder\n"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["x", "--job", "nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
            (["x", "--init-image", "nowhere.png"], "--init-image: nowhere.png cannot be read: No such file"),
            (["x", "--out", "/proc/nowhere"], "--out /proc/nowhere: nothing can be written there"),
        ],
    )
    def test_what_makes_no_sense_is_told_in_one_line_before_anything_is_drawn(
        self, capsys: pytest.CaptureFixture[str], options: list[str], said: str
    ) -> None:
        assert main(["generate", *options]) == 2
        stderr = capsys.readouterr().err
        assert stderr.startswith(f"sdworker: {said}")
        assert stderr.count("\n") == 1

    def test_an_empty_prompt_by_set_alone_is_told_as_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", "--set", "prompt="]) == 1
        assert capsys.readouterr().err.startswith("sdworker: prompt: ")

    @pytest.mark.parametrize("arguments", [[], ["paint"], ["generate", "--nonsense"]])
    def test_argparse_exits_with_2(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2

    def test_the_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(["--version"])
        assert exit_.value.code == 0
        assert capsys.readouterr().out == f"sdworker {__version__}\n"

    def test_help_loads_nothing_heavy(self) -> None:
        script = (
            "import sys, sdworker.cli; sys.exit(bool({'torch', 'diffusers', 'runpod'} & set(sys.modules)))"
        )
        subprocess.run([sys.executable, "-c", script], check=True)


def test_ctrl_c_ends_it_amid_the_drawing() -> None:
    ours, theirs = pty.openpty()  # a terminal, so that the progress bar shows when the drawing is on its way
    termios.tcsetwinsize(theirs, (24, 80))
    job = ["x", "--set", "steps=500", "--set", "width=256", "--set", "height=256"]
    with subprocess.Popen([*COMMAND, "generate", *job], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        try:
            shown = read_until(ours, b"/500")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=180)
        finally:
            process.kill()
    shown += read_until(ours, b"interrupted")
    os.close(ours)
    assert (process.returncode, output) == (130, b"")
    assert b"Traceback" not in shown
    assert not Path("out").exists()


def read_until(terminal: int, wanted: bytes) -> bytes:
    """What the terminal shows, up to and with `wanted`; an error when that does not come."""
    shown = b""
    while wanted not in shown:
        assert select.select([terminal], [], [], 180)[0], shown
        shown += os.read(terminal, 4096)
    return shown
