"""Every row with its own LoRAs in one forward, against networks with those LoRAs merged into their weights."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from sdworker.engine.lora import LowRank, merge, targets_of
from sdworker.engine.lora.rows import RowAdapters, Use
from sdworker.engine.lora.slots import AdapterSlots, NoSlotFree, Slot


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return (
        UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        .eval()
        .requires_grad_(False)
    )


def random_lora(unet: nn.Module, rank: int, seed: int, *, only: str = "") -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LowRank(
            torch.randn(rank, target.inputs, *target.kernel, generator=generator) / 8,
            torch.randn(target.outputs, rank, generator=generator) / 8,
        )
        for name, target in targets_of(unet).items()
        if only in name
    }


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(rows, 4, 8, 8, generator=generator),
        torch.linspace(1, 900, rows),
        torch.randn(rows, 77, 32, generator=generator),
    )


def forward(
    unet: nn.Module, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    with torch.inference_mode():
        return unet(latents, timesteps, text, return_dict=False)[0]


def merged(unet: nn.Module, *loras: tuple[dict[str, LowRank], float]) -> nn.Module:
    one = copy.deepcopy(unet)
    for weights, scale in loras:
        merge(one, weights, scale)
    return one


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert (got - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_each_row_of_a_forward_is_as_with_its_own_loras_merged(unet: UNet2DConditionModel) -> None:
    """Eight rows: none, one, another rank, attention only, convolutions only, several at once, negative."""
    plain = copy.deepcopy(unet)
    slots = AdapterSlots(network := copy.deepcopy(unet), budget_bytes=2**30)
    loras = {
        "a": random_lora(unet, 4, 1),
        "b": random_lora(unet, 4, 2),
        "wide": random_lora(unet, 13, 3),
        "attention": random_lora(unet, 8, 4, only="attn"),
        "convolutions": random_lora(unet, 4, 5, only="conv"),
    }
    where = {name: slots.place(name, weights) for name, weights in loras.items()}
    rows: list[list[tuple[str, float]]] = [
        [],
        [("a", 1.0)],
        [("b", 0.5)],
        [("wide", 0.8)],
        [("attention", 1.0)],
        [("convolutions", -1.0)],
        [("a", 0.7), ("b", 0.3), ("wide", 1.0)],
        [("a", 1.0), ("a", 0.25)],
    ]
    told = RowAdapters.cat(
        [RowAdapters.of([Use(*where[name], scale) for name, scale in row], 1, slots) for row in rows]
    )
    given = inputs(len(rows))

    with slots.using(told):
        together = forward(network, *given)

    for i, row in enumerate(rows):
        alone = merged(plain, *((loras[name], scale) for name, scale in row))
        assert_close(together[i : i + 1], forward(alone, *(part[i : i + 1] for part in given)))


def test_a_forward_without_loras_is_the_networks_own_to_the_last_bit(unet: UNet2DConditionModel) -> None:
    slots = AdapterSlots(network := copy.deepcopy(unet), budget_bytes=2**30)
    slots.place("a", random_lora(unet, 4, 1))
    given = inputs(3)
    for told in (None, RowAdapters.none(3)):
        with slots.using(told):
            assert torch.equal(forward(network, *given), forward(unet, *given))


def test_a_slot_that_is_used_anew_draws_with_what_lies_there_now(unet: UNet2DConditionModel) -> None:
    first, second = random_lora(unet, 4, 1), random_lora(unet, 4, 2, only="attn")
    slots = AdapterSlots(network := copy.deepcopy(unet), budget_bytes=1)
    place = slots.place("first", first)
    slots.release("first")
    assert slots.place("second", second) == place
    assert slots.hold("first") is None
    told = RowAdapters.of([Use(*place, 1.0)], 2, slots)
    given = inputs(2)
    with slots.using(told):
        assert_close(forward(network, *given), forward(merged(unet, (second, 1.0)), *given))


def test_the_factors_of_the_same_rows_are_gathered_anew_when_asked(unet: UNet2DConditionModel) -> None:
    """As a captured forward does: what lies in the slots counts, not what lay there at capture."""
    first, second = random_lora(unet, 4, 1), random_lora(unet, 4, 2)
    slots = AdapterSlots(network := copy.deepcopy(unet), budget_bytes=2**30)
    places = [slots.place(key, weights) for key, weights in (("first", first), ("second", second))]
    told = RowAdapters.of([Use(*places[0], 1.0)], 2, slots)
    numbers, _ = told.tensors()
    given = inputs(2)
    for place, weights in zip(places, (first, second), strict=True):
        numbers.fill_(place.number)
        with slots.using(told, gather_anew=True):
            assert_close(forward(network, *given), forward(merged(unet, (weights, 1.0)), *given))


def test_two_hundred_loras_through_a_small_pool_keep_its_memory_flat(unet: UNet2DConditionModel) -> None:
    weights = random_lora(unet, 4, 1, only="attn")
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=0)
    budget = 16 * slots.bytes_of(weights)
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=budget)
    numbers = set()
    for i in range(200):
        numbers.add(slots.place(i, weights).number)
        slots.release(i)
        assert slots.used_bytes <= budget
    assert numbers == set(range(1, 17))


def test_the_lora_used_least_recently_makes_room(unet: UNet2DConditionModel) -> None:
    weights = random_lora(unet, 4, 1, only="attn2")
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=0)
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=2 * slots.bytes_of(weights))
    for key in "ab":
        slots.place(key, weights)
        slots.release(key)
    assert slots.hold("a") is not None  # used again: now "b" is the older one
    slots.release("a")
    slots.place("c", weights)
    assert slots.hold("b") is None
    assert slots.hold("a") is not None


def test_loras_in_use_are_never_taken_away(unet: UNet2DConditionModel) -> None:
    weights = random_lora(unet, 4, 1, only="attn2")
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=0)
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=slots.bytes_of(weights))
    assert slots.place("a", weights) == Slot(4, 1)
    with pytest.raises(NoSlotFree):
        slots.place("b", weights)
    slots.release("a")
    assert slots.place("b", weights) == Slot(4, 1)


def test_one_lora_larger_than_the_budget_is_placed_alone(unet: UNet2DConditionModel) -> None:
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=1)
    slots.place("a", random_lora(unet, 4, 1))
    slots.release("a")
    slots.place("b", random_lora(unet, 16, 1))
    assert slots.hold("a") is None


def test_rows_are_cut_joined_and_filled_up_like_any_batch(unet: UNet2DConditionModel) -> None:
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=1)
    a = RowAdapters.of([Use(4, 1, 0.5)], 2, slots)
    b = RowAdapters.of([Use(4, 2, 1.0), Use(4, 3, 1.0), Use(16, 1, 2.0)], 1, slots)
    whole = RowAdapters.cat([RowAdapters.none(1), a, b])
    assert whole.rows == 4
    assert whole.key == (0, ((4, 2), (16, 1)))
    assert whole.by_rank[4][0].tolist() == [[0, 0], [1, 0], [1, 0], [2, 3]]
    assert whole.by_rank[16][1].tolist() == [[0.0], [0.0], [0.0], [2.0]]
    assert whole[1:3].by_rank[4][1].tolist() == [[0.5], [0.5]]
    assert whole[1:3].rows == 2
    assert whole.pad(6).by_rank[4][0].tolist()[4:] == [[0, 0], [0, 0]]
    assert not RowAdapters.none(3)
    assert RowAdapters.none(3).tensors() == []


def test_a_batch_that_stays_the_same_gathers_its_factors_once(unet: UNet2DConditionModel) -> None:
    slots = AdapterSlots(network := copy.deepcopy(unet), budget_bytes=2**30)
    use = Use(*slots.place("a", random_lora(unet, 4, 1)), 1.0)
    kept = []
    for strength in (1.0, 1.0, 0.5):
        told = RowAdapters.of([use._replace(strength=strength)], 2, slots)
        with slots.using(told):
            forward(network, *inputs(2))
        kept.append(slots._gathered)
    assert kept[0] is kept[1]
    assert kept[1] is not kept[2]


def test_a_lora_half_laid_into_its_slot_leaves_nothing(unet: UNet2DConditionModel) -> None:
    slots = AdapterSlots(network := copy.deepcopy(unet), budget_bytes=2**30)
    pieces = slots.place_in_pieces("a", random_lora(unet, 4, 1))
    next(pieces)
    pieces.close()
    assert not slots.holds("a")
    assert slots.used_bytes == 0
    slot = slots.place("b", second := random_lora(unet, 4, 2, only="attn"))
    with slots.using(RowAdapters.of([Use(*slot, 1.0)], 2, slots)):
        assert_close(forward(network, *inputs(2)), forward(merged(unet, (second, 1.0)), *inputs(2)))


def test_what_fits_beside_those_in_use_is_known_before(unet: UNet2DConditionModel) -> None:
    weights = random_lora(unet, 4, 1, only="attn2")
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=0)
    one = slots.bytes_of(weights)
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=2 * one)
    assert slots.fits({})
    assert slots.fits(dict.fromkeys(range(9), one))  # nobody else: it has all of it
    slots.place("a", weights)
    assert slots.fits({"b": one})
    assert not slots.fits({"b": one, "c": one})
    slots.place("b", weights)
    assert slots.fits({"a": one, "b": one})
    assert not slots.fits({"c": one})
    slots.release("b")
    assert slots.fits({"c": one})
    assert not slots.fits({"b": one, "c": one})


def test_a_captured_forward_is_known_to_be_out_of_date_once_slots_have_moved(
    unet: UNet2DConditionModel,
) -> None:
    weights = random_lora(unet, 4, 1)
    slots = AdapterSlots(copy.deepcopy(unet), budget_bytes=2**30)
    told = RowAdapters.of([Use(*slots.place(0, weights), 1.0)], 2, slots)
    first = told.key
    for i in range(1, 4):
        slots.place(i, weights)
    assert told.key == first
    slots.place(4, weights)
    assert told.key != first
