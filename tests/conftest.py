"""What all tests share: one thread, no network, and the tiny checkpoints, saved once."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything of Hugging Face is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import math
import shutil
import signal
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

if os.environ.get("PRETEND_GPU"):  # before torch is imported
    import pretended_gpu

    pretended_gpu.install()

import pytest
import torch
import transformers
from families import FAMILIES, save_tiny

# A run waits until the disk has what it wrote: in memory that takes no time.
MEMORY = "/dev/shm"
if "TMPDIR" not in os.environ and os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 2e9:
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY  # which remembers the other

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()  # no table of missing keys at every load
transformers.logging.disable_progress_bar()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a twelfth of the cases of a sampled test run by default, but at least one."""
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        cases.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        for item in cases[math.ceil(len(cases) / 12) :]:
            item.add_marker(pytest.mark.slow)


class Checkpoints:
    """Folders of tiny checkpoints, `checkpoints["bert"]`, each written when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, family: str) -> Path:
        if family not in FAMILIES:
            raise KeyError(family)
        folder = self.root / family
        if not folder.is_dir():
            save_tiny(family, folder)
        return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the cache folder of whoever runs the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """Take what lives by now out of the garbage collections that every run asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt; shells start jobs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
