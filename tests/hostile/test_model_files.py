"""Damaged model folders: each is refused at the start, in one sentence that names the file and what is wrong.

A small model is made once; each case damages a copy of it, by hard links, so that one file is written and the
others are shared.
"""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdworker.engine.model_files import ModelError
from sdworker.settings import Device, Settings
from sdworker.startup import build_worker
from tests.builder.tiny_model import make_diffusers_folder

ROOT = Path(__file__).resolve().parents[2]

INDEX = "model_index.json"
UNET = "unet/config.json"
VAE = "vae/config.json"
TEXT = "text_encoder/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
TOKENIZER = "tokenizer/tokenizer_config.json"
VOCAB = "tokenizer/vocab.json"
MERGES = "tokenizer/merges.txt"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "text_encoder/model.safetensors"

Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A damage, and what the sentence must name.

    Attributes:
        expects: what should happen, in words.
        damage: done to a copy of the whole model.
        names: parts of the message.
    """

    expects: str
    damage: Damage
    names: tuple[str, ...]


# ---- ways to do damage


def put(name: str, content: str | bytes) -> Damage:
    """Replace a file's content; the other copies keep theirs."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def values(name: str, **changes: Any) -> Damage:
    """Set some of a JSON file's keys."""
    return lambda folder: put(name, json.dumps({**json.loads((folder / name).read_text()), **changes}))(
        folder
    )


def without(name: str, *keys: str) -> Damage:
    """Take keys out of a JSON file."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        put(name, json.dumps({key: value for key, value in content.items() if key not in keys}))(folder)

    return damage


def missing(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def is_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change a weights' file, which stays a whole safetensors file."""

    def damage(folder: Path) -> None:
        loaded = {key: value.clone() for key, value in load_file(folder / name).items()}
        change(loaded)
        (folder / name).unlink()
        save_file(loaded, folder / name, {"format": "pt"})

    return damage


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], object]:
    """Change the first tensor by name."""

    def apply(loaded: dict[str, torch.Tensor]) -> None:
        key = min(loaded)
        loaded[key] = change(loaded[key]).contiguous()

    return apply


