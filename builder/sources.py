"""From what the user names to a model: an id on a hub, a local folder, a single file on either side.

`resolve` finds out what exactly is meant, at little cost; `Origin.stage` then has it as a diffusers folder,
which may take a download.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import manifest, single_file
from builder.assemble import read_json
from builder.errors import FetchError
from builder.hub import Hub, RemoteFile, Repository
from builder.layout import INDEX, plan_files
from builder.manifest import Source

__all__ = ["DEFAULT_MODEL", "DEFAULT_REVISION", "Origin", "resolve"]

DEFAULT_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
DEFAULT_REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"

_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+?))?(/(?P<file>[\w./ -]+\.\w+))?")

log = logging.getLogger("fetch_model")


@dataclass(frozen=True)
class Origin:
    """A model, exactly named, that can be had as a folder in diffusers' layout."""

    source: Source
    licence: str | None
    stage: Callable[[Path], Path]
    """Given a folder to work in, returns the model's folder: one in it, or the user's own."""
    ours: bool
    """Whether the staged folder lies in the folder to work in, and so may be shared by hard links."""


def resolve(
    model: str,
    hub: Hub,
    *,
    revision: str | None = None,
    config_from: str | None = None,
    with_safety: bool = False,
) -> Origin:
    """What is meant by `model`; see `fetch_model.fetch` for its forms. What exists locally comes first.

    Args:
        with_safety: Its safety checker is wanted too, which a single file does not have.

    Raises:
        FetchError: if there is none such.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _local_folder(path, with_safety)
    if path.is_file():
        _refuse_safety_of(path.name, with_safety)
        single_file.check(path)
        source = Source("file", path.name, sha256=manifest.sha256_of(path))
        return _single_file(source, None, lambda _: path, config_from, hub)

    repo_id, pin, file_name = _parse_id(model)
    repository = _look_up(repo_id, revision or pin, hub)
    if file_name is None:
        return Origin(
            Source("hub", repo_id, repository.commit, safety=with_safety),
            repository.licence,
            lambda work: _download_model(repository, hub, work, with_weights=True, with_safety=with_safety),
            ours=True,
        )
    _refuse_safety_of(file_name, with_safety)
    file = _find_file(repository, file_name)
    return _single_file(
        Source("hub-file", f"{repo_id}/{file.name}", repository.commit, file.sha256),
        repository.licence,
        lambda work: _download(repository, hub, work, [file.name]) / file.name,
        config_from,
        hub,
    )


def _refuse_safety_of(file: str, with_safety: bool) -> None:
    if with_safety:
        raise FetchError(f"{file} is a single file, which has no safety checker; SAFETY_CHECKER may name one")


def _local_folder(path: Path, with_safety: bool) -> Origin:
    names = [item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()]
    if INDEX not in names:
        checkpoints = [name for name in names if name.endswith(".safetensors") and "/" not in name]
        hint = f"; did you mean the file {path / checkpoints[0]}?" if checkpoints else ""
        raise FetchError(f"{path} is not a model in diffusers' layout: it has no {INDEX}{hint}")
    plan = plan_files(read_json(path / INDEX), names, with_safety=with_safety)
    known = manifest.read(path)
    if known and (differing := manifest.problems(path, known)):
        raise FetchError(f"{path} is not what its own {manifest.MANIFEST} says: {differing[0]}")
    source = Source(
        "folder", path.resolve().name, sha256=manifest.digest_of(path, plan.sources), safety=with_safety
    )
    return Origin(source, known.licence if known else None, lambda _: path, ours=False)


def _single_file(
    source: Source, licence: str | None, get: Callable[[Path], Path], config_from: str | None, hub: Hub
) -> Origin:
    """A checkpoint that `get` brings, with the configuration of another model, or its family's own."""
    configs, stage_configs = _resolve_configs(config_from, hub) if config_from else (None, None)

    def stage(work: Path) -> Path:
        checkpoint = get(work)
        single_file.unpack(checkpoint, stage_configs and stage_configs(work), work / "unpacked")
        return work / "unpacked"

    whole = Source(source.kind, source.name, source.revision, source.sha256, configs)
    return Origin(whole, licence, stage, ours=True)


def _resolve_configs(model: str, hub: Hub) -> tuple[Source, Callable[[Path], Path]]:
    """Like `resolve`, for a model of which only the small files are wanted."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise FetchError(f"--config-from {path} is not a model in diffusers' layout: it has no {INDEX}")
        names = [item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()]
        plan = plan_files(read_json(path / INDEX), names, with_weights=False)
        return Source(
            "folder", path.resolve().name, sha256=manifest.digest_of(path, plan.sources)
        ), lambda _: path
    repo_id, revision, file_name = _parse_id(model)
    if file_name is not None:
        raise FetchError(f"--config-from wants a whole model, not a file: {model}")
    repository = _look_up(repo_id, revision, hub)
    return (
        Source("hub", repo_id, repository.commit),
        lambda work: _download_model(repository, hub, work, with_weights=False),
    )


def _parse_id(model: str) -> tuple[str, str | None, str | None]:
    """`owner/name[@revision][/file]` in its three parts."""
    match = _ID.fullmatch(model)
    if not match:
        raise FetchError(f"there is no folder or file {model}, and it is not a model id like owner/name")
    return match["repo"], match["revision"], match["file"]


def _look_up(repo_id: str, revision: str | None, hub: Hub) -> Repository:
    if revision is None and repo_id == DEFAULT_MODEL:
        revision = DEFAULT_REVISION
    repository = hub.look_up(repo_id, revision)
    if not repository.pinned:
        log.warning(
            "%s: %s is not a fixed revision; it is %s today. Pin it: --revision %s",
            repo_id, revision or "main", repository.commit, repository.commit,
        )  # fmt: skip
    return repository


def _find_file(repository: Repository, name: str) -> RemoteFile:
    if not name.endswith(".safetensors"):
        raise FetchError(f"{name} is not a .safetensors file; pickled checkpoints are refused")
    if name not in repository.files:
        others = [file for file in repository.files if file.endswith(".safetensors") and "/" not in file]
        raise FetchError(f"{repository.id} has no file {name}; it has {', '.join(others) or 'no such files'}")
    return repository.files[name]


def _download_model(
    repository: Repository, hub: Hub, work: Path, *, with_weights: bool, with_safety: bool = False
) -> Path:
    if INDEX not in repository.files:
        checkpoints = [name for name in repository.files if name.endswith(".safetensors") and "/" not in name]
        hint = f"; name one of its files: {repository.id}/{checkpoints[0]}" if checkpoints else ""
        raise FetchError(f"{repository.id} is not a model in diffusers' layout: it has no {INDEX}{hint}")
    folder = _download(repository, hub, work, [INDEX])
    plan = plan_files(
        read_json(folder / INDEX), repository.files, with_weights=with_weights, with_safety=with_safety
    )
    return _download(repository, hub, work, plan.sources)


def _download(repository: Repository, hub: Hub, work: Path, names: Sequence[str]) -> Path:
    folder = work / f"{repository.id.replace('/', '--')}@{repository.commit[:12]}"
    hub.download(repository, names, folder)
    return folder
