"""Which size the images have, and which sizes a deployment draws."""

import math
from dataclasses import dataclass

from sdworker.request.declaration import LONGEST, MULTIPLE, SHORTEST, Hires, Request, Upscale
from sdworker.request.problems import InputError, allowed
from sdworker.settings import Settings, SettingsError

__all__ = ["Sizes", "suggested_pixels"]

# Of a GPU: memory in bytes (somewhat less than what is written on the card) and the largest image, by the
# arithmetic of `python -m bench fits`, with room for others' drawings.
_BY_MEMORY = ((22 * 10**9, 2048**2), (15 * 10**9, 1536**2))
# Anywhere else.
_MOST = 1024**2
# So many times the area that a model was trained for, nothing sensible is drawn any more; small models' as far as
# is quick all the same.
_TIMES_ITS_OWN = 16
_LEAST = 512**2


def suggested_pixels(own: tuple[int, int], memory_bytes: int | None) -> int:
    """Largest width x height of an image where the deployment says none.

    Args:
        own: width and height that the model was trained for.
        memory_bytes: of the GPU; None: there is none.
    """
    of_device = next((pixels for least, pixels in _BY_MEMORY if (memory_bytes or 0) >= least), _MOST)
    of_model = max(_TIMES_ITS_OWN * own[0] * own[1], _LEAST)
    return max(min(of_device, of_model), own[0] * own[1])


@dataclass(frozen=True)
class Sizes:
    """The sizes of one deployment.

    Attributes:
        settings: its limits and defaults.
        model_size: width and height the model was trained for, in pixels.
        memory_bytes: of the GPU; None: there is none.

    Raises:
        SettingsError: a job that names no size would be refused for its size.
    """

    settings: Settings
    model_size: tuple[int, int]
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        width, height = self.default
        if not self.fits(width, height):
            raise SettingsError(
                f"MAX_PIXELS: {self.most_pixels} is less than the {width}x{height} of a job that names "
                "no size; raise it, or set DEFAULT_WIDTH and DEFAULT_HEIGHT"
            )

    @property
    def default(self) -> tuple[int, int]:
        """Width and height of an image when a job names neither and brings no picture."""
        width, height = self.model_size
        return self.settings.default_width or width, self.settings.default_height or height

    @property
    def most_pixels(self) -> int:
        """Width x height of the largest image."""
        if self.settings.max_pixels is not None:
            return self.settings.max_pixels
        width, height = self.default
        return max(suggested_pixels(self.model_size, self.memory_bytes), width * height)

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of that size may be drawn."""
        return width * height <= self.most_pixels

    def allowed(self) -> str:
        """In words, what `width` and `height` accept."""
        side = allowed(Request.model_fields["width"])
        return f"{side}, width x height at most {self.most_pixels} (MAX_PIXELS)"

    def of_picture(self, request: Request, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the images of a request that starts from a picture of that size.

        What the request names counts; what it leaves open follows the picture's shape, rounded down to
        multiples of 8 as diffusers does. A picture larger than this deployment draws is brought down to fit; where
        MAX_PIXELS is not set, to what is drawn anywhere: nobody who sends a photo without a size means to have
        four megapixels drawn.

        Raises:
            InputError: no size that may be drawn has the picture's shape.
        """
        given_width, given_height = picture
        kept = request.resize == "keep"
        wanted_width, wanted_height = (None, None) if kept else (request.width, request.height)
        scale = 1.0
        if wanted_width and wanted_height:
            return wanted_width, wanted_height
        if wanted_width or wanted_height:
            scale = wanted_width / given_width if wanted_width else (wanted_height or 0) / given_height
        else:
            most = self.settings.max_pixels or min(self.most_pixels, max(_MOST, math.prod(self.model_size)))
            if given_width * given_height > most:
                scale = (most / (given_width * given_height)) ** 0.5
            scale = min(max(scale, SHORTEST / min(picture)), LONGEST / max(picture))
        width = wanted_width or _to_multiple(given_width * scale)
        height = wanted_height or _to_multiple(given_height * scale)
        if min(width, height) < SHORTEST or max(width, height) > LONGEST or not self.fits(width, height):
            remedy = "send another picture, or another resize than keep" if kept else "set width and height"
            raise InputError(
                f"init_image: its {given_width}x{given_height} pixels would give an image of {width}x{height}; "
                f"allowed: {self.allowed()}; {remedy}"
            )
        return width, height

    def of_hires(self, hires: Hires, first: tuple[int, int]) -> tuple[int, int]:
        """Width and height of a second pass, where the first has that size.

        Raises:
            InputError: they may not be drawn, are of another shape, or are not larger.
        """
        width, height = hires.width, hires.height
        scale = hires.scale
        if width or height:
            scale = width / first[0] if width else (height or 0) / first[1]
        width = width or _to_multiple(first[0] * scale)
        height = height or _to_multiple(first[1] * scale)
        said = f"hires: {width}x{height}"
        if width < first[0] or height < first[1]:
            raise InputError(f"{said} is smaller than the {first[0]}x{first[1]} of the first pass")
        if abs(width * first[1] - height * first[0]) > MULTIPLE * max(first):
            raise InputError(f"{said} is of another shape than the {first[0]}x{first[1]} of the first pass")
        if max(width, height) > LONGEST or not self.fits(width, height):
            raise InputError(f"{said} is too large; allowed: {self.allowed()}")
        return width, height

    def of_upscale(self, upscale: Upscale, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of images of that size once they are enlarged.

        Raises:
            InputError: they may not become so large.
        """
        width, height = (round(side * upscale.scale) for side in size)
        if width * height > self.settings.max_upscaled_pixels:
            raise InputError(
                f"upscale: {width}x{height} is {width * height} pixels; allowed: at most "
                f"{self.settings.max_upscaled_pixels} (MAX_UPSCALED_PIXELS)"
            )
        return width, height


def _to_multiple(pixels: float) -> int:
    return int(pixels + 1e-6) // MULTIPLE * MULTIPLE
