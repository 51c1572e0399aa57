"""What NVIDIA's driver tells of this machine's GPUs."""

import subprocess


def ask(what):
    """Return nvidia-smi's answer to a query such as "index", a text of each GPU (list).

    None where there is no such driver, or where it does not answer.
    """
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in answer.decode().splitlines() if line.strip()]
