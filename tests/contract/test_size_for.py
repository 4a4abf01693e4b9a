"""The size of an image that starts from a picture."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sdworker.request import Contract, InputError, Request
from sdworker.settings import Settings

CONTRACT = Contract(Settings(), (512, 512))
sides = st.integers(1, 12_000)


def asked(width: int | None = None, height: int | None = None) -> Request:
    return Request(prompt="x", init_image="data:,", width=width, height=height)


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((512, 512), (512, 512)),
        ((519, 515), (512, 512)),
        ((640, 480), (640, 480)),
        ((1024, 1024), (1024, 1024)),
        ((1025, 1025), (1024, 1024)),
        ((4000, 3000), (1176, 880)),
        ((3000, 300), (2048, 200)),
        ((63, 63), (64, 64)),
        ((32, 40), (64, 80)),
        ((1, 1), (64, 64)),
    ],
)
def test_it_follows_the_picture(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert CONTRACT.size_for(asked(), picture) == size


@pytest.mark.parametrize(
    ("request_", "size"),
    [
        (asked(256), (256, 128)),
        (asked(None, 256), (512, 256)),
        (asked(256, 256), (256, 256)),
    ],
)
def test_what_the_request_names_counts(request_: Request, size: tuple[int, int]) -> None:
    assert CONTRACT.size_for(request_, (1000, 500)) == size


@pytest.mark.parametrize(
    ("request_", "picture"),
    [(asked(), (1, 5000)), (asked(), (5000, 1)), (asked(64), (640, 64)), (asked(1024), (100, 200))],
)
def test_a_shape_that_cannot_be_drawn_is_refused_with_what_to_do(
    request_: Request, picture: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match=r"^init_image: its .* pixels would give .*; set width and height$"):
        CONTRACT.size_for(request_, picture)


@given(picture=st.tuples(sides, sides), width=st.none() | st.just(256), max_pixels=st.integers(4096, 2**22))
def test_whatever_the_picture_the_size_may_be_drawn(
    picture: tuple[int, int], width: int | None, max_pixels: int
) -> None:
    contract = Contract(Settings(max_pixels=max_pixels, default_width=64, default_height=64), (512, 512))
    try:
        size = contract.size_for(asked(width), picture)
    except InputError:
        return  # another test says which shapes are never refused
    assert all(64 <= side <= 2048 and side % 8 == 0 for side in size)
    assert size[0] * size[1] <= max_pixels
    assert width is None or size[0] == width


@given(width=sides, height=sides)
def test_a_picture_of_a_usual_shape_always_has_a_size(width: int, height: int) -> None:
    assume(max(width, height) <= 4 * min(width, height))
    drawn = CONTRACT.size_for(asked(), (width, height))
    assert drawn[0] / drawn[1] == pytest.approx(width / height, rel=0.15)
