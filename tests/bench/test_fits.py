"""What the arithmetic of `fits` counts: the most that tensors hold at a time."""

import torch

from bench.jobs.fits import Held, attention_in_pieces, count_stages
from bench.random_model import TINY_SDXL


def test_what_is_let_go_counts_no_more_and_views_count_nothing() -> None:
    with torch.inference_mode(), Held() as held:
        first = torch.empty(1000, dtype=torch.uint8, device="meta")
        view = first.view(10, 100)
        del first
        second = torch.empty(500, dtype=torch.uint8, device="meta")
        del view, second
        third = torch.empty(1200, dtype=torch.uint8, device="meta")
        del third
    assert held.most_bytes == 1500


def test_attention_holds_nothing_of_all_pairs() -> None:
    query = torch.empty(1, 8, 65536, 40, device="meta", dtype=torch.float16)
    with torch.inference_mode(), Held() as held, attention_in_pieces():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert held.most_bytes == query.numel() * 2


def test_larger_pictures_take_more_in_every_stage() -> None:
    small, large = (count_stages(TINY_SDXL, side) for side in (128, 256))
    assert all(large[stage] > small[stage] for stage in small)
