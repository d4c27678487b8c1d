"""What this machine and this installation can do, measured: for a bug report, and for speed.

The matrix peak is that of 2 n^3 operations per product of two square matrices, the best of several.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptkit.models.fast.packed import free_memory, works
from adaptkit.runs.heap import LARGE_PAGES, lends_memory
from adaptkit.storage.hub import reachable
from adaptkit.terminal.libraries import affinity, busy, cpu_quota
from adaptkit.training.precision import resolve

NEEDED = ("adaptkit", "torch", "transformers", "accelerate", "datasets", "evaluate", "hydra-core",
          "omegaconf", "numpy", "pyarrow", "safetensors", "scikit-learn", "scipy", "seqeval",
          "rouge-score", "sacrebleu", "rich")  # fmt: skip
OPTIONAL = {  # distribution -> what it is for
    "matplotlib": "pictures of probes", "peft": "tests and benchmarks", "tensorboard": "tracker",
    "wandb": "tracker", "mlflow": "tracker", "sentencepiece": "some tokenizers",
    "bitsandbytes": "quantized base models",
}  # fmt: skip
SIZE, SECONDS = 2048, 0.5  # of the matrices; spent on each number format
TIGHT = 4e9  # bytes of memory or disk below which a run of a usual model may fail


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether it slows or stops something."""

    what: str
    found: str
    advice: str = ""  # empty: all is well


def examine(threads: str, policy: str) -> list[Finding]:
    """Look at versions, processor, memory, disk and hub; takes about two seconds.

    threads, policy: OMP_NUM_THREADS and OMP_WAIT_POLICY as the user set them; empty: not set.
    """
    return [*software(), *processor(threads, policy), *devices(), *memory(), *hub()]


def version_of(name: str) -> str | None:
    """Return the version of a distribution; None: it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def software() -> list[Finding]:
    """Return the versions of Python and of the packages."""
    found = [Finding("python", f"{platform.python_version()}, {platform.platform()}")]
    for name in NEEDED:
        version = version_of(name)
        advice = "" if version else f"pip install {name}"
        found.append(Finding(name, version or "not installed", advice))
    there = {name: version_of(name) for name in OPTIONAL}
    lines = [f"{n} {v}" if v else f"no {n} ({OPTIONAL[n]})" for n, v in there.items()]
    return [*found, Finding("optional packages", ", ".join(lines))]


def processor(threads: str, policy: str) -> list[Finding]:
    """Return cores, threads and what a product of matrices reaches."""
    cores, quota = affinity(), cpu_quota()
    granted = min(len(cores), quota or len(cores))
    limit = "" if quota is None else f", of which the container grants {quota:g}"
    used = busy(cores)
    found = [Finding("cores", f"{len(cores)}{limit}; {used:.1f} used by other processes now",
                     "jobs beside this one slow training down" if used > 0.5 else "")]  # fmt: skip
    count = torch.get_num_threads()
    waits = os.environ.get("OMP_WAIT_POLICY", "ACTIVE").lower()
    chosen = f"{count}, waiting is {waits}"
    advice = ""
    if count > granted:
        advice = f"more threads than cores: set OMP_NUM_THREADS={max(1, int(granted))}"
    elif count < int(granted) and threads:
        advice = f"OMP_NUM_THREADS={threads} leaves cores unused"
    elif policy.upper() == "PASSIVE" and used <= 0.5:
        advice = "OMP_WAIT_POLICY=PASSIVE costs a quarter of the speed on free cores: unset it"
    found.append(Finding("threads", chosen, advice))
    native = resolve("auto", torch.device("cpu")) == "bf16"
    peaks = {"fp32": torch.float32, "bf16": torch.bfloat16}
    reached = {name: peak(torch.device("cpu"), kind) for name, kind in peaks.items()}
    shown = ", ".join(f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in reached.items())
    slow = reached["bf16"] < reached["fp32"]
    advice = "trainer.precision=bf16 would be slower than fp32 here" if slow else ""
    found.append(Finding("matrix products on the CPU", shown, advice))
    found.append(Finding("bf16 on the CPU", "native" if native else "emulated: fp32 is chosen"))
    own = works()
    found.append(Finding("own kernels", "available" if own and native else "not used",
                         "" if own or not native else "frozen weights are not laid out once: torch "
                         "lacks the operators"))  # fmt: skip
    return found


def peak(device: torch.device, kind: torch.dtype, size: int = SIZE) -> float:
    """Return the operations per second of a product of two [size, size] matrices."""
    one, two = (torch.randn(size, size, device=device).to(kind) for _ in range(2))

    def once() -> float:
        begun = time.perf_counter()
        torch.mm(one, two)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    once()  # sets up kernels
    times, begun = [once()], time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        times.append(once())
    return 2 * size**3 / min(times)


def devices() -> list[Finding]:
    """Return the GPUs, with what a product of matrices reaches."""
    found = []
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        facts = torch.cuda.get_device_properties(device)
        speed = peak(device, torch.bfloat16, 4 * SIZE) / 1e12
        found.append(Finding(f"cuda:{number}", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, "
                             f"bf16 {speed:,.0f} TFLOP/s"))  # fmt: skip
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "an Apple GPU: trainer.device=mps"))
    return found or [Finding("GPU", "none: runs use the CPU")]


def memory() -> list[Finding]:
    """Return free memory, the size of its pages, and room on the disk."""
    free, room = free_memory(), shutil.disk_usage(Path.cwd()).free
    ram = f"{free / 1e9:.1f} GB free" if free != float("inf") else "unknown"
    return [
        Finding(
            "memory", ram, "little: adaptkit plan says what a run needs" if free < TIGHT else ""
        ),
        *pages(LARGE_PAGES, lends_memory()),
        Finding("disk here", f"{room / 1e9:.1f} GB free", "little" if room < TIGHT else ""),
    ]


def pages(setting: Path, lends: bool) -> list[Finding]:
    """Tell whether Linux grants large pages, by its setting, as in `always [madvise] never`.

    lends: the machine lends free memory to its host, so none are asked for.
    """
    if not setting.is_file():
        return []
    never = "[never]" in setting.read_text(encoding="ascii")
    wanted = never and not lends
    advice = f"large ones are faster: echo madvise | sudo tee {setting}" if wanted else ""
    return [Finding("pages of memory", "small" if never or lends else "large", advice)]


def hub() -> list[Finding]:
    """Tell whether the hub of models and data sets answers."""
    if reachable():
        return [Finding("hub", "reachable")]
    off = os.environ.get("HF_HUB_OFFLINE")
    why = f"HF_HUB_OFFLINE={off}" if off else "no answer"
    return [Finding("hub", f"not reachable ({why})", "models and data sets must lie in its cache, "
                    "or be named by path: model.path=DIR data.root=DIR")]  # fmt: skip


def report(findings: list[Finding]) -> str:
    """Return all lines, for a terminal and to paste."""
    width = max(len(one.what) for one in findings)
    lines = [f"{one.what:{width}}  {one.found}" for one in findings]
    advice = [f"- {one.what}: {one.advice}" for one in findings if one.advice]
    return "\n".join([*lines, "", *(advice or ["nothing slows adaptkit down here"])])
