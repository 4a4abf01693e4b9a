"""Which size the images have, and which sizes a deployment draws."""

from dataclasses import dataclass

from sdworker.request.declaration import LONGEST, MULTIPLE, SHORTEST, Hires, Request, Upscale
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
