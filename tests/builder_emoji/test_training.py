"""Both trainings run, go on after an interruption as if there had been none, and keep what they promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builder.emoji import architecture, autoencoder, diffusion, pictures, tokenizer
from builder.emoji.autoencoder import AutoencoderPlan
from builder.emoji.budget import Budget
from builder.emoji.diffusion import DiffusionPlan
from builder.emoji.optimizer import MuonAdamW, orthogonalize
from builder.emoji.pictures import Emojis
from builder.emoji.trainer import Trainer
from diffusers import DDIMScheduler
from torch import nn

CPU = torch.device("cpu")


def trainer_in(folder: Path, steps: int) -> Trainer:
    return Trainer("trial", folder, Budget(steps=steps), CPU, checkpoint_seconds=0)


class TestAutoencoder:
    @pytest.fixture
    def vae(self) -> architecture.AutoencoderKL:
        torch.manual_seed(0)
        return architecture.new_autoencoder()

    def test_learns_in_a_few_steps(
        self, vae: architecture.AutoencoderKL, emojis: Emojis, tmp_path: Path
    ) -> None:
        seen = pictures.on_colour(emojis.pictures[:2], "white")
        before = autoencoder.psnr(vae, seen)
        assert autoencoder.train(vae, emojis, trainer_in(tmp_path, 4), AutoencoderPlan(batch=1))
        assert autoencoder.psnr(vae, seen) > before

    def test_decoder_only_changes_no_latent(
        self, vae: architecture.AutoencoderKL, emojis: Emojis, tmp_path: Path
    ) -> None:
        seen = pictures.on_colour(emojis.pictures[:1], "white")
        latents, drawn = autoencoder.encode(vae, seen), autoencoder.reconstruct(vae, seen)
        autoencoder.train(
            vae, emojis, trainer_in(tmp_path, 1), AutoencoderPlan(batch=1, crop_share=0.0), decoder_only=True
        )
        torch.testing.assert_close(autoencoder.encode(vae, seen), latents, atol=1e-4, rtol=0)
        assert (autoencoder.reconstruct(vae, seen) != drawn).any()

    def test_folding_makes_channels_alike_and_changes_no_picture(
        self, vae: architecture.AutoencoderKL, emojis: Emojis
    ) -> None:
        seen = pictures.on_colour(emojis.pictures[:4], "white")
        before = autoencoder.reconstruct(vae, seen)
        autoencoder.fold_normalisation(vae, seen)
        latents = autoencoder.encode(vae, seen) * architecture.SCALING_FACTOR
        assert latents.mean((0, 2, 3)) == pytest.approx(torch.zeros(4), abs=1e-4)
        assert latents.std((0, 2, 3)) == pytest.approx(torch.ones(4), abs=1e-3)
        assert abs(autoencoder.reconstruct(vae, seen).astype(int) - before).max() <= 1


class TestDiffusion:
    def test_lessons_come_on_white_first_and_on_other_colours(self, emojis: Emojis) -> None:
        torch.manual_seed(0)
        words = tokenizer.train(emojis.names, emojis.tags, merges=100)
        plan = DiffusionPlan(colours=1, captions=3)
        lessons = diffusion.make_lessons(architecture.new_autoencoder(), words, emojis, plan)
        assert lessons.latents.shape == (6, 2, 4, 16, 16)
        assert lessons.tokens.shape == (6, 2, 3, 77)
        assert "background" not in words.decode(lessons.empty.tolist())
        texts = [
            words.decode(row.tolist(), skip_special_tokens=True) for row in lessons.tokens[:, 1].flatten(0, 1)
        ]
        assert all(any(colour in text for colour in pictures.COLOURS) for text in texts)

    def test_trains_unet_and_text_encoder_together(self, emojis: Emojis, tmp_path: Path) -> None:
        torch.manual_seed(0)
        words = tokenizer.train(emojis.names, emojis.tags, merges=100)
        plan = DiffusionPlan(batch=3, colours=1, captions=2)
        lessons = diffusion.make_lessons(architecture.new_autoencoder(), words, emojis, plan)
        networks = (architecture.new_unet(), architecture.new_text_encoder(words))
        before = [next(network.parameters()).clone() for network in networks]
        assert diffusion.train(*networks, lessons, trainer_in(tmp_path, 2), plan)
        for network, old in zip(networks, before, strict=True):
            assert not torch.equal(next(network.parameters()), old)

    @pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
    def test_asks_the_unet_for_what_it_predicts(
        self, predicted: str, emojis: Emojis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(0)
        words = tokenizer.train(emojis.names, emojis.tags, merges=100)
        plan = DiffusionPlan(batch=2, colours=0, captions=1, predicted=predicted)
        lessons = diffusion.make_lessons(architecture.new_autoencoder(), words, emojis, plan)
        unet, text_encoder = architecture.new_unet(), architecture.new_text_encoder(words)
        asked: list[str] = []
        question = diffusion.question

        def listen(*given: Any) -> Any:
            asked.append(given[3])
            return question(*given)

        monkeypatch.setattr(diffusion, "question", listen)
        assert diffusion.train(unet, text_encoder, lessons, trainer_in(tmp_path, 1), plan)
        assert asked == [predicted]

    def test_groups_that_weigh_more_are_seen_more(self) -> None:
        shares = diffusion.shares_by_group(np.array([3, 3, 8, 9]), {3: 6.0, 8: 2.0})
        assert (shares * 15).tolist() == pytest.approx([6, 6, 2, 1])

    @pytest.mark.parametrize("noisy", [0.0, 0.5, 0.7, 1.0])
    def test_the_noisy_half_of_the_schedule_gets_its_share(self, noisy: float) -> None:
        times = diffusion.spread_times(1000, 1000, noisy, torch.Generator().manual_seed(0))
        assert (times >= 500).float().mean().item() == pytest.approx(noisy, abs=0.01)
        assert 0 <= times.min() <= times.max() <= 999

    @pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
    def test_an_error_counts_at_the_noisiest_step_too(self, predicted: str) -> None:
        signal = architecture.new_scheduler().alphas_cumprod
        weights = diffusion.loss_weights(signal, cap=5.0, floor=0.3, predicted=predicted)
        snr = signal / (1 - signal)
        on_picture = weights * (snr if predicted == "epsilon" else snr + 1)
        assert on_picture.min() == pytest.approx(0.3, abs=0.01)
        assert on_picture.max() == pytest.approx(5.3)

    @pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
    def test_what_is_asked_for_is_what_diffusers_samplers_expect(self, predicted: str) -> None:
        dice = torch.Generator().manual_seed(0)
        latents, noise = torch.randn(2, 3, 4, 16, 16, generator=dice)
        scheduler = DDIMScheduler.from_config(architecture.new_scheduler(predicted).config)
        scheduler.set_timesteps(1000)
        for time in (1, 500, 999):
            signal = scheduler.alphas_cumprod[torch.full((3,), time)]
            noisy, answer = diffusion.question(latents, noise, signal, predicted)
            found = scheduler.step(answer, time, noisy).pred_original_sample
            torch.testing.assert_close(found, latents, atol=1e-3, rtol=0)


class TestTrainer:
    """On a network of two layers, so that every step is checkpointed and nothing takes long."""

    @staticmethod
    def train(folder: Path, steps: int, before_step: Callable[[int], None] = lambda step: None) -> nn.Module:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

        def loss_of_step(step: int) -> torch.Tensor:
            before_step(step)
            batch = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            return (network(batch) - batch.flip(1)).square().mean()

        trainer_in(folder, steps).run([network], MuonAdamW([network], 0.01), 0.01, loss_of_step)
        return network

    def test_goes_on_after_an_interruption_as_if_there_was_none(self, tmp_path: Path) -> None:
        def stop_at_seven(step: int) -> None:
            if step == 7:
                raise KeyboardInterrupt

        whole = self.train(tmp_path / "whole", 12)
        with pytest.raises(KeyboardInterrupt):
            self.train(tmp_path / "parts", 12, stop_at_seven)
        steps_after: list[int] = []
        parts = self.train(tmp_path / "parts", 12, steps_after.append)
        assert steps_after == [7, 8, 9, 10, 11]
        for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(left, right)

    def test_pauses_with_a_checkpoint_and_says_so(self, tmp_path: Path) -> None:
        network = nn.Linear(2, 2)
        trainer = Trainer("trial", tmp_path, Budget(steps=5), CPU, stop_at=0.0)
        assert not trainer.run(
            [network], MuonAdamW([network], 0.1), 0.1, lambda step: network(torch.ones(2)).sum()
        )
        assert trainer.checkpoint.exists()


class TestBudget:
    def test_needs_an_end(self) -> None:
        with pytest.raises(ValueError, match="steps or of minutes"):
            Budget()

    def test_rate_rises_then_falls(self) -> None:
        budget = Budget(steps=1000)
        rates = []
        for budget.done_steps in (0, 100, 500, 1000):
            rates.append(budget.rate(1.0))
        assert rates == pytest.approx([0.01, 0.9755, 0.5, 0.01], abs=1e-3)

    def test_minutes_of_earlier_runs_count(self) -> None:
        budget = Budget(minutes=2)
        budget.restore({"done_steps": 10, "done_seconds": 90.0})
        assert budget.progress == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(
        orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    )
    assert values.min() > 0.5
    assert values.max() < 1.3
