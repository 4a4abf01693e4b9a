"""Which size the images have, and which sizes a deployment draws."""

from dataclasses import dataclass

from sdworker.request.declaration import LONGEST, MULTIPLE, SHORTEST, Request
from sdworker.request.problems import InputError, allowed
from sdworker.settings import Settings, SettingsError

__all__ = ["Sizes"]


@dataclass(frozen=True)
class Sizes:
    """The sizes of one deployment.

    Attributes:
        settings: its limits and defaults.
        model_size: width and height the model was trained for, in pixels.

    Raises:
        SettingsError: a job that names no size would be refused for its size.
    """

    settings: Settings
    model_size: tuple[int, int]

    def __post_init__(self) -> None:
        width, height = self.default
        if not self.fits(width, height):
            raise SettingsError(
                f"MAX_PIXELS: {self.settings.max_pixels} is less than the {width}x{height} of a job that names "
                "no size; raise it, or set DEFAULT_WIDTH and DEFAULT_HEIGHT"
            )

    @property
    def default(self) -> tuple[int, int]:
        """Width and height of an image when a job names neither and brings no picture."""
        width, height = self.model_size
        return self.settings.default_width or width, self.settings.default_height or height

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of that size may be drawn."""
        return width * height <= self.settings.max_pixels

    def allowed(self) -> str:
        """In words, what `width` and `height` accept."""
        side = allowed(Request.model_fields["width"])
        return f"{side}, width x height at most {self.settings.max_pixels} (MAX_PIXELS)"

    def of_picture(self, request: Request, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the images of a request that starts from a picture of that size.

        What the request names counts; what it leaves open follows the picture's shape, rounded down to
        multiples of 8 as diffusers does. A picture larger than this deployment draws is brought down to fit.

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
            if not self.fits(*picture):
                scale = (self.settings.max_pixels / (given_width * given_height)) ** 0.5
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


def _to_multiple(pixels: float) -> int:
    return int(pixels + 1e-6) // MULTIPLE * MULTIPLE
