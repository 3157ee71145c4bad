"""Handing an export over to the Hugging Face Hub, with the model card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import huggingface_hub

from petlas.errors import UserError

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Where a token is looked for: nowhere but in the environment."""

CARD = "card.md"
"""The model card beside an adapter file, which `petlas retrain` writes."""


class HubError(UserError):
    """What keeps a push from the Hub: the message says why and what to do."""


class Push:
    """A repository of the Hub that an export goes to. Making it checks all that can be checked before any work.

    Args:
        repo: Its name, as `NAME` or `OWNER/NAME`; it is made, private, where there is none.
        adapter: The adapter file, which goes along with its card.

    Raises:
        HubError: When there is no token or card, the name is none, or the Hub cannot be reached or refuses.
    """

    def __init__(self, repo: str, adapter: Path) -> None:
        token = next((os.environ[name] for name in TOKENS if os.environ.get(name)), None)
        self._adapter, self._card = adapter, adapter.parent / CARD
        if token is None:
            raise HubError(
                "a push to the Hub needs a token that may write; make one on the Hub under Settings, Access Tokens, "
                f"and set {TOKENS[0]}=... in the environment"
            )
        if not self._card.is_file():
            raise HubError(
                f"a push takes the model card along, and there is no {CARD} beside {adapter}; petlas retrain writes "
                "it, or write one by hand"
            )
        self._api = huggingface_hub.HfApi(token=token)
        try:
            made = self._api.create_repo(repo, private=True, exist_ok=True)
        except Exception as error:
            raise _refused(repo, error) from error
        self.repo: str = made.repo_id

    def upload(self, path: Path) -> str:
        """Add the export, the adapter file and the card in one commit.

        Args:
            path: The export's file or folder.

        Returns:
            The address of the commit.

        Raises:
            HubError: When the Hub cannot be reached or refuses.
        """
        exported = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        root = path if path.is_dir() else path.parent
        files: dict[str, Path] = {file.relative_to(root).as_posix(): file for file in exported}
        files |= {self._adapter.name: self._adapter, "README.md": self._card}
        operations: list[Any] = [
            huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()
        ]
        try:
            done = self._api.create_commit(self.repo, operations, commit_message=f"petlas: {path.name}")
        except Exception as error:
            raise _refused(self.repo, error, f"; {path} is written") from error
        return str(done.commit_url)


def _refused(repo: str, error: Exception, more: str = "") -> HubError:
    """Whatever came back of a network: the library's own words, and what to do."""
    told = " ".join(str(error).split()) or type(error).__name__
    return HubError(
        f"the Hub did not take {repo} ({type(error).__name__}: {told[:300]}){more}; check the network, HF_HUB_OFFLINE, "
        f"and that {TOKENS[0]} may write to {repo}, or leave --push out and upload what is written later"
    )
