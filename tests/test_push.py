"""adaptkit export --push: what arrives at a server that speaks as the hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commandline import call, data_root, tiny
from huggingface_hub import constants

from adaptkit.errors import AdaptError, MachineError
from adaptkit.storage import hub
from adaptkit.storage.pushing import push

TOKEN, NO = "hf_of_a_test", "the stub says no"


@dataclass
class Stub:
    """The hub as far as a push asks it; large files go by the LFS protocol, as safetensors do."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    commits: int = 0
    large: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)  # a part of a path -> status
    public: bool = False
    without_token: list[str] = field(default_factory=list)  # requests

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.calls.append((method, path.partition("?")[0]))
        for part, status in self.refuse.items():
            if part in path:
                return status, {"error": NO, "errors": [{"message": NO}], "warnings": []}
        if path.endswith("/api/repos/create"):
            self.made.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/model"}
        if "validate-yaml" in path:
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            return 200, {"files": [{"path": n, "shouldIgnore": False,
                                    "uploadMode": modes[n.endswith(".safetensors")]}
                                   for n in names]}  # fmt: skip
        if "/objects/batch" in path:
            found = [{**one, "actions": {"upload": {"href": f"{self.url}/put/{one['oid']}"}}}
                     for one in json.loads(body)["objects"]]  # fmt: skip
            return 200, {"transfer": "basic", "objects": found}
        if method == "PUT":
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if "/commit/" in path:
            self.commits += 1
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.files[value["path"]] = self.large[value["oid"]]
            return 200, {"commitUrl": f"{self.url}/me/model/commit/c0ffee", "commitOid": "c0ffee"}
        return 200, {"id": "me/model", "private": not self.public, "sha": "0", "siblings": []}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    made = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command != "PUT" and self.command != "HEAD":
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    made.without_token.append(f"{self.command} {self.path} {self.headers}")
            status, found = made.answer(self.command, self.path, body)
            if not status:
                self.close_connection = True
                return
            sent = b"" if self.command == "HEAD" else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_HEAD = reply

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.reachable.cache_clear()
    yield made
    hub.reachable.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any, checkpoints: Any) -> Path:
    place = tmp_path_factory.mktemp("push")
    data = f"data.root={data_root(place / 'data')}"
    words = [*tiny(checkpoints["bert"]), "method=lora", "task=sst2", data]
    done = call("train", *words, f"output_dir={place / 'run'}")
    assert done.status == 0, done.err
    return place / "run"


def pushed(run: Path, out: Path, *words: str, kind: str = "peft") -> Any:
    return call("export", run, "--format", kind, "--out", out, "--push", "me/model", *words)


def test_what_arrives_is_what_the_folder_holds(stub: Stub, run: Path, tmp_path: Path) -> None:
    done = pushed(run, tmp_path / "out", "--private")
    assert done.status == 0, done.err
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert stub.files == files
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= files.keys()
    digest = hashlib.sha256(files["adapter_model.safetensors"]).hexdigest()
    assert stub.large.keys() == {digest}
    assert stub.commits == 1
    assert [(one["name"], one["organization"]) for one in stub.made] == [("model", "me")]
    made = stub.made[0]
    assert made.get("visibility") == "private" or made.get("private") is True
    assert stub.without_token == []
    for name in files:
        assert f"  {name} (" in done.out
    assert f"{stub.url}/me/model: {len(files)} files in commit c0ffee" in done.out
    # The card loads it by its name there, and no file names a folder of this machine.
    assert "PeftModel.from_pretrained(body, 'me/model')" in files["README.md"].decode()
    assert not [name for name, content in files.items() if str(run.parents[1]).encode() in content]


def test_a_public_repository_is_not_sent_to_as_a_private_one(stub: Stub, tmp_path: Path) -> None:
    stub.public = True
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(AdaptError, match="exists and is public"):
        push(tmp_path, "me/model", private=True)
    assert not stub.files and not stub.commits
    assert push(tmp_path, "me/model", private=False).files == {"README.md": 1}
    assert not stub.made[1].get("private") and "visibility" not in stub.made[1]


@pytest.mark.parametrize(
    ("refused", "status", "words"),
    (
        ({"repos/create": 401, "/api/models/": 401}, 2, "does not accept the token"),
        ({"repos/create": 403, "/api/models/": 404}, 2, "no right to write"),
        ({"repos/create": 404}, 2, "knows no such owner"),
        ({"/preupload/": 403}, 2, "no right to write"),
        ({"/commit/": 400}, 2, "the hub answered 400: the stub says no"),
        ({"/commit/": 500}, 1, "the hub answered 500"),
        ({"validate-yaml": 400}, 2, "the stub says no"),
    ),
)
def test_a_refusal_is_a_sentence(
    refused: dict[str, int], status: int, words: str, stub: Stub, tmp_path: Path
) -> None:
    stub.refuse = refused
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    with pytest.raises(AdaptError) as caught:
        push(tmp_path, "me/model", private=False)
    said = str(caught.value)
    assert caught.value.status == status and "\n" not in said
    assert words in said and f"hf upload me/model {tmp_path}" in said and not stub.files
    assert "--private" not in said


@pytest.mark.parametrize("status", (200, 409))  # a proxy's page; a conflict without an address
def test_what_is_no_hub_is_a_sentence(stub: Stub, tmp_path: Path, status: int) -> None:
    """The way out makes what was asked for: a private repository."""
    stub.refuse = {"repos/create": status}
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "README.md").write_text("x")
    with pytest.raises(MachineError, match="does not answer as a hub does") as caught:
        push(folder, "me/model", private=True)
    assert shlex.join(["hf", "upload", "me/model", str(folder), "--private"]) in str(caught.value)


def test_a_hub_that_goes_away_is_a_sentence(stub: Stub, run: Path, tmp_path: Path) -> None:
    """It answers before the export and not after it: the folder stays."""
    stub.refuse = {"repos/create": 0}
    done = pushed(run, tmp_path / "out", kind="card")
    assert (done.status, done.err.count("\n")) == (1, 1), done.err
    assert "cannot be reached" in done.err and (tmp_path / "out" / "README.md").is_file()


@pytest.mark.parametrize("answer", [{}, [], "<html>"])
def test_an_answer_of_another_kind_is_a_sentence(
    answer: Any, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub, "answer", lambda *_: (200, answer))
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(MachineError, match=r"does not answer as a hub does.*hf upload me/model"):
        push(tmp_path, "me/model", private=False)


def test_what_stops_a_push_is_found_before_the_export(
    stub: Stub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        done = call("export", run, "--format", "card", "--out", tmp_path / "out", *words)
        assert done.err.count("\n") == 1 and not (tmp_path / "out").exists(), done.err
        return f"{done.status} {done.err}"

    for name in ("model", "a/b/c", "me/mo del", "=/x", "me/..", f"me/{'x' * 100}"):
        assert "2 " in refused("--push", name) and "must be OWNER/NAME" in refused("--push", name)
    assert "Add --push" in refused("--private")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert refused("--push", "me/model").startswith("2 ") and not stub.calls
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.reachable.cache_clear()
    found = refused("--push", "me/model")
    assert found.startswith("1 ") and "does not answer" in found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused("--push", "me/model")
