"""Which environment variables a worker sees: those it needs to run Python and torch. Tokens and keys are not among them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

__all__ = ["allowed"]

_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "LANGUAGE", "TMPDIR", "TEMP", "TMP"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUTF8", "PYTHONIOENCODING", "VIRTUAL_ENV"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"),
        *("SYSTEMROOT", "SYSTEMDRIVE", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PATHEXT", "COMSPEC"),
    }
)
_PREFIXES = ("LC_", "CONDA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "ATEN_", "NUMEXPR_")
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "KEY")  # CONDA_TOKEN is one
_ALWAYS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "", "ZE_AFFINITY_MASK": ""}


def allowed(environment: Mapping[str, str], more: Iterable[str] = (), *, sandboxed: bool = True, jobs: int = 1) -> dict[str, str]:
    """The variables of a worker.

    Args:
        more: names that are let through as well.
        sandboxed: no GPU is visible, and the libraries that download are told that they are offline.
        jobs: workers that run at once and share the processors.
    """
    more = set(more)
    kept = {name: value for name, value in environment.items() if name in more or _harmless(name)}
    threads = {"OMP_NUM_THREADS": str(max(1, _processors() // max(1, jobs)))}
    return {**threads, **kept, **(_ALWAYS if sandboxed else {}), **(_NO_GPU if sandboxed else {})}


def _harmless(name: str) -> bool:
    name = name.upper() if os.name == "nt" else name
    return name in _NAMES or (name.startswith(_PREFIXES) and not any(word in name for word in _SECRET))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
