"""diffusers' VAE, strip by strip: the same picture as of the whole, in pieces of bounded time and less memory.

Tiles that are decoded each by itself show seams: the VAE's normalisations and its attention look at the whole
picture. So they do here too. What is cut into strips of rows is what looks no further than its neighbours, the
convolutions, which are nearly all of the work: each strip is given the rows beside it, normalised by the whole's
mean and deviation, and attention takes some of its queries at a time. What comes out differs from the whole's by
rounding. Between two layers the whole hidden picture is kept, but never what a layer makes of it on the way.
"""

from collections.abc import Callable, Generator
from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional

__all__ = ["Pieces", "can_be_cut", "decode", "encode"]

Pieces = Generator[None, None, torch.Tensor]
"""A tensor's making, one piece of bounded time for each item taken."""

_Rows = Callable[[int, int], torch.Tensor]
"""Rows `first` to `last` of what a convolution is given."""

# Reading an element takes about as long as so many multiplications.
_MULTIPLICATIONS_A_READ = 64
# Of a strip, which is held several times while it is normalised, some of them in float32.
_MOST_ELEMENTS = 2**26


def can_be_cut(vae: Any) -> bool:
    """Whether a VAE is made of the layers known here, as all of Stable Diffusion's are."""
    encoder, decoder = vae.encoder, vae.decoder
    blocks = [*encoder.down_blocks, *decoder.up_blocks, encoder.mid_block, decoder.mid_block]
    kinds = (DownEncoderBlock2D, UpDecoderBlock2D, UNetMidBlock2D)
    return all(type(block) in kinds and all(map(_is_plain, block.modules())) for block in blocks)


def _is_plain(module: Any) -> bool:
    if isinstance(module, ResnetBlock2D):
        parts = (module.upsample, module.downsample, module.time_emb_proj)
        norms = isinstance(module.norm1, torch.nn.GroupNorm) and isinstance(module.norm2, torch.nn.GroupNorm)
        return all(part is None for part in parts) and norms and module.time_embedding_norm != "scale_shift"
    if isinstance(module, Upsample2D):
        return (
            module.norm is None and module.use_conv and module.interpolate and not module.use_conv_transpose
        )
    if isinstance(module, Downsample2D):
        return module.norm is None and module.use_conv and module.padding == 0
    return getattr(module, "spatial_norm", None) is None


def decode(vae: Any, latents: torch.Tensor, budget: int) -> Pieces:
    """What `vae.decode` gives of latents [1, c, h, w].

    Args:
        budget: multiplications of a piece, about; one row of pixels is the least.
    """
    decoder = vae.decoder
    hidden = latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)
    hidden = yield from _convolve(decoder.conv_in, hidden, budget)
    hidden = yield from _middle(decoder.mid_block, hidden, budget)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            hidden = yield from _residual(resnet, hidden, budget)
        for upsampler in block.upsamplers or ():
            hidden = yield from _upsample(upsampler, hidden, budget)
    return (yield from _last(decoder, hidden, budget))


def encode(vae: Any, pixels: torch.Tensor, budget: int) -> Pieces:
    """The moments that `vae.encode` makes its distribution of, of pixels [1, 3, h, w]."""
    encoder = vae.encoder
    hidden = yield from _convolve(encoder.conv_in, pixels, budget)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            hidden = yield from _residual(resnet, hidden, budget)
        for downsampler in block.downsamplers or ():
            hidden = yield from _downsample(downsampler, hidden, budget)
    hidden = yield from _middle(encoder.mid_block, hidden, budget)
    moments = yield from _last(encoder, hidden, budget)
    return moments if vae.quant_conv is None else vae.quant_conv(moments)


def _last(part: Any, hidden: torch.Tensor, budget: int) -> Pieces:
    normal = yield from _normalise(part.conv_norm_out, hidden, budget)
    return (
        yield from _convolve(
            part.conv_out, hidden, budget, lambda a, b: part.conv_act(normal(hidden[:, :, a:b]))
        )
    )


def _middle(block: Any, hidden: torch.Tensor, budget: int) -> Pieces:
    hidden = yield from _residual(block.resnets[0], hidden, budget)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            hidden = yield from _attend(attention, hidden, budget)
        hidden = yield from _residual(resnet, hidden, budget)
    return hidden


def _residual(block: Any, hidden: torch.Tensor, budget: int) -> Pieces:
    activate = block.nonlinearity
    normal = yield from _normalise(block.norm1, hidden, budget)
    inner = yield from _convolve(
        block.conv1, hidden, budget, lambda a, b: activate(normal(hidden[:, :, a:b]))
    )
    normal2 = yield from _normalise(block.norm2, inner, budget)
    outer = yield from _convolve(block.conv2, inner, budget, lambda a, b: activate(normal2(inner[:, :, a:b])))
    inner = hidden  # what it held is not held beside what comes now
    shortcut = block.conv_shortcut  # looks at nothing beside a place
    cost = outer[:, :, 0].numel() * _MULTIPLICATIONS_A_READ
    cost += 0 if shortcut is None else shortcut.weight.numel() * outer.shape[3]
    for a, b in _strips(outer.shape[2], cost, budget):
        rows = hidden[:, :, a:b]
        rows = rows if shortcut is None else functional.conv2d(rows, shortcut.weight, shortcut.bias)
        outer[:, :, a:b].add_(rows).div_(block.output_scale_factor)
        yield
    return outer


