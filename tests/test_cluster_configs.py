"""Each cluster configuration does what its README says, as far as one machine can tell."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
import zarr
from dask.utils import parse_bytes
from distributed import Client
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from daskgmm import GaussianMixture

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "cluster_configs"
PATIENCE = 120  # seconds until a process that does not answer is an error


def code(folder: str, language: str) -> list[str]:
    text = (CONFIGS / folder / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def command(folder: str, start: str) -> str:
    """The only command of a README that begins so."""
    (found,) = [line for block in code(folder, "sh") for line in block.splitlines() if line.startswith(start)]
    return found


@pytest.fixture
def data(tmp_path: Path) -> np.ndarray[Any, Any]:
    """Rows in data.zarr."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 2)) + rng.integers(4, size=20_000)[:, None] * 5.0
    store = zarr.create_array(tmp_path / "data.zarr", shape=rows.shape, chunks=(3000, 2), dtype=rows.dtype)
    store[:] = rows
    return rows


def environment(**variables: str) -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, **variables}


def listening(processes: list[subprocess.Popen[bytes]]) -> set[str]:
    """Where they, and the processes that they started, accept connections."""
    first = [psutil.Process(process.pid) for process in processes]
    every = [*first, *(child for process in first for child in process.children(recursive=True))]
    return {c.laddr.ip for process in every for c in process.net_connections("inet") if c.status == "LISTEN"}


