"""Model folder -> one commit in a repository on the Hugging Face Hub; and mirrors of the published models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd

from hrnet_zoo import __version__
from hrnet_zoo.errors import ConfigError, redact
from hrnet_zoo.weights.convert import read_file
from hrnet_zoo.zoo.catalog import list_models, model_info
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.hub import hub_api, hub_errors, require_online, require_repo
from hrnet_zoo.zoo.model_card import model_card
from hrnet_zoo.zoo.model_config import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hrnet_zoo.zoo.model_folder import save_pretrained, verify_folder


@dataclass(frozen=True)
class Pushed:
    """A commit on the Hub."""

    repo: str  # "org/name"
    commit: str  # 40 hex digits
    url: str  # of the commit
    data_sha256: str  # of its weights

    @property
    def name(self) -> str:
        """The name of exactly these weights for `create_model`."""
        return f"hf-hub:{self.repo}@{self.commit}"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts, ready for JSON."""
        return {"name": self.name, **asdict(self)}


def push(
    folder: str | Path, repo: str, *, public: bool = False, revision: str | None = None, message: str | None = None
) -> Pushed:
    """Share a model folder on the Hub: its three files and nothing else, in one commit.

    The configuration and the weights are verified first. The model card is the one in the folder, with your edits. The
    commit is the last step: if anything before it fails, the repository is unchanged.

    Args:
        folder: one that `save_pretrained` wrote.
        repo: "org/name"; created if needed, private unless `public`. An existing one keeps its visibility.
        public: make a new repository visible to everybody.
        revision: the branch to commit to; None: main.
        message: of the commit; None: a description of the model.

    Raises:
        CheckpointError: the folder is not a complete, intact model.
        ConfigError: the repository's name is impossible, or the card belongs to other weights.
        HubError, OfflineError: the Hub cannot be reached, or refuses.

    """
    folder, asked = Path(folder), f"push {folder} to {repo}"
    require_repo(repo)
    require_online(repo, asked)
    config = verify_folder(folder)
    card = read_file(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else model_card(config).encode()
    if config.data_sha256.encode() not in card:
        raise ConfigError(
            asked=asked,
            found=f"{CARD_FILE} does not name the weights beside it by their SHA-256, {config.data_sha256}",
            done="nothing was sent",
            advice=f"save the model again, or delete {CARD_FILE} to have a new one written",
        )
    files: dict[str, bytes | Path] = {  # bytes of the small ones: they were just verified
        CARD_FILE: card,
        CONFIG_FILE: config.to_json().encode(),
        WEIGHTS_FILE: folder / WEIGHTS_FILE,
    }
    api, count = hub_api(), len(config.dataset.classes)
    with hub_errors(repo, asked, "no commit was made (a repository created just now is empty)"):
        if not api.repo_exists(repo):  # exist_ok of create_repo works on the public Hub alone
            api.create_repo(repo, private=not public)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"{config.method} {config.arch} with {count} classes, by hrnet-zoo {__version__}",
            revision=revision,
        )
    return Pushed(repo, commit.oid, redact(commit.commit_url), config.data_sha256)


def push_published(organization: str, names: Sequence[str] = (), *, public: bool = False) -> Iterator[Pushed]:
    """Mirror published checkpoints in your own organization, each in a repository `ORG/<name of the row>`.

    Each is saved as a model folder and pushed, one after the other, as the iterator is consumed; without `names`, all.
    The datasets' licenses are in the cards.
    """
    rows = [model_info(name) for name in (names or list_models())]
    for row in rows:
        require_repo(f"{organization}/{row.name}")
        with tempfile.TemporaryDirectory() as folder:
            model = create_model(row.name, device="cpu")
            save_pretrained(model, folder, metrics={"miou": row.miou, "data": f"{row.dataset.title} val, as published"})
            del model
            yield push(folder, f"{organization}/{row.name}", public=public, message=f"{row.file_name}, converted")