def _attend(attention: Any, hidden: torch.Tensor, budget: int) -> Pieces:
    """diffusers' `AttnProcessor2_0` over all positions."""
    _, channels, height, width = hidden.shape
    normal = yield from _normalise(attention.group_norm, hidden, budget)
    positions = height * width
    heads = attention.heads

    def split(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(1, tensor.shape[1], heads, -1).transpose(1, 2)

    flat = normal(hidden).view(1, channels, positions).transpose(1, 2)
    yield
    key, value = split(attention.to_k(flat)), split(attention.to_v(flat))
    yield
    outer = torch.empty_like(flat)
    for a, b in _strips(positions, 2 * positions * key.shape[-1] * heads, budget):
        attended = functional.scaled_dot_product_attention(split(attention.to_q(flat[:, a:b])), key, value)
        outer[:, a:b] = attention.to_out[0](attended.transpose(1, 2).reshape(1, b - a, -1))
        yield
    picture = outer.transpose(1, 2).reshape(hidden.shape)
    if attention.residual_connection:
        picture = picture + hidden
    return picture / attention.rescale_output_factor


def _upsample(layer: Any, hidden: torch.Tensor, budget: int) -> Pieces:
    def doubled(a: int, b: int) -> torch.Tensor:
        rows = hidden[:, :, a // 2 : (b + 1) // 2]
        return functional.interpolate(rows, scale_factor=2.0, mode="nearest")[:, :, a % 2 : a % 2 + b - a]

    size = 2 * hidden.shape[2], 2 * hidden.shape[3]
    return _convolve(layer.conv, hidden, budget, doubled, size=size)


def _downsample(layer: Any, hidden: torch.Tensor, budget: int) -> Pieces:
    return _convolve(layer.conv, hidden, budget, padding=(0, 1))


def _convolve(
    layer: Any,
    hidden: torch.Tensor,
    budget: int,
    rows: _Rows | None = None,
    *,
    size: tuple[int, int] | None = None,
    padding: tuple[int, int] | None = None,
) -> Pieces:
    """A convolution of [1, c, h, w] by strips of rows.

    Args:
        rows: what it is given of `hidden`; None: as it is.
        size: height and width of that, where they are not those of `hidden`.
        padding: rows and columns of zeros before and behind; None: the layer's own.
    """
    given: _Rows = rows or (lambda a, b: hidden[:, :, a:b])
    height, width = size or hidden.shape[2:]
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    before, behind = padding or (layer.padding[0], layer.padding[0])
    out_height, out_width = (
        (side + before + behind - kernel) // stride + 1 for side in (int(height), int(width))
    )
    out = hidden.new_empty(1, layer.out_channels, out_height, out_width)
    if hidden.is_contiguous(memory_format=torch.channels_last):
        out = out.contiguous(memory_format=torch.channels_last)
    elements = hidden.shape[1] * int(width) * stride
    for a, b in _strips(out_height, layer.weight.numel() * out_width, budget, elements):
        first, last = a * stride - before, (b - 1) * stride - before + kernel
        strip = given(max(0, first), min(int(height), last))
        edges = before, behind, max(0, -first), max(0, last - int(height))
        strip = functional.pad(strip, edges) if any(edges) else strip
        out[:, :, a:b] = functional.conv2d(strip, layer.weight, layer.bias, layer.stride)
        yield
    return out


def _normalise(
    layer: Any, hidden: torch.Tensor, budget: int
) -> Generator[None, None, Callable[[torch.Tensor], torch.Tensor]]:
    """A group normalisation by the whole's mean and deviation, for any rows of [1, c, h, w]."""
    groups, channels = layer.num_groups, hidden.shape[1]
    means, squares, counts = [], [], []
    elements = hidden[:, :, 0].numel()
    for a, b in _strips(hidden.shape[2], elements * _MULTIPLICATIONS_A_READ, budget, elements):
        part = hidden[0, :, a:b].reshape(groups, -1).float()
        variance, mean = torch.var_mean(part, dim=1, correction=0)
        means.append(mean.double())
        squares.append(variance.double() + mean.double() ** 2)
        counts.append(part.shape[1])
        yield
    weights = torch.tensor(counts, dtype=torch.float64, device=hidden.device) / sum(counts)
    mean = weights @ torch.stack(means)
    deviation = (weights @ torch.stack(squares) - mean**2 + layer.eps).sqrt()
    each = channels // groups
    scale = layer.weight.double() / deviation.repeat_interleave(each)
    shift = (layer.bias.double() - mean.repeat_interleave(each) * scale).float()[None, :, None, None]
    scale = scale.float()[None, :, None, None]
    return lambda rows: torch.addcmul(shift, rows.float(), scale).to(rows.dtype)


def _strips(count: int, cost: int, budget: int, elements: int = 1) -> list[tuple[int, int]]:
    """From and to of strips of `count` rows that cost so much, and have so many elements, each."""
    rows = max(1, min(budget // cost, _MOST_ELEMENTS // elements))
    return [(a, min(a + rows, count)) for a in range(0, count, rows)]
