"""Upscalers: tile by tile what spandrel gives of the whole; files that hold something else are refused."""

import asyncio
import pickle
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdworker.engine.chores import Chore
from sdworker.engine.engine import Engine
from sdworker.engine.shelf import Shelf
from sdworker.engine.upscaling import Upscaler, UpscalerError, reading, upscaler

from .conftest import CPU, RecordingModel
from .test_engine import LONG

EMOJI = Path(__file__).resolve().parents[2] / "models" / "upscalers" / "emoji-x2.safetensors"


def load(file: Path = EMOJI, name: str = "it") -> Upscaler:
    return Upscaler.load(file, name, device=CPU)


def done(chore: Chore[np.ndarray]) -> tuple[np.ndarray, int]:
    """What comes of all pieces, and how many there were."""
    count = 1
    while not chore.do_piece():
        count += 1
    assert chore.coming is not None
    return chore.coming.get(), count


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(file: Path, pixels: np.ndarray) -> np.ndarray:
    """By spandrel alone, in one piece."""
    described = reading.read(file, "it")
    with torch.inference_mode():
        drawn = described(torch.from_numpy(pixels).float().div(255).permute(2, 0, 1)[None])[0]
    return drawn.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def save_esrgan(file: Path) -> None:
    """A small network of Real-ESRGAN's larger kind, with random weights, four times as large."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(1)
    network = RRDBNet(in_nc=3, out_nc=3, num_filters=16, num_blocks=2, scale=4)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)


@pytest.mark.parametrize("size", [(70, 50), (96, 97), (130, 300)])
def test_in_tiles_it_is_the_whole_picture(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "_SHORTEST", 64)
    monkeypatch.setattr(upscaler, "_LONGEST", 64)
    pixels = noise(*size)
    large, tiles = done(load().chore(pixels))
    assert large.shape == (2 * size[0], 2 * size[1], 3)
    assert tiles >= 3
    assert np.abs(large.astype(int) - whole(EMOJI, pixels)).max() <= 1


def test_of_an_esrgan_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading.read(EMOJI, "it")  # has spandrel imported, whether or not there is torchvision
    file = tmp_path / "x4.safetensors"
    save_esrgan(file)
    pixels = noise(80, 120)
    monkeypatch.setattr(upscaler, "_SHORTEST", 64)
    monkeypatch.setattr(upscaler, "_LONGEST", 64)
    ours = load(file)
    assert ours.scale == 4
    large, tiles = done(ours.chore(pixels))
    assert tiles == 3 * 4
    assert np.abs(large.astype(int) - whole(file, pixels)).max() <= 1


def test_tiles_are_as_large_as_their_time_allows() -> None:
    small = load()
    assert small.tile_side() > small.tile_side(1) > small.tile_side(2) >= 48
    heavy = load()
    heavy._weights = 17_000_000  # Real-ESRGAN's
    assert heavy.tile_side() == upscaler._SHORTEST


def test_pth_files_of_weights_are_read_like_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "x2.pth"
    torch.save({"params_ema": load_file(EMOJI)}, file)
    pixels = noise(40, 40)
    assert np.array_equal(done(load(file).chore(pixels))[0], done(load().chore(pixels))[0])


class Runs:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("import sys; sys.hacked = True",)


def as_pickle(folder: Path) -> Path:
    file = folder / "bad.pth"
    torch.save({"params": Runs()}, file)
    return file


def as_old_pickle(folder: Path) -> Path:
    file = folder / "bad.pth"
    file.write_bytes(pickle.dumps({"params": Runs()}))
    return file


def as_pickle_by_another_name(folder: Path) -> Path:
    return as_pickle(folder).rename(folder / "bad.safetensors")


def as_script(folder: Path) -> Path:
    file = folder / "bad.pt"
    torch.jit.save(torch.jit.script(torch.nn.Identity()), file)
    return file


def as_half(folder: Path) -> Path:
    file = folder / "bad.safetensors"
    file.write_bytes(EMOJI.read_bytes()[:50_000])
    return file


def as_nothing(folder: Path) -> Path:
    file = folder / "bad.safetensors"
    file.write_bytes(b"")
    return file


def as_lora(folder: Path) -> Path:
    return EMOJI.parents[1] / "loras" / "pencil.safetensors"


def as_nan(folder: Path) -> Path:
    file = folder / "bad.safetensors"
    weights = load_file(EMOJI)
    weights["body.0.weight"][0] = float("nan")
    save_file(weights, file)
    return file


def save_compact(file: Path, *, scale: int, channels: int = 3) -> Path:
    """A small network of Real-ESRGAN's compact kind, with random weights."""
    reading.read(EMOJI, "it")  # has spandrel imported, whether or not there is torchvision
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(2)
    network = SRVGGNetCompact(
        num_in_ch=channels, num_out_ch=channels, num_feat=16, num_conv=2, upscale=scale, act_type="prelu"
    )
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def as_one(folder: Path) -> Path:
    return save_compact(folder / "bad.safetensors", scale=1)


