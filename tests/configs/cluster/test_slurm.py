"""The batch script, by a linter, and with stand-ins for Slurm, Ray and petlas that say what they were asked."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "configs/cluster/slurm.sh"

STAND_INS = {
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for id in 0 1 2; do SLURM_NODEID=$id "$@" & done
trap 'kill $(jobs -p) 2> /dev/null' TERM
wait; wait
echo "srun ended" >> "$SAID"
""",
    "ray": f"""#!{sys.executable} -S
import os, socket, sys, time
asked = " ".join(sys.argv[1:])
if asked.startswith("get-auth-token"):
    print("a-token", end="")
elif asked.startswith("status"):
    sys.exit(not os.path.exists(os.environ["SAID"] + ".head"))
else:
    with open(os.environ["SAID"], "a") as said:
        said.write(f"ray {{asked}} token={{os.environ['RAY_AUTH_TOKEN']}}\\n")
    if "--head" in asked:
        host, port = asked.split("--node-ip-address=")[1].split()[0], int(asked.split("--port=")[1].split()[0])
        place = socket.create_server((host, port))
        open(os.environ["SAID"] + ".head", "w").close()
    time.sleep(60)
""",
    "petlas": """#!/bin/bash
echo "petlas $*" >> "$SAID"
trap 'echo "petlas stopped" >> "$SAID"; exit 130' TERM
if [ -n "${LONG:-}" ]; then touch "$SAID.petlas"; sleep 60 & wait; fi
exit "${ENDS:-0}"
""",
    "scontrol": '#!/bin/bash\necho "scontrol $*" >> "$SAID"\n',
    "hostname": "#!/bin/bash\necho 127.0.0.1 10.9.8.7\n",
}


def free_job() -> int:
    """The number of a job whose port is free."""
    for number in range(os.getpid(), os.getpid() + 100):
        with socket.socket() as place, suppress(OSError):
            place.bind(("127.0.0.1", 20000 + number % 20000))
            return number
    raise AssertionError("no free port")


class Job:
    """The script as Slurm would run it, on three nodes."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.said, self.number = folder / "said", free_job()
        for name, text in STAND_INS.items():
            path = folder / name
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        slurm = {"SLURM_JOB_ID": str(self.number), "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "4"}
        environment = os.environ | slurm | {"SAID": str(self.said), "PATH": f"{folder}:{os.environ['PATH']}"} | more
        self.process = subprocess.Popen(["bash", SCRIPT, "vtab", "task.name=[dtd, svhn]"], env=environment)

    def ends(self) -> int:
        return self.process.wait(20)

    def lines(self) -> list[str]:
        return self.said.read_text().splitlines()


def test_a_linter_of_shell_scripts_finds_nothing() -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    linter = shutil.which("shellcheck") or (str(beside) if beside.exists() else None)
    command = [linter, "--severity=style"] if linter else ["bash", "-n"]
    found = subprocess.run([*command, SCRIPT], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_every_node_runs_ray_with_the_jobs_token_and_the_search_its_configurations(tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job.ends() == 0
    place = f"127.0.0.1:{20000 + job.number % 20000}"
    lines = job.lines()
    (head,) = [line for line in lines if line.startswith("ray start --head")]
    assert f"--temp-dir=/tmp/petlas-{job.number}" in head
    assert all(
        "--num-cpus=16 --num-gpus=4 --block token=a-token" in line for line in lines if line.startswith("ray start")
    )
    assert sum(line.startswith(f"ray start --address={place} ") for line in lines) <= 2
    assert f"petlas search vtab task.name=[dtd, svhn] resources.address={place}" in lines
    assert lines[-1] == "srun ended"
    assert not any("requeue" in line for line in lines)


@pytest.mark.parametrize("status", ["1", "2"])
def test_a_search_that_fails_is_not_queued_anew_and_its_status_is_the_jobs(tmp_path: Path, status: str) -> None:
    job = Job(tmp_path, ENDS=status)
    assert job.ends() == int(status)
    assert not any("requeue" in line for line in job.lines())


def test_when_the_time_is_up_the_search_is_told_to_stop_and_the_job_is_queued_anew(tmp_path: Path) -> None:
    job = Job(tmp_path, LONG="yes")
    until = time.monotonic() + 20
    while not Path(f"{job.said}.petlas").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    job.process.send_signal(signal.SIGTERM)
    assert job.ends() == 130
    assert job.lines()[-3:] == ["petlas stopped", f"scontrol requeue {job.number}", "srun ended"]
