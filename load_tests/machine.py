"""Say what a measurement ran on."""

import os
import platform
from pathlib import Path

import torch


def describe(device: torch.device) -> dict[str, str]:
    """Return facts about this machine, by what to call them."""
    facts = {
        "CPU": f"{_cpu()}, {_cores()} cores",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU",
        "torch": f"{torch.__version__}, threads: {torch.get_num_threads()}, float32, its other settings at default",
        "Python": platform.python_version(),
    }
    if device.type == "cuda":
        facts["CUDA"] = str(torch.version.cuda)
    return facts


def load_average() -> float:
    """Return how many processes wanted a core during the last minute, this one included."""
    return os.getloadavg()[0]


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
