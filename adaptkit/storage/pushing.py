"""Sending an exported folder to the hub, in one commit. No torch."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit import __version__
from adaptkit.errors import AdaptError, MachineError, invalid
from adaptkit.storage import hub

REFUSED = {
    401: "the hub does not accept the token. Log in again (hf auth login), or set HF_TOKEN",
    403: "the token has no right to write there. Use one with the role write, and an owner that "
    "it may write for",
    404: "the hub knows no such owner, or the token may not see it. Correct OWNER/NAME",
}


@dataclass(frozen=True)
class Sent:
    """What was sent."""

    url: str
    commit: str
    files: dict[str, int]  # name in the repository -> bytes


def check_push(name: str) -> None:
    """Find what would stop a push before anything is exported.

    Raises:
        AdaptError: the name is not OWNER/NAME, the network is switched off, or there is no token.
        MachineError: the hub does not answer.
    """
    from huggingface_hub import get_token

    if not hub.is_hub_id(name) or "/" not in name or name.endswith((".git", ".ipynb", "-", ".")):
        raise invalid(
            "--push", name, "must be OWNER/NAME, of letters, digits and - _ . between them, "
            "at most 96 in all",
            "Name your account or organization and the model",
        )  # fmt: skip
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise invalid("--push", name, "HF_HUB_OFFLINE switches the hub off", "Unset it")
    if get_token() is None:
        raise invalid("--push", name, "there is no token for the hub",
                      "Log in (hf auth login), or set HF_TOKEN")  # fmt: skip
    if not hub.reachable():
        raise MachineError(f"--push={name}: the hub does not answer. Try again later.")


def push(folder: Path, name: str, private: bool) -> Sent:
    """Send all files of a folder to a repository, which is made if it is not there.

    Raises:
        AdaptError: the hub refuses, or --private asks for what a public repository is not.
        MachineError: the hub failed, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with in_words(folder, name, private):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.repo_info(name).private:
            raise AdaptError(
                f"--private: {name} exists and is public, so that nothing was sent. Make it "
                "private in its settings, or give another name."
            )
        # Not upload_folder, which may cut a large folder into several commits.
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=file, path_or_fileobj=path)
            for file, path in files.items()
        ]
        done = api.create_commit(
            name, operations, commit_message=f"Exported by adaptkit {__version__}"
        )
    sizes = {file: path.stat().st_size for file, path in files.items()}
    return Sent(f"{api.endpoint}/{name}", done.oid, sizes)


@contextmanager
def in_words(folder: Path, name: str, private: bool) -> Iterator[None]:
    """Say in a sentence what the hub answered.

    Raises:
        AdaptError: the user can change it.
        MachineError: the hub or the network failed.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    # The same visibility: without the flag, hf makes a public repository.
    words = ["hf", "upload", name, str(folder), *(["--private"] if private else [])]
    again = f"{folder} is whole; send it again with: {shlex.join(words)}"
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        why = REFUSED.get(status, f"the hub answered {status}: {said(error)}")
        kind = AdaptError if 400 <= status < 500 and status not in (408, 429) else MachineError
        raise kind(f"--push={name}: {why}. {again}") from error
    except (json.JSONDecodeError, LookupError, TypeError) as error:  # a proxy's page, for example
        raise MachineError(
            f"--push={name}: {os.environ.get('HF_ENDPOINT') or 'the hub'} does not answer as a "
            f"hub does. {again}"
        ) from error
    except ValueError as error:  # of the card's metadata, for example
        raise AdaptError(f"--push={name}: {said(error)}. {again}") from error
    except (OSError, HTTPError, RuntimeError) as error:  # RuntimeError: of the hub's own transport
        raise MachineError(
            f"--push={name}: the hub cannot be reached ({said(error)}). {again}"
        ) from error


def said(error: Exception) -> str:
    """Return what the hub's server said, or else its library, in one line."""
    message = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return re.sub(r"\s+", " ", message).strip(" .")[:200]