@contextmanager
def running(text: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of a README in the background; its messages go to a file, which no full pipe can stop."""
    program = shlex.split(text)
    (directory / "scratch").mkdir(exist_ok=True)
    private = environment(DASK_TEMPORARY_DIRECTORY=str(directory / "scratch"))
    with (directory / f"{program[1]}.log").open("wb") as log:
        process = subprocess.Popen(program, cwd=directory, env=private, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


# ---- processes


@pytest.mark.slow  # six processes; the job of the Slurm one has the same parts
@pytest.mark.cluster
def test_processes(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    """The commands as they stand, except that the port is a free one."""
    scheduler = command("processes", "dask scheduler").replace("--port 8786", "--port 0").replace(":8787", ":0")
    found = tmp_path / "scheduler.json"
    with (
        running(f"{scheduler} --scheduler-file {found}", tmp_path) as first,
        Client(scheduler_file=str(found), set_as_default=False) as client,  # waits until the file is there
    ):
        address = json.loads(found.read_text())["address"]
        assert address.startswith("tcp://127.0.0.1:")
        workers = command("processes", "dask worker").replace("tcp://127.0.0.1:8786", address)
        with running(workers, tmp_path) as others:
            client.wait_for_workers(2, timeout=PATIENCE)
            assert sorted(client.nthreads().values()) == [1, 1]
            assert listening([first, others]) == {"127.0.0.1"}
            written = client.run(lambda dask_worker: dask_worker.local_directory).values()
            assert all(tmp_path / "scratch" in Path(directory).parents for directory in written)
            fit_from_python(address, str(tmp_path / "data.zarr"))

            fit = command("processes", "daskgmm fit").replace("tcp://127.0.0.1:8786", address)
            run(fit.replace("-k 16", "-k 4"), tmp_path)
            assert (tmp_path / "mixture.zarr" / "zarr.json").exists()

            first.send_signal(signal.SIGINT)
            assert others.wait(PATIENCE) == 0, "the workers end with their scheduler"


def fit_from_python(address: str, store: str) -> None:
    (python,) = code("processes", "python")
    namespace: dict[str, Any] = {}
    for old, new in {
        "tcp://127.0.0.1:8786": address,
        "data.zarr": store,
        "GaussianMixture(16": "GaussianMixture(4, random_state=0",
    }.items():
        assert old in python
        python = python.replace(old, new)
    exec(python, namespace)
    here = GaussianMixture(4, random_state=0, scheduler="threads").fit(store)
    np.testing.assert_array_equal(namespace["model"].means_, here.means_)


def run(text: str, directory: Path, **variables: str) -> str:
    """A command of a README, in the foreground."""
    program = shlex.split(text)
    if program[0] == "daskgmm":
        program[:1] = [sys.executable, "-m", "daskgmm"]
    done = subprocess.run(
        program, cwd=directory, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- slurm


def slurm_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / "slurm" / "jobqueue.yaml").read_text())
    assert settings.keys() == {"jobqueue", "daskgmm"}
    return settings


def test_slurm_settings() -> None:
    slurm = slurm_settings()["jobqueue"]["slurm"]
    assert slurm["cores"] % slurm["processes"] == 0
    assert parse_bytes(slurm["memory"]) / slurm["processes"] >= 2**30
    assert re.fullmatch(r"\d\d:\d\d:\d\d", slurm["walltime"])
    assert "jobqueue.yaml" in (CONFIGS / "slurm" / "README.md").read_text()


def test_slurm_job_script() -> None:
    """Every setting is one that dask-jobqueue knows, and arrives in the script that it submits."""
    slurm_module = pytest.importorskip("dask_jobqueue.slurm", reason="dask-jobqueue is not installed")
    import dask

    settings = slurm_settings()
    slurm = settings["jobqueue"]["slurm"]
    assert slurm.keys() <= dask.config.get("jobqueue.slurm").keys()
    with dask.config.set({"jobqueue": dask.config.merge(dask.config.get("jobqueue"), settings["jobqueue"])}):
        # What SLURMCluster().job_script() returns; the cluster itself would open a port on every interface.
        script = slurm_module.SLURMJob("tcp://127.0.0.1:8786", name="worker").job_script()
    for line in ("-p compute", "-n 1", "--cpus-per-task=8", "--mem=32G", "-t 02:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert script.index('DASK_TEMPORARY_DIRECTORY="$(mktemp -d)"\n') < script.index("distributed.cli.dask_worker")
    (launch,) = [line for line in script.splitlines() if "distributed.cli.dask_worker" in line]
    assert f"--nworkers {slurm['processes']}" in launch
    assert f"--nthreads {slurm['cores'] // slurm['processes']}" in launch
    assert "--memory-limit 4.00GiB" in launch


SBATCH = """#!/bin/sh
# Runs a copy of the script at once, in the background, and answers as Slurm does.
cp "$1" "$SLURM_DIRECTORY/job.sh"
setsid sh "$SLURM_DIRECTORY/job.sh" > "$SLURM_DIRECTORY/job.log" 2>&1 &
echo $! > "$SLURM_DIRECTORY/job.pid"
echo "Submitted batch job 1"
"""
SCANCEL = """#!/bin/sh
touch "$SLURM_DIRECTORY/cancelled"
kill -- "-$(cat "$SLURM_DIRECTORY/job.pid")"
"""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="uses setsid")
def test_slurm_python(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    """The README's program, with programs in Slurm's place that start the job on this machine."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    (setup,) = [block for block in code("slurm", "sh") if "jobqueue.yaml" in block]
    subprocess.run(["sh", "-euc", setup], cwd=ROOT, env=environment(HOME=str(home)), check=True, capture_output=True)
    assert {path.name for path in (home / ".config" / "dask").iterdir()} == {"jobqueue.yaml", "tls.yaml"}

    (python,) = code("slurm", "python")
    script = tmp_path / "program.py"
    script.write_text(
        python.replace("jobs=4", "jobs=1").replace("GaussianMixture(16)", "GaussianMixture(4)")
        + "    print(cluster.scheduler_address, *cluster.scheduler_info['workers'])\n"
        "    print(*{c.laddr.ip for c in __import__('psutil').Process().net_connections() if not c.raddr})\n"
    )
    told = run(
        f"{sys.executable} {script}",
        tmp_path,
        PATH=f"{programs}{os.pathsep}{environment()['PATH']}",
        SLURM_DIRECTORY=str(tmp_path),
        HOME=str(home),
        TMPDIR=str(scratch),
        # One small job on the loopback interface; everything else as configured.
        DASK_JOBQUEUE__SLURM__CORES="1",
        DASK_JOBQUEUE__SLURM__PROCESSES="1",
        DASK_JOBQUEUE__SLURM__MEMORY="1GiB",
        DASK_JOBQUEUE__SLURM__INTERFACE="lo",
    )
    addresses, listens = told.splitlines()
    assert re.fullmatch(r"(tls://127\.0\.0\.1:\d+ ?){2}", addresses), "the scheduler and its worker"
    assert listens == "127.0.0.1"
    assert (tmp_path / "mixture.zarr" / "zarr.json").exists()
    assert (tmp_path / "cancelled").exists()


# ---- kubernetes


@pytest.fixture
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / "kubernetes" / "cluster.yaml").read_text())
    return loaded


def container(manifest: dict[str, Any], component: str) -> dict[str, Any]:
    (only,) = manifest["spec"][component]["spec"]["containers"]
    assert only["name"] == component
    return dict(only)


