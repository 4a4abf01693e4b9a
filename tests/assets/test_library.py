"""A deployment's add-ons: which folders count, and what its settings let in."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sdworker.assets import AddOnError, AddOns, Kind
from sdworker.assets.library import _cache_folder
from sdworker.process.redaction import redact
from sdworker.settings import Settings
from tests.assets.conftest import Server

TOKEN = "hf_0123456789abcdef"


def settings(**given: Any) -> Settings:
    return Settings.model_construct(**given)


def add_ons(tmp_path: Path, **given: Any) -> AddOns:
    given = {"addon_cache_dir": tmp_path / "cache", **given}
    return AddOns.from_settings(settings(**given), baked=tmp_path / "baked", volume=tmp_path / "volume")


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or path.as_posix())
    return path


@pytest.mark.parametrize("kind", Kind)
async def test_of_one_name_the_deployments_own_goes_before_the_volumes_and_the_images(
    tmp_path: Path, kind: Kind
) -> None:
    baked = put(tmp_path / "baked" / kind.folder / "a.safetensors")
    known = add_ons(tmp_path, **{kind.setting: tmp_path / "own"})
    assert await known.find(kind, "a") == baked
    volume = put(tmp_path / "volume" / kind.folder / "a.safetensors")
    assert await known.find(kind, "a") == volume
    own = put(tmp_path / "own" / "a.safetensors")
    assert await known.find(kind, "a") == own
    assert known.names(kind) == ["a"]


async def test_a_controlnet_is_a_file_or_a_folder_as_diffusers_saves_it(tmp_path: Path) -> None:
    put(tmp_path / "baked/controlnets/edges/config.json")
    put(tmp_path / "baked/controlnets/edges/diffusion_pytorch_model.safetensors")
    put(tmp_path / "baked/controlnets/more/depth.safetensors")
    known = add_ons(tmp_path)
    assert known.names(Kind.CONTROLNET) == ["edges", "more/depth"]
    assert await known.find(Kind.CONTROLNET, "Edges") == tmp_path / "baked/controlnets/edges"


async def test_the_repositorys_own_are_there_without_any_setting() -> None:
    known = AddOns.from_settings(settings())
    assert {"pencil", "pixels"} <= set(known.names(Kind.LORA))
    assert (await known.find(Kind.LORA, "pencil")).is_file()


async def test_a_name_of_one_kind_is_none_of_another(tmp_path: Path) -> None:
    put(tmp_path / "baked/loras/pencil.safetensors")
    with pytest.raises(AddOnError, match="there is no embedding named 'pencil'"):
        await add_ons(tmp_path).find(Kind.EMBEDDING, "pencil")


async def test_nothing_is_fetched_unless_its_host_is_named(tmp_path: Path) -> None:
    with pytest.raises(AddOnError, match="ADDON_HOSTS allows none"):
        await add_ons(tmp_path).find(Kind.LORA, "https://huggingface.co/a/b/resolve/main/c.safetensors")
    with pytest.raises(AddOnError, match="there is no LoRA named 'owner/name'"):
        await add_ons(tmp_path).find(Kind.LORA, "owner/name")


async def test_what_is_fetched_is_kept_where_the_deployment_says(tmp_path: Path, hub: Server) -> None:
    hub.files["/owner/name/resolve/main/a.safetensors"] = b"a"
    known = add_ons(
        tmp_path,
        addon_hosts=("huggingface.co",),
        hf_endpoint=hub.base,
        hf_token=SecretStr(TOKEN),
        runpod_allow_private_download_urls=True,
    )
    found = await known.find(Kind.LORA, "owner/name:a.safetensors")
    assert found.read_bytes() == b"a"
    assert (tmp_path / "cache") in found.parents
    assert hub.requests[0][1]["Authorization"] == f"Bearer {TOKEN}"


def test_the_volume_keeps_them_where_there_is_one(tmp_path: Path) -> None:
    assert _cache_folder(settings(), tmp_path) == tmp_path / "addons"
    assert _cache_folder(settings(), tmp_path / "missing").name.startswith("sdworker-addons-")


def test_tokens_show_up_in_no_text_of_the_settings_and_in_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("CIVITAI_TOKEN", "civitai-0123456789")
    assert TOKEN not in repr(settings(hf_token=SecretStr(TOKEN)))
    said = redact(f"GET with {TOKEN} and civitai-0123456789; HF_TOKEN=other-token")
    assert TOKEN not in said
    assert "civitai-0123" not in said
    assert "other-token" not in said
