"""Send a saved model's folder to the Hugging Face hub, or say what would be sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel.checkpoint.sums import CARD
from bilevel.errors import UserError, listed
from bilevel.reading import read_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["Push", "Upload"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Upload:
    """A file that is sent.

    Attributes:
        name: in the repository.
        content: where it lies, or what it holds.
        size: in bytes.
    """

    name: str
    content: Path | bytes
    size: int


@dataclass(frozen=True)
class Push:
    """Where to send a folder.

    Attributes:
        name: USER/NAME on the hub.
        private: only its owner may see it.

    Raises:
        UserError: it is no such name.
    """

    name: str
    private: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or ".." in self.name or "--" in self.name:
            raise UserError(
                f"hub={self.name}: this must be USER/NAME, of letters, digits, '-', '_' and '.'"
            )

    def uploads(self, folder: Path) -> list[Upload]:
        """The files of a folder, as they are sent: the card's lines name the repository.

        Raises:
            UserError: there is no card in the folder.
        """
        from experiments.artefacts.card_lines import with_folder

        card = with_folder(read_text(folder / CARD), self.name).encode()
        return [Upload(CARD, card, len(card)), *_others(folder)]

    def told(self, folder: Path) -> str:
        """What would be sent, a line for each file; nothing is asked of the network."""
        from huggingface_hub import constants

        found = self.uploads(folder)
        shown = "private" if self.private else "public"
        lines = [f"would send {folder} to {constants.ENDPOINT}/{self.name} ({shown} if it is new):"]
        lines += [f"  {upload.name:32} {_size(upload.size):>12}" for upload in found]
        return "\n".join([*lines, f"  {'in all':32} {_size(sum(u.size for u in found)):>12}"])

    def token(self) -> str:
        """The token that the hub knows its user by.

        Raises:
            UserError: there is none.
        """
        from huggingface_hub import get_token

        found = get_token()
        if found is None:
            raise UserError(
                f"hub={self.name}: there is no token for the hub; log in by `hf auth login`, or "
                "set HF_TOKEN (dry_run=true needs none)"
            )
        return found

    def send(self, folder: Path, message: str) -> str:
        """Send a folder in one commit; returns where it is now.

        Args:
            folder: of a saved model.
            message: of the commit.

        Raises:
            UserError: there is no token, the hub cannot be reached or refuses, or the repository is
                public where a private one was asked for, or holds another kind of model.
        """
        from huggingface_hub import CommitOperationAdd, HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

        api = HfApi(endpoint=constants.ENDPOINT, token=self.token())
        uploads = self.uploads(folder)
        try:
            self._check_repository(api, uploads)
            url = api.create_repo(self.name, private=self.private or None, exist_ok=True)
            sent = [CommitOperationAdd(u.name, _given(u.content)) for u in uploads]
            api.create_commit(self.name, sent, commit_message=message)
        except OfflineModeIsEnabled as error:
            raise UserError(f"hub={self.name}: HF_HUB_OFFLINE=1 forbids to ask the hub") from error
        except HfHubHTTPError as error:
            raise UserError(f"hub={self.name}: the hub refuses: {_reason(error)}") from error
        except (HTTPError, ConnectionError) as error:
            raise UserError(
                f"hub={self.name}: {constants.ENDPOINT} cannot be reached ({error})"
            ) from error
        except (RuntimeError, ValueError) as error:  # of a large file's upload
            if isinstance(error, UserError):
                raise
            raise UserError(f"hub={self.name}: the upload failed: {error}") from error
        return str(url)

    def _check_repository(self, api: HfApi, uploads: list[Upload]) -> None:
        """Look at a repository that is there already."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = api.model_info(self.name)
        except RepositoryNotFoundError:
            return
        if self.private and info.private is False:
            raise UserError(
                f"hub={self.name} is there already and public, and private=true was asked for: "
                "make it private first, or take another name"
            )
        kinds = ("adapter_config.json", "config.json")
        there = {file.rfilename for file in info.siblings or ()}
        new = {upload.name for upload in uploads}
        other = [kind for kind in kinds if kind in there and kind not in new]
        if other:
            raise UserError(
                f"hub={self.name} holds another kind of model ({listed(other)}), and the two would "
                "be read as one: take another name"
            )


def _others(folder: Path) -> Iterator[Upload]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != CARD and not path.name.startswith("."):
            yield Upload(path.name, path, path.stat().st_size)


def _given(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)


def _reason(error: HfHubHTTPError) -> str:
    """The hub's own words, and what to do where that is known."""
    status = error.response.status_code
    known = {
        401: "it does not know the token; log in anew by `hf auth login`",
        403: "the token may not write there; it needs the right to write, and USER must be you or "
        "an organisation of yours",
    }
    said = error.server_message or str(error).strip().partition("\n")[0]
    return f"{known[status]} ({said})" if status in known else f"{said} (status {status})"


def _size(size: float) -> str:
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == UNITS[0] else f"{size:.1f} {unit}"