def test_kubernetes_manifest(manifest: dict[str, Any]) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    scheduler, worker = container(manifest, "scheduler"), container(manifest, "worker")
    assert scheduler["image"] == worker["image"], "one image, so one version of everything"
    for each in (scheduler, worker):
        assert each["resources"]["requests"]["memory"] == each["resources"]["limits"]["memory"]
    assert manifest["spec"]["worker"]["replicas"] >= 1

    service = manifest["spec"]["scheduler"]["service"]
    assert service["type"] == "ClusterIP", "not reachable from outside"
    assert service["selector"] == {
        "dask.org/cluster-name": manifest["metadata"]["name"],
        "dask.org/component": "scheduler",
    }
    ports = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert scheduler["readinessProbe"]["httpGet"]["port"] in ports


def test_kubernetes_commands_are_dasks(manifest: dict[str, Any], tmp_path: Path) -> None:
    """Parsed by the programs themselves, which are not started, where the secrets are mounted."""
    scheduler, worker = container(manifest, "scheduler"), container(manifest, "worker")
    for role in (scheduler, worker):
        for file in secret(manifest, role["name"]):
            (tmp_path / file).touch()
        role["args"] = [str(word).replace("/tls/", f"{tmp_path}/") for word in role["args"]]
    assert scheduler["args"][:2] == ["dask", "scheduler"]
    listens = dask_scheduler.make_context("dask scheduler", list(scheduler["args"][2:])).params
    assert int(listens["port"]) == 8786
    assert listens["dashboard_address"] == ":8787"
    assert listens["host"].startswith("tls://")
    assert worker["args"][:2] == ["dask", "worker"]
    works = dask_worker.make_context("dask worker", list(worker["args"][2:])).params
    assert works["scheduler"] == f"tls://{manifest['metadata']['name']}-scheduler:8786"
    assert works["name"] == "$(DASK_WORKER_NAME)"
    assert works["dashboard_address"] == "127.0.0.1:0"
    limit = parse_bytes(worker["resources"]["limits"]["memory"] + "B")
    assert 0.75 * limit < parse_bytes(works["memory_limit"]) < limit
    assert int(works["nthreads"]) == int(worker["resources"]["requests"]["cpu"])
    for role, options in (("scheduler", listens), ("worker", works)):
        files = [options["tls_ca_file"], options["tls_cert"], options["tls_key"]]
        assert [Path(file).name for file in files] == ["ca.pem", f"{role}.pem", f"{role}-key.pem"]


def secret(manifest: dict[str, Any], component: str) -> list[str]:
    """Files of the secret that is mounted, which the README's command makes."""
    (mount,) = container(manifest, component)["volumeMounts"]
    (volume,) = manifest["spec"][component]["spec"]["volumes"]
    assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], "/tls", True)
    assert volume["secret"]["defaultMode"] == 0o400
    made = command("kubernetes", f"kubectl create secret generic {volume['secret']['secretName']} ")
    assert volume["secret"]["secretName"] in command("kubernetes", "kubectl delete secret")
    return re.findall(r"--from-file=(\S+)", made)


def test_kubernetes_readme_and_image(manifest: dict[str, Any]) -> None:
    name, image = manifest["metadata"]["name"], container(manifest, "worker")["image"]
    assert f"service/{name}-scheduler 8786:8786" in command("kubernetes", "kubectl port-forward")
    assert image in command("kubernetes", "docker build")
    assert image in command("kubernetes", "docker push")
    for verb in ("apply", "delete"):
        path = command("kubernetes", f"kubectl {verb} -f").split()[-1]
        assert (ROOT / path).samefile(CONFIGS / "kubernetes" / "cluster.yaml")
    dockerfile = (CONFIGS / "kubernetes" / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    assert all((ROOT / path).exists() for paths in copied for path in paths)


# ---- all of them


@pytest.mark.parametrize("readme", sorted(CONFIGS.rglob("README.md")), ids=lambda path: path.parent.name)
def test_links_lead_somewhere(readme: Path) -> None:
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", readme.read_text()) if "://" not in t]
    assert not [target for target in targets if not (readme.parent / target).exists()]


@pytest.mark.parametrize("folder", ["processes", "slurm", "kubernetes", "tls"])
def test_readme_has_its_four_parts(folder: str) -> None:
    text = (CONFIGS / folder / "README.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Needs", "Set up", "Run", "Clean up"]
    assert "dask-scheduler" not in text
    assert "dask-worker" not in text, "these programs are gone from distributed"
