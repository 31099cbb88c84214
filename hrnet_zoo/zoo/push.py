"""Model folder -> repository on the Hub, in one commit; and an organization's own mirror of the published models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hrnet_zoo import __version__
from hrnet_zoo.errors import ConfigError, OfflineError, redact
from hrnet_zoo.weights.addresses import is_offline
from hrnet_zoo.weights.build import read_file
from hrnet_zoo.zoo.catalog import list_models, model_info
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.model_card import model_card
from hrnet_zoo.zoo.model_config import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hrnet_zoo.zoo.model_folder import verify_folder
from hrnet_zoo.zoo.save import save_pretrained


@dataclass(frozen=True)
class Pushed:
    """A commit on the Hub.

    Attributes:
        repo: "org/name".
        commit: 40 hex digits.
        url: of the commit.
        data_sha256: of the weights in it.

    """

    repo: str
    commit: str
    url: str
    data_sha256: str

    @property
    def name(self) -> str:
        """What `create_model` takes for exactly these weights."""
        return f"hf-hub:{self.repo}@{self.commit}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"name": self.name, **asdict(self)}


def push(
    folder: str | Path,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
    progress: bool = True,
) -> Pushed:
    """Share a model folder on the Hub: its three files and nothing else, in one commit.

    What is to be shared is verified first: the configuration, and the weights against their digest. The model card is
    the one in the folder, as it was saved or edited since. The commit is the last step: whatever fails before it, the
    repository shows what it showed before.

    Args:
        folder: one that `save_pretrained` wrote.
        repo: "org/name"; made if it is not there, private unless `public`. One that is there stays as visible as it is.
        public: make it visible to everybody.
        revision: the branch to commit to; None: main.
        message: of the commit; None: which model it is.
        progress: show a bar on a terminal.

    Raises:
        CheckpointError: the folder is not a whole model.
        ConfigError: this can be no repository's name, or the card's metadata is broken.
        HubAuthError: no token, or none with the right to write there.
        HubError: the network, or the Hub, failed.
        OfflineError: an offline switch is on.

    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from hrnet_zoo.zoo.hub import bars
    from hrnet_zoo.zoo.hub_errors import endpoint, hub_errors, require_repo

    folder = Path(folder)
    require_repo(repo)
    config = verify_folder(folder)
    card = folder / CARD_FILE
    # Bytes, not paths, of the small files: what is committed is what was just verified.
    contents: dict[str, bytes | Path] = {
        CARD_FILE: read_file(card) if card.is_file() else model_card(config).encode(),
        CONFIG_FILE: config.to_json().encode(),
        WEIGHTS_FILE: folder / WEIGHTS_FILE,
    }
    asked = f"push {folder} to {repo}"
    if config.data_sha256.encode() not in contents[CARD_FILE]:  # type: ignore[operator]
        raise ConfigError(
            asked=asked,
            found=f"{CARD_FILE} does not name the weights beside it by their SHA-256, {config.data_sha256}",
            done="nothing was sent",
            advice=f"save the model again, or delete {CARD_FILE}: then it is written anew",
        )
    if is_offline():
        raise OfflineError(
            asked=asked,
            found="HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off",
            done="nothing was sent",
            advice="unset it",
            url=f"{endpoint()}/{repo}",
        )
    api = HfApi(endpoint=endpoint(), library_name="hrnet-zoo", library_version=__version__)
    undone = "no commit was made: the repository shows what it showed before (one made just now is empty)"
    with hub_errors(repo, asked, undone), bars(progress):
        if not api.repo_exists(repo):  # exist_ok of create_repo fails at any Hub but the public one
            api.create_repo(repo, private=not public)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            commit_message=message or f"{config.arch} with {len(config.classes)} classes, by hrnet-zoo {__version__}",
            revision=revision,
        )
    return Pushed(repo, done.oid, redact(done.commit_url), config.data_sha256)


def push_published(
    organization: str, names: Sequence[str] = (), *, public: bool = False, progress: bool = True
) -> Iterator[Pushed]:
    """Host published checkpoints in one's own organization: a repository for each, `ORG/<name of the row>`.

    Each is fetched (or taken from the cache), verified, saved as a model folder and pushed, one after the other, as the
    iterator is consumed. `create_model("hf-hub:ORG/<name>")` reads them.

    Args:
        organization: the account on the Hub.
        names: of the catalog; none: all published ones.
        public: make them visible to everybody; the terms of the datasets are in the cards.
        progress: show bars on a terminal.

    Raises:
        UnknownModelError: no row has one of the names; nothing was pushed.
        DownloadError, CheckpointError, CacheError: as `create_model`.
        ConfigError, HubError, OfflineError: as `push`.

    """
    rows = [model_info(name) for name in (names or list_models())]
    if "/" in organization:
        raise ConfigError(
            asked=f"push published checkpoints to {organization!r}",
            found="each gets a repository of its own, named after it",
            done="nothing was pushed",
            advice="name the organization alone",
        )
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            model = create_model(row.name, device="cpu", progress=progress)
            save_pretrained(model, folder, metrics={"miou": row.miou, "data": f"{row.dataset_title} val, as published"})
            del model
            message = f"{row.file_name}, converted"
            yield push(folder, f"{organization}/{row.name}", public=public, message=message, progress=progress)