def header(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change what a weights' file says of itself; its data stays."""

    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        content = json.loads(whole[8 : 8 + length])
        change(content)
        text = json.dumps(content).encode()
        put(name, struct.pack("<Q", len(text)) + text + whole[8 + length :])(folder)

    return damage


def first_entry(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content[min(key for key in content if key != "__metadata__")].update(changes)


def cut(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        put(name, whole[: int(len(whole) * keep)])(folder)

    return damage


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


# ---- the table


def wrong_values(name: str, expects: str, table: dict[str, list[Any]]) -> Iterator[Case]:
    """A case for each wrong value of each key: the file and the key are named."""
    for key, wrong in table.items():
        for value in wrong:
            yield Case(f"{key} {expects}", values(name, **{key: value}), (name, key))


_NO_NAMES: list[Any] = [None, 5, ["StableDiffusionPipeline"], {}, "x\ny"]

CASES: list[Case] = [
    *wrong_values(
        UNET,
        "is what the worker computes sizes and layers with",
        {
            "sample_size": [0, -1, None, "64", [64], [64, 64, 64], [0, 8], 1e9, 2048, True, {}, 8.5],
            "in_channels": [0, "4", None, 4.5, 10**12],
            "out_channels": [8, 0, None],
            "attention_head_dim": [0, 7, -8, None, "8", [8], [0, 8], 2.5],
            "num_attention_heads": [0, 7, 8],
            "block_out_channels": [[], None, "x", [32], [32, 0], [32, 64, 64], 32],
            "cross_attention_dim": [0, None, 768, "32", [32]],
            "layers_per_block": [0, None, "2", [2, 0]],
            "norm_num_groups": [0, 7, "32"],
            "norm_eps": ["x", -1, 0],
            "down_block_types": [[], ["CrossAttnDownBlock2D"], "DownBlock2D", [1, 2]],
            "flip_sin_to_cos": ["yes"],
            "freq_shift": ["0"],
            "time_cond_proj_dim": [0, "256"],
            "addition_embed_type": [5],
            "_class_name": ["UNet3DConditionModel", 5],
        },
    ),
    *wrong_values(
        VAE,
        "is what every picture goes through",
        {
            "scaling_factor": [None, "0.18215", 0, -1, [0.18], math.nan, math.inf, True],
            "shift_factor": ["x"],
            "latent_channels": [0, None, "4"],
            "block_out_channels": [[], None, "32", [32, 0]],
            "in_channels": [1, 4],
            "out_channels": [0, 4, None],
            "layers_per_block": [0, "1"],
            "norm_num_groups": [0, 7, None],
            "_class_name": ["AutoencoderTiny", "VQModel"],
        },
    ),
    *wrong_values(
        TEXT,
        "is what every prompt goes through",
        {
            "num_attention_heads": [0, 7, None, "2"],
            "hidden_size": [0, 31, None],
            "num_hidden_layers": [0, None, "2", 10**6],
            "vocab_size": [0, None, -1],
            "max_position_embeddings": [0, 1, None, "77"],
            "intermediate_size": [0, None],
            "layer_norm_eps": [0, "x", None],
            "hidden_act": [None, 5],
        },
    ),
    *wrong_values(
        SCHEDULER,
        "is the noise schedule of every sampler",
        {
            "beta_start": ["evil", None, 0, -0.1, 2, [0.1], math.nan, True],
            "beta_end": ["evil", None, 0, 1, math.inf],
            "num_train_timesteps": ["evil", None, 0, -1, 1, 1000.5, 10**9, [1000]],
            "beta_schedule": ["evil", None, 5, "", "sigmoid"],
            "prediction_type": ["evil", None, 5, "flow_prediction"],
            "timestep_spacing": ["evil", None, 5],
            "steps_offset": ["1", -1, None, 10**6],
            "trained_betas": ["evil", [], [0.1, "x"], [0.1] * 3, 5],
            "clip_sample": ["evil", 1],
            "rescale_betas_zero_snr": ["evil"],
            "solver_order": ["evil", 0, 9],
            "skip_prk_steps": ["evil"],
            "set_alpha_to_one": [2],
            "use_flow_sigmas": [True],
            "final_sigmas_type": ["evil"],
        },
    ),
    Case(
        "betas that fall make no schedule",
        values(SCHEDULER, beta_start=0.5, beta_end=0.1),
        (SCHEDULER, "beta_end"),
    ),
    *wrong_values(
        TOKENIZER, "is how long a prompt may be", {"model_max_length": [0, 1, -5, "77", [77], True]}
    ),
    Case("sample_size has no default", without(UNET, "sample_size"), (UNET, "sample_size is missing")),
    # The kind of model.
    *(
        Case("another pipeline is named", values(INDEX, _class_name=name), (INDEX, name))
        for name in (
            "StableDiffusionXLPipeline",  # without its second encoder
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusion3Pipeline",
            "StableDiffusionUpscalePipeline",
            "StableDiffusionPipelineOfMyOwn",
            "FluxPipeline",
        )
    ),
    *(
        Case("a class is one name", values(INDEX, _class_name=value), (INDEX, "this worker serves"))
        for value in _NO_NAMES
    ),
    Case(
        "a model with two encoders is another family",
        values(INDEX, text_encoder_2=["transformers", "x"]),
        (INDEX,),
    ),
    # Files that are not what they should be.
    *(
        Case("configuration is a JSON object", put(name, content), (name, words))
        for name in (INDEX, UNET, VAE, TEXT, SCHEDULER, VOCAB, TOKENIZER)
        for content, words in (
            ("", "damaged"),
            ('{"a": ', "damaged"),
            ("[]", "JSON object"),
            ("\ufeff{}", "byte order mark"),
            (b"\xff\xfe{\x00}\x00", "no text"),
            ('{"a": ' * 5000, "damaged"),
        )
    ),
    Case("a huge configuration is not read", put(UNET, " " * 65_000_000 + "{}"), (UNET, "65000002 bytes")),
    Case(
        "a number of 5000 digits is no number",
        put(VAE, '{"latent_channels": ' + "9" * 5000 + "}"),
        (VAE, "damaged"),
    ),
    *(
        Case("a file that is missing is named", missing(name), (name, "is missing"))
        for name in (
            INDEX,
            UNET,
            VAE,
            TEXT,
            SCHEDULER,
            VOCAB,
            MERGES,
            UNET_WEIGHTS,
            VAE_WEIGHTS,
            TEXT_WEIGHTS,
        )
    ),
    *(
        Case("a link to itself cannot be read", link(name, Path(name).name), (name, "cannot be read"))
        for name in (INDEX, UNET, SCHEDULER, MERGES, UNET_WEIGHTS)
    ),
    *(
        Case("a pipe would be waited for for ever", pipe(name), (name, "device or a pipe"))
        for name in (INDEX, VAE, VOCAB, TEXT_WEIGHTS)
    ),
    *(
        Case("a folder in a file's place cannot be read", is_folder(name), (name, "Is a directory"))
        for name in (UNET, MERGES, VAE_WEIGHTS)
    ),
    Case(
        "an endless file is no configuration", link(SCHEDULER, "/dev/zero"), (SCHEDULER, "device or a pipe")
    ),
    Case(
        "a component that is a file is missing",
        both(lambda folder: shutil.rmtree(folder / "vae"), lambda folder: (folder / "vae").write_text("x")),
        ("vae", "is missing"),
    ),
    # The tokenizer.
    Case("an empty vocabulary holds nothing", put(VOCAB, "{}"), (VOCAB, "empty")),
    Case("merges are needed", put(MERGES, "#version: 0.2\n"), (MERGES, "no merges")),
    Case("a token's number must be in the embedding", values(VOCAB, zebra=49407), (VOCAB, "zebra")),
    Case("a token's number is a number", values(VOCAB, zebra="5"), (VOCAB, "zebra")),
    Case("a token's number is not negative", values(VOCAB, zebra=-1), (VOCAB, "zebra")),
    Case(
        "a vocabulary without its special tokens makes no tokenizer", put(VOCAB, '{"a": 0}'), ("tokenizer",)
    ),
    Case("merges of words that are not there make none", put(MERGES, "q x\nqq\n"), ("tokenizer",)),
    Case(
        "a tokenizer.json without a tokenizer is damaged",
        put("tokenizer/tokenizer.json", '{"model": 5}'),
        ("tokenizer/tokenizer.json", "no tokenizer"),
    ),
    Case(
        "a tokenizer.json with half of one does not load",
        put("tokenizer/tokenizer.json", '{"model": {"vocab": {"a": 0}}}'),
        ("tokenizer",),
    ),
    # The weights.
    *(
        Case("weights that are cut off are told by their size", cut(name, keep), (name, "damaged"))
        for name in (UNET_WEIGHTS, VAE_WEIGHTS, TEXT_WEIGHTS)
        for keep in (0, 0.01, 0.5, 0.999)
    ),
    *(
        Case("NaN makes black pictures only", tensors(name, first(lambda t: t * math.nan)), (folder, "NaN"))
        for name, folder in ((UNET_WEIGHTS, "unet"), (VAE_WEIGHTS, "vae"), (TEXT_WEIGHTS, "text_encoder"))
    ),
    *(
        Case(
            "infinity, even one, makes black pictures",
            tensors(name, first(one_infinite)),
            (folder, "infinity"),
        )
        for one_infinite in (lambda t: torch.where(torch.arange(t.numel()).view(t.shape) == 0, math.inf, t),)
        for name, folder in ((UNET_WEIGHTS, "unet"), (VAE_WEIGHTS, "vae"), (TEXT_WEIGHTS, "text_encoder"))
    ),
    *(
        Case(
            "a weight of another shape does not fit", tensors(name, first(lambda t: t[:1].clone())), (folder,)
        )
        for name, folder in ((UNET_WEIGHTS, "unet"), (VAE_WEIGHTS, "vae"), (TEXT_WEIGHTS, "text_encoder"))
    ),
    *(
        Case(
            "a weight that lacks is named",
            tensors(name, lambda loaded: loaded.pop(min(loaded))),
            (folder, "lacks"),
        )
        for name, folder in ((UNET_WEIGHTS, "unet"), (VAE_WEIGHTS, "vae"), (TEXT_WEIGHTS, "text_encoder"))
    ),
    *(
        Case(
            "weights are floating-point numbers",
            tensors(name, first(lambda t: t.to(torch.int32))),
            (name, "I32"),
        )
        for name in (UNET_WEIGHTS, VAE_WEIGHTS, TEXT_WEIGHTS)
    ),
    *(
        Case(f"the header is {what}", header(UNET_WEIGHTS, change), (UNET_WEIGHTS, "damaged"))
        for what, change in (
            ("of a type that is none", first_entry(dtype="F7")),
            ("of a type that is a list", first_entry(dtype=["F32"])),
            ("of a shape that is none", first_entry(shape=[-1, 2])),
            ("of a shape that is text", first_entry(shape="2x2")),
            ("of a shape that needs more than is there", first_entry(shape=[10**9, 10**9])),
            ("of offsets that run backwards", first_entry(data_offsets=[64, 0])),
            ("of offsets beyond the end", first_entry(data_offsets=[0, 10**15])),
            ("of offsets that are text", first_entry(data_offsets=["0", "64"])),
            ("of numbers only", lambda content: content.update(dict.fromkeys(content, 5))),
            ("empty", lambda content: content.clear()),
        )
    ),
    Case(
        "a header of gigabytes is not read",
        put(VAE_WEIGHTS, struct.pack("<Q", 2**62) + b"{}"),
        (VAE_WEIGHTS,),
    ),
    Case("a web page is no model", put(VAE_WEIGHTS, "<!DOCTYPE html>" * 9), (VAE_WEIGHTS, "damaged")),
    Case(
        "a pickle is not read",
        both(missing(UNET_WEIGHTS), put("unet/diffusion_pytorch_model.bin", b"\x80\x02}")),
        (UNET_WEIGHTS, "can run code"),
    ),
    Case(
        "a shard's name is a file's name",
        both(
            missing(UNET_WEIGHTS),
            put(f"{UNET_WEIGHTS}.index.json", '{"weight_map": {"a": "../../etc/passwd"}}'),
        ),
        ("index.json", "passwd"),
    ),
    Case(
        "a shard that is missing is named",
        both(
            missing(UNET_WEIGHTS), put(f"{UNET_WEIGHTS}.index.json", '{"weight_map": {"a": "a.safetensors"}}')
        ),
        ("unet/a.safetensors", "is missing"),
    ),
    Case(
        "a Git LFS pointer says how to get the file",
        put(TEXT_WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        (TEXT_WEIGHTS, "git lfs pull"),
    ),
    Case(
        "another model's VAE does not fit",
        values(VAE, latent_channels=8),
        ("does not fit the VAE", "latent_channels 8"),
    ),
    Case(
        "weights of another shape than the configuration's do not fit",
        both(values(VAE, latent_channels=16), values(UNET, out_channels=16)),
        ("unet", "its weight conv_out.bias has the shape [4], and should have [16]"),
    ),
    Case(
        "blocks that diffusers does not know are no model",
        values(UNET, down_block_types=["EvilBlock", "DownBlock2D"]),
        ("unet", "EvilBlock"),
    ),
    Case("an activation that nobody knows is no model", values(VAE, act_fn="evil"), ("vae",)),
    Case("an activation that nobody knows is no encoder", values(TEXT, hidden_act="evil"), ("text_encoder",)),
    Case(
        "weights for what the model has not are not read as another",
        values(UNET, quantization_config={"quant_method": "evil"}),
        ("unet",),
    ),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model without fault."""
    folder = tmp_path_factory.mktemp("hostile") / "whole"
    make_diffusers_folder(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    copy = tmp_path / "model"
    shutil.copytree(whole, copy, copy_function=os.link)
    return copy


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A start reserves the process's cores for its engine."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(folder: Path) -> None:
    """What a worker does before it says that it is ready."""
    settings = Settings(
        _env_file=None, model_dir=folder, device=Device.CPU, keep_memory=False, default_steps=4
    )
    build_worker(settings).engine.close(finish=False)


def test_the_model_without_fault_starts(folder: Path) -> None:
    start(folder)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i].expects}")
def test_a_damaged_model_is_refused_in_one_sentence_that_names_it(folder: Path, index: int) -> None:
    case = CASES[index]
    case.damage(folder)
    with pytest.raises(ModelError) as refusal:
        start(folder)
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) < 600, message
    for part in case.names:
        assert part in message


class TestOddFolders:
    @pytest.mark.parametrize(
        "path",
        [
            "x" * 5000,
            "/" + "x/" * 3000,
            "x" * 300,
            "/dev/null",
            "/proc/self/mem",
            "/nowhere",
            ".",
            "/",
            "\u2603\n\x1b[31m",
        ],
        ids=lambda path: ascii(path[:12]),
    )
    def test_what_is_no_model_folder_is_refused_in_one_short_line(self, path: str) -> None:
        with pytest.raises(ModelError) as refusal:
            start(Path(path))
        message = str(refusal.value)
        assert message.isprintable()
        assert len(message) < 600

    def test_a_link_to_itself_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(ModelError, match="loop cannot be read: Too many levels"):
            start(tmp_path / "loop")

    def test_a_folder_by_a_link_is_served(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "linked").symlink_to(folder)
        start(tmp_path / "linked")

    @pytest.mark.parametrize(
        "damage", [missing("README.md"), put("unet/notes.json", "{"), put("x.safetensors", "x")]
    )
    def test_what_is_not_needed_may_be_damaged(self, folder: Path, damage: Damage) -> None:
        damage(folder)
        start(folder)

    @pytest.mark.parametrize(
        "damage",
        [
            values(UNET, sample_size=[8, 16]),
            values(SCHEDULER, prediction_type="v_prediction", rescale_betas_zero_snr=True),
            values(SCHEDULER, trained_betas=[0.001 + i / 100_000 for i in range(1000)]),
            values(SCHEDULER, lambda_min_clipped=-math.inf, solver_order=2, final_sigmas_type="zero"),
            without(SCHEDULER, "beta_schedule", "num_train_timesteps", "steps_offset"),
            values(TOKENIZER, model_max_length=10**30),
            tensors(UNET_WEIGHTS, lambda loaded: loaded.update({k: v.double() for k, v in loaded.items()})),
            tensors(VAE_WEIGHTS, lambda loaded: loaded.update({k: v.bfloat16() for k, v in loaded.items()})),
        ],
        ids=[
            "two sides",
            "zero snr",
            "betas",
            "minus infinity",
            "defaults",
            "no limit",
            "float64",
            "bfloat16",
        ],
    )
    def test_what_real_models_have_is_served(self, folder: Path, damage: Damage) -> None:
        damage(folder)
        start(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (values(UNET, sample_size=None), "sample_size"),
        (values(SCHEDULER, beta_schedule="evil"), "beta_schedule"),
        (tensors(UNET_WEIGHTS, first(lambda t: t * math.nan)), "NaN"),
    ],
    ids=["configuration", "schedule", "weights"],
)
def test_the_process_ends_with_the_sentence_and_no_traceback(
    folder: Path, damage: Damage, named: str
) -> None:
    damage(folder)
    done = subprocess.run(
        [sys.executable, "handler.py"],
        cwd=ROOT,
        env={**os.environ, "MODEL_DIR": str(folder), "DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert f"The worker cannot start. {folder}" in done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
