"""What the UNet is told is one value: put together, taken apart and padded, every row stays what it was."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.plan import Guidance
from sdworker.engine.unet_input import Conditioning, UNetInput
from tests.engine.conftest import RecordingModel


@dataclass(frozen=True)
class Slots:
    """As simple as something can be that a row is told or not: one number, 0 for nothing."""

    numbers: torch.Tensor

    @classmethod
    def none(cls, rows: int) -> "Slots":
        return cls(torch.zeros(rows))

    @staticmethod
    def cat(parts: "Sequence[Slots]") -> "Slots":
        return Slots(torch.cat([part.numbers for part in parts]))

    def __getitem__(self, rows: slice) -> "Slots":
        return Slots(self.numbers[rows])

    def pad(self, rows: int) -> "Slots":
        return Slots(torch.cat([self.numbers, torch.zeros(rows - len(self.numbers))]))

    def tensors(self) -> list[torch.Tensor]:
        return [self.numbers]

    @property
    def key(self) -> Hashable:
        return "slots"


def some_input(
    rows: int, seed: int, *, tokens: int = 3, added: bool = True, channels: bool = True, adapted: bool = True
) -> UNetInput:
    random = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=random)

    return UNetInput(
        numbers(4, 2, 3),
        numbers(),
        Conditioning(
            numbers(tokens, 5),
            added={"b": numbers(6), "a": numbers(2, 2)} if added else {},
            channels=numbers(5, 2, 3) if channels else None,
            adapters=Slots(numbers()) if adapted else None,
        ),
    )


def same(one: UNetInput, other: UNetInput) -> bool:
    return one.key == other.key and all(
        torch.equal(ours, theirs) for ours, theirs in zip(one.tensors(), other.tensors(), strict=True)
    )


kinds = st.fixed_dictionaries({"added": st.booleans(), "channels": st.booleans(), "adapted": st.booleans()})


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), kinds)
def test_what_was_put_together_can_be_taken_apart(sizes: list[int], kind: dict[str, bool]) -> None:
    parts = [some_input(rows, seed, **kind) for seed, rows in enumerate(sizes)]
    whole = UNetInput.cat(parts)
    assert whole.rows == sum(sizes)
    done = 0
    for part in parts:
        assert same(whole[done : done + part.rows], part)
        done += part.rows


@given(st.integers(1, 4), st.integers(0, 4), kinds)
def test_padding_leaves_the_rows_before_it_alone(rows: int, more: int, kind: dict[str, bool]) -> None:
    inputs = some_input(rows, 0, **kind)
    padded = inputs.pad(rows + more)
    assert {len(tensor) for tensor in padded.tensors()} == {rows + more}
    assert same(padded[:rows], inputs)
    assert not any(tensor.any() for tensor in padded[rows:].tensors())


def test_rows_that_are_told_nothing_more_go_with_those_that_are() -> None:
    told, untold = some_input(2, 0), some_input(3, 1, adapted=False)
    whole = UNetInput.cat([untold, told])
    assert isinstance(whole.conditioning.adapters, Slots)
    assert whole.conditioning.adapters.numbers[:3].tolist() == [0, 0, 0]
    assert same(whole[3:], told)


def test_a_key_tells_apart_what_a_prepared_forward_must() -> None:
    plain = {"added": False, "channels": False, "adapted": False}
    keys = [some_input(2, 0, **(plain | {name: True})).key for name in plain]
    keys += [some_input(2, 0, **plain).key, some_input(2, 0, tokens=6, **plain).key]
    assert len(set(keys)) == len(keys)
    assert some_input(2, 0).key == some_input(5, 1).key


def test_what_it_is_made_of_comes_in_the_same_order_whatever_the_mappings() -> None:
    inputs = some_input(1, 0)
    told = inputs.conditioning
    other = UNetInput(
        inputs.latents,
        inputs.timesteps,
        Conditioning(told.text, dict(reversed(list(told.added.items()))), told.channels, told.adapters),
    )
    assert same(inputs, other)


def test_the_images_of_a_drawing_have_its_rows_in_turn() -> None:
    told = some_input(2, 0).conditioning
    three = told.for_images(3)
    assert torch.equal(three.text, told.text.repeat_interleave(3, dim=0))
    assert torch.equal(three.added["a"], told.added["a"].repeat_interleave(3, dim=0))


@pytest.mark.parametrize("lengths", [(77, 154), (154, 231), (77, 154, 231), (231, 77, 308)])
def test_texts_of_different_lengths_are_told_as_each_alone(
    networks: RecordingModel, lengths: tuple[int, ...]
) -> None:
    parts = []
    for seed, length in enumerate(lengths):
        part = networks.example_input(2, (8, 8))
        width = part.conditioning.text.shape[2]
        text = torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed))
        parts.append(UNetInput(part.latents, part.timesteps, Conditioning(text)))
    together = networks.denoise(UNetInput.cat(parts)).split(2)
    for part, ours in zip(parts, together, strict=True):
        alone = networks.denoise(part)
        assert float((ours - alone).abs().max() / alone.abs().max()) < 1e-5


def test_an_example_is_laid_out_in_memory_as_what_is_drawn(networks: RecordingModel) -> None:
    example = networks.example_input(4)
    drawn = UNetInput.cat([networks.example_input(2)[:1] for _ in range(4)])
    for ours, theirs in zip(example.tensors(), drawn.tensors(), strict=True):
        assert (ours.stride(), ours.dtype, ours.is_contiguous()) == (theirs.stride(), theirs.dtype, True)


class TestGuidance:
    PREDICTED = torch.arange(24.0).view(6, 4, 1, 1) ** 2

    def test_without_a_row_of_no_prompt_the_answer_is_what_the_unet_says(self) -> None:
        guidance = Guidance(1.0, guided=False)
        assert guidance.rows == 1
        assert torch.equal(guidance.combine(self.PREDICTED), self.PREDICTED)

    def test_one_prompt_pulls_away_from_none(self) -> None:
        plain, prompted = self.PREDICTED.chunk(2)
        guidance = Guidance(7.5)
        assert guidance.rows == 2
        assert torch.equal(guidance.combine(self.PREDICTED), plain + 7.5 * (prompted - plain))

    def test_several_pull_each_with_its_weight(self) -> None:
        plain, one, other = self.PREDICTED.chunk(3)
        guidance = Guidance(2.0, weights=(1.0, -0.5))
        assert guidance.rows == 3
        expected = plain + 2.0 * (one - plain) - 1.0 * (other - plain)
        torch.testing.assert_close(guidance.combine(self.PREDICTED), expected)