def as_grey(folder: Path) -> Path:
    return save_compact(folder / "bad.safetensors", scale=2, channels=1)


def test_one_that_enlarges_three_times_does(tmp_path: Path) -> None:
    file = save_compact(tmp_path / "x3.safetensors", scale=3)
    pixels = noise(30, 50)
    large, _ = done(load(file).chore(pixels))
    assert large.shape == (90, 150, 3)
    assert np.abs(large.astype(int) - whole(file, pixels)).max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (as_one, "does not enlarge pictures"),
        (as_grey, "is for pictures of 1 channels, not for RGB"),
        (as_pickle, "holds more than weights .*exec.* convert it to safetensors"),
        (as_old_pickle, "'bad' (holds more than weights|cannot be read)"),
        (as_pickle_by_another_name, "'bad' cannot be read"),
        (as_script, r"is not a \.safetensors or \.pth file"),
        (as_half, "'bad' cannot be read"),
        (as_nothing, "'bad' cannot be read"),
        (as_lora, "is of no architecture that is known"),
        (as_nan, "holds numbers that are not finite"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(UpscalerError, match=message):
        load(make(tmp_path), "bad")
    assert not hasattr(sys, "hacked")


def test_nobody_else_finds_the_torchvision_that_stood_in() -> None:
    reading.read(EMOJI, "it")
    stand_in = sys.modules.get("torchvision")
    assert stand_in is None or stand_in.__spec__ is not None


def counted(it: Upscaler) -> list[int]:
    """Of each forward from now on, how many tiles it has."""
    described, forwards = it._described, []

    def noted(image: torch.Tensor) -> torch.Tensor:
        forwards.append(len(image))
        return described(image)

    noted.to = lambda _where: noted  # type: ignore[attr-defined]
    it._described = noted
    return forwards


class TestInTheEngine:
    async def test_steps_of_others_go_on_between_its_tiles(
        self, networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An upscale delays another job's step by no more than one tile."""
        monkeypatch.setattr("sdworker.engine.finishing._SHARE", 0.0)
        engine = Engine(networks, max_rows=4)
        order: list[str] = []
        it = load()
        described = it._described

        def noted(image: torch.Tensor) -> torch.Tensor:
            order.append("tile")
            return described(image)

        noted.to = lambda _where: noted  # type: ignore[attr-defined]
        it._described = noted
        monkeypatch.setattr(upscaler, "_LONGEST", 64)
        monkeypatch.setattr(upscaler, "_SHORTEST", 64)
        long = asyncio.create_task(engine.draw(LONG, lambda *_: order.append("step")))
        (large,) = await engine.do([it.chore(noise(200, 200))])
        assert large.shape == (400, 400, 3)
        assert order.count("tile") == 49
        assert "tile tile" not in " ".join(order[order.index("step") :])
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        engine.close()

    async def test_small_pictures_of_several_jobs_go_through_in_one_forward(
        self, networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No more of them than take as long as the largest tile; each comes out as alone."""
        engine = Engine(networks, max_rows=4)
        it = load()
        monkeypatch.setitem(upscaler._BUDGET, "cpu", 5 * 40 * 60 * it._weights)
        forwards = counted(it)
        gate = threading.Event()
        engine.call(gate.wait)
        pictures = [noise(40, 60) + i for i in range(8)]
        jobs = [[one] for one in pictures[:5]] + [pictures[5:]]
        made = [asyncio.create_task(engine.do([it.chore(one) for one in job])) for job in jobs]
        other = asyncio.create_task(engine.do([it.chore(noise(41, 60))]))
        while len(engine._inbox) < len(jobs) + 1:  # noqa: ASYNC110 - of a queue there is no event
            await asyncio.sleep(0.01)
        gate.set()
        large = [image for images in await asyncio.gather(*made) for image in images]
        await other
        engine.close()
        assert sorted(forwards) == [1, 3, 5]
        for picture, image in zip(pictures, large, strict=True):
            assert np.abs(image.astype(int) - whole(EMOJI, picture)).max() <= 1

    def test_together_they_take_no_longer_than_the_largest_tile(self) -> None:
        it = load()
        for side in (20, 64, 100, it.tile_side(), 500):
            together = it.tiles_at_once(side, side) * side**2
            assert together <= max(side, it.tile_side() + 1) ** 2

    @pytest.mark.parametrize(("times", "fails"), [(2, False), (99, True)])
    async def test_where_memory_lacks_tiles_become_smaller_until_the_job_fails_by_name(
        self, networks: RecordingModel, monkeypatch: pytest.MonkeyPatch, times: int, fails: bool
    ) -> None:
        engine = Engine(networks, max_rows=4)
        pixels = noise(150, 150)
        expected = whole(EMOJI, pixels)
        it = load(name="emoji-x2")
        described, sides = it._described, []

        def lacking(image: torch.Tensor) -> torch.Tensor:
            sides.append(image.shape[2])
            if len(sides) <= times:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return described(image)

        lacking.to = lambda _where: lacking  # type: ignore[attr-defined]
        it._described = lacking
        if fails:
            with pytest.raises(
                UpscalerError, match="out of memory enlarging 150x150 with the upscaler 'emoji-x2'"
            ):
                await engine.do([it.chore(pixels)])
        else:
            (large,) = await engine.do([it.chore(pixels)])
            assert np.abs(large.astype(int) - expected).max() <= 1
        assert sides[0] > sides[1] > sides[2]
        (large,) = await engine.do([load().chore(noise(20, 20))])
        assert large.shape == (40, 40, 3)
        engine.close()

    async def test_numbers_that_are_not_finite_are_an_error_by_name(self, networks: RecordingModel) -> None:
        engine = Engine(networks, max_rows=4)
        it = load(name="wild")
        next(it._described.model.parameters()).fill_(float("inf"))
        with pytest.raises(UpscalerError, match="'wild' made numbers that are not finite"):
            await engine.do([it.chore(noise(20, 20))])
        engine.close()


def new_shelf(most_bytes: int = 2**30) -> Shelf[Upscaler]:
    return Shelf(partial(Upscaler.load, device=CPU), most_bytes=most_bytes)


async def get(shelf: Shelf[Upscaler], file: Path, name: str) -> Upscaler:
    return (await shelf.read(file, name=name))[1]


class TestShelf:
    async def test_each_is_loaded_once_and_a_file_that_changed_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads: list[Any] = []
        load_one = Upscaler.load

        def counted(*given: Any, **named: Any) -> Upscaler:
            loads.append(given)
            return load_one(*given, **named)

        monkeypatch.setattr(Upscaler, "load", counted)
        file = tmp_path / "x2.safetensors"
        file.write_bytes(EMOJI.read_bytes())
        shelf = new_shelf()
        one, other = await asyncio.gather(get(shelf, file, "x2"), get(shelf, file, "x2"))
        assert one is other
        assert await get(shelf, file, "x2") is one
        save_file(load_file(EMOJI), file, metadata={"made": "anew"})
        assert await get(shelf, file, "x2") is not one
        assert len(loads) == 2

    async def test_the_least_recently_used_go_when_there_is_no_room(self, tmp_path: Path) -> None:
        files = [tmp_path / f"{i}.safetensors" for i in range(3)]
        for file in files:
            file.write_bytes(EMOJI.read_bytes())
        size = load().bytes_
        shelf = new_shelf(2 * size)
        kept = [await get(shelf, file, file.stem) for file in files]
        assert await get(shelf, files[2], "2") is kept[2]
        assert await get(shelf, files[0], "0") is not kept[0]

    async def test_one_that_failed_is_tried_again(self, tmp_path: Path) -> None:
        shelf = new_shelf()
        for _ in range(2):
            with pytest.raises(UpscalerError):
                await get(shelf, as_nothing(tmp_path), "bad")
