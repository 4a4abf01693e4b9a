"""How a job names LoRAs: a list, worker-stable_diffusion_v1's field, tags in the prompt; all of them add up."""

from typing import Any

import pytest

from sdworker.generation_data import parameters_text
from sdworker.request import Contract, InputError, Lora, tag_of
from sdworker.settings import Settings

CONTRACT = Contract(Settings.model_construct(), (512, 512))


def asked(given: dict[str, Any]) -> tuple[str, list[tuple[str, float, float]]]:
    request = CONTRACT.parse({"prompt": "a cat", **given})
    return request.prompt, [(lora.name, lora.scale, lora.strength_of_text) for lora in request.loras]


@pytest.mark.parametrize(
    ("prompt", "left", "loras"),
    [
        ("a cat <lora:ink:0.8>", "a cat", [("ink", 0.8, 0.8)]),
        ("<lora:ink>a cat", "a cat", [("ink", 1.0, 1.0)]),
        ("a <LoRA:ink:.5> cat", "a  cat", [("ink", 0.5, 0.5)]),
        ("a cat<lora:ink:0.5:0.8>", "a cat", [("ink", 0.8, 0.5)]),
        ("a cat<lora:ink:te=0.5:unet=0.8>", "a cat", [("ink", 0.8, 0.5)]),
        ("a cat<lora:ink:unet=0.8>", "a cat", [("ink", 0.8, 1.0)]),
        ("a cat<lora:ink:te=0>", "a cat", [("ink", 0.0, 0.0)]),
        ("a cat<lora:ink:0.3:unet=0.8>", "a cat", [("ink", 0.8, 0.3)]),
        ("a cat<lora:ink:unet=0.8:te=0.5>", "a cat", [("ink", 0.8, 0.5)]),
        ("a cat<lora:ink:0.3:0.4:te=0.5>", "a cat", [("ink", 0.4, 0.5)]),
        ("a cat<lora:ink:0>", "a cat", [("ink", 0.0, 0.0)]),
        ("a cat<lora:ink: -0.75 >", "a cat", [("ink", -0.75, -0.75)]),
        ("a cat<lora:ink:+1>", "a cat", [("ink", 1.0, 1.0)]),
        ("a cat<lora:My Ink v1.5:0.8>", "a cat", [("My Ink v1.5", 0.8, 0.8)]),
        ("a cat<lora:INK.safetensors:0.8>", "a cat", [("INK.safetensors", 0.8, 0.8)]),
        ("a cat<lora:style/ink_v2-final (1):1>", "a cat", [("style/ink_v2-final (1)", 1.0, 1.0)]),
        ("a cat<lyco:ink:0.5:0.8>", "a cat", [("ink", 0.8, 0.5)]),
        (
            "".join(f"<lora:{name}:0.5>" for name in "abcdefgh") + "x",
            "x",
            [(name, 0.5, 0.5) for name in "abcdefgh"],
        ),
        ("a cat<lyco:ink:-1>", "a cat", [("ink", -1.0, -1.0)]),
        ("<lora:a:1><lora:b:0.5>", "", [("a", 1.0, 1.0), ("b", 0.5, 0.5)]),
        ("<lora:a:0.5>x<lora:a:0.25:1>", "x", [("a", 1.5, 0.75)]),
        ("a cat<lora:owner/name:file.safetensors:0.5>", "a cat", [("owner/name:file.safetensors", 0.5, 0.5)]),
        ("a cat<lora:civitai:12345:0.5>", "a cat", [("civitai:12345", 0.5, 0.5)]),
        ("a cat<lora:civitai:12345>", "a cat", [("civitai:12345", 1.0, 1.0)]),
        ("a cat<lora:https://a.example:8000/x:0.5>", "a cat", [("https://a.example:8000/x", 0.5, 0.5)]),
        ("(a cat <lora:ink:1>:1.2)", "(a cat :1.2)", [("ink", 1.0, 1.0)]),
        ("a < lora:ink:1 > b <3", "a < lora:ink:1 > b <3", []),
    ],
)
def test_tags_are_read_as_the_web_ui_reads_them_and_leave_the_prompt(
    prompt: str, left: str, loras: list[tuple[str, float, float]]
) -> None:
    assert asked({"prompt": prompt}) == (left, loras)


def test_whichever_way_they_are_named_they_add_up() -> None:
    given = {
        "prompt": "a cat <lora:ink:0.25>",
        "loras": [{"name": "ink", "scale": 0.5}, {"name": "soft", "scale": 1, "text_scale": 0}],
        "lora": "ink",
        "lora_scale": 0.5,
    }
    assert asked(given) == ("a cat", [("ink", 1.25, 1.25), ("soft", 1.0, 0.0)])


def test_read_plainly_a_tag_is_text() -> None:
    assert asked({"prompt": "<lora:ink:1>", "prompt_syntax": "plain"}) == ("<lora:ink:1>", [])


def test_in_a_negative_prompt_a_tag_is_text_as_in_the_web_ui() -> None:
    assert asked({"negative_prompt": "<lora:ink:1>"}) == ("a cat", [])


def test_files_of_one_name_and_different_hashes_are_different() -> None:
    request = CONTRACT.parse(
        {"prompt": "x", "loras": [{"name": "a", "sha256": "0" * 64}, {"name": "a", "sha256": "1" * 64}]}
    )
    assert len(request.loras) == 2


def test_no_error_repeats_a_source_for_it_may_hold_a_token() -> None:
    secret = "https://a.example/x?token=s3cr3t"
    for given in (
        {"loras": [{"name": secret, "scale": 99}]},
        {"loras": [{"name": secret * 99}]},
        {"prompt": f"<lora:{secret}:99>"},
    ):
        with pytest.raises(InputError) as error:
            CONTRACT.parse({"prompt": "x", **given})
        assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    ("lora", "tag"),
    [
        (Lora(name="ink", scale=0.8), "<lora:ink:0.8>"),
        (Lora(name="styles/ink.safetensors", scale=0.8, text_scale=0.5), "<lora:ink:0.5:0.8>"),
        (Lora(name="https://a.example/b/ink.safetensors?token=s3cr3t"), "<lora:ink:1>"),
        (Lora(name="owner/name:sub/ink.safetensors@main"), "<lora:ink:1>"),
        (Lora(name="owner/name"), "<lora:name:1>"),
        (Lora(name="civitai:123"), "<lora:123:1>"),
    ],
)
def test_generation_data_name_them_as_the_web_ui_does_and_no_source(lora: Lora, tag: str) -> None:
    assert tag_of(lora) == tag


def test_generation_data_of_a_job_have_its_prompt_and_all_its_loras() -> None:
    request = CONTRACT.parse({"prompt": "a cat <lora:ink:0.5>", "lora": "soft", "seed": 1})
    text = parameters_text(request, seed=1, size=(512, 512), model="m")
    assert text.splitlines()[0] == "a cat <lora:soft:1> <lora:ink:0.5>"


def test_the_schema_offers_the_names_that_there_are() -> None:
    schema = CONTRACT.schema({"loras": ["ink", "soft"]})
    name = schema["$defs"]["Lora"]["properties"]["name"]
    assert name["examples"] == ["ink", "soft"]
    assert name["addOn"] == "loras"
    assert schema["properties"]["loras"]["maxItems"] == 8
