# SPDX-License-Identifier: Apache-2.0
"""The command line of each container runtime, whole, as its manual has it; and what an engine is given to see."""

from pathlib import Path

import pytest

from firstkit.launcher.containers import Bind, Host, Inside, binds_of, contained, mountpoints, parse_bind
from firstkit.launcher.documents import RUNTIMES, ContainerSpec

BINDS = (Bind("/models/m", "/models/m", writable=False), Bind("/run/i-1", "/run/i-1", writable=True))
ENV = {
    "HOME": "/run/i-1/home",
    "TMPDIR": "/run/i-1/tmp",
    "CUDA_VISIBLE_DEVICES": "GPU-1",
    "OWN": "a secret",
    "LD_PRELOAD": "/x.so",
}
OUTSIDE = {"PATH": "/opt/bin:/bin", "HOME": "/home/user", "LD_LIBRARY_PATH": "/opt/lib", "XDG_RUNTIME_DIR": "/run/u"}
INSIDE = Inside(
    name="first-i-1-abc",
    argv=["vllm", "serve", "/models/m", "--uds", "/run/i-1/e.sock"],
    env=ENV,
    binds=BINDS,
    work="/run/i-1/work",
    home="/run/i-1/home",
    folder="/run/i-1",
)
NVIDIA = Host(nvidia=True, amd=False, intel=False, fabric=("/dev/infiniband",))
AMD = Host(nvidia=False, amd=True, intel=False, fabric=())
INTEL = Host(nvidia=False, amd=False, intel=True, fabric=())
NOTHING = Host(nvidia=False, amd=False, intel=False, fabric=())


def spec(runtime: str, image: str = "/images/v", *, gpus: bool = True) -> ContainerSpec:
    return ContainerSpec(runtime=runtime, image=image, binds=(), gpus=gpus)


def line(runtime: str, image: str = "/images/v", host: Host = NVIDIA, *, gpus: bool = True) -> str:
    return " ".join(contained(spec(runtime, image, gpus=gpus), INSIDE, OUTSIDE, host).argv)


def test_apptainer() -> None:
    call = contained(spec("apptainer", "/images/v.sif"), INSIDE, OUTSIDE, NVIDIA)
    assert " ".join(call.argv) == (
        "apptainer --quiet exec --cleanenv --no-eval --no-mount cwd --home /run/i-1/home --pwd /run/i-1/work"
        " --bind /models/m:/models/m:ro --bind /run/i-1:/run/i-1 --nv /images/v.sif"
        " vllm serve /models/m --uds /run/i-1/e.sock"
    )
    assert call.env == OUTSIDE | {
        "APPTAINERENV_TMPDIR": "/run/i-1/tmp",
        "APPTAINERENV_CUDA_VISIBLE_DEVICES": "GPU-1",
        "APPTAINERENV_OWN": "a secret",
        "APPTAINERENV_LD_PRELOAD": "/x.so",
    }


def test_podman() -> None:
    call = contained(spec("podman", "vllm/vllm-openai:v1"), INSIDE, OUTSIDE, NVIDIA)
    assert " ".join(call.argv) == (
        "podman run --rm --name first-i-1-abc --pull never --user 0:0 --network host --pid host --log-driver none"
        " --http-proxy=false --security-opt label=disable --ulimit host --workdir /run/i-1/work"
        " --volume /dev/shm:/dev/shm --volume /models/m:/models/m:ro --volume /run/i-1:/run/i-1:rw"
        " --device /dev/infiniband --device nvidia.com/gpu=all"
        " --env HOME=/run/i-1/home --env TMPDIR=/run/i-1/tmp --env CUDA_VISIBLE_DEVICES --env OWN"
        " --env LD_PRELOAD=/x.so --entrypoint vllm vllm/vllm-openai:v1 serve /models/m --uds /run/i-1/e.sock"
    )
    assert call.env == OUTSIDE | {"CUDA_VISIBLE_DEVICES": "GPU-1", "OWN": "a secret"}


def test_podman_hpc_has_its_own_word_for_gpus_and_an_unpacked_image_is_a_rootfs() -> None:
    assert "podman-hpc run" in line("podman-hpc")
    assert " --gpu --device /dev/infiniband --env" in line("podman-hpc")
    assert " --entrypoint vllm --rootfs /images/v serve" in line("podman")


def test_enroot() -> None:
    call = contained(spec("enroot", "/images/v.sqsh"), INSIDE, OUTSIDE, NVIDIA)
    assert " ".join(call.argv) == (
        "enroot start --rw --rc /run/i-1/enroot.rc"
        " --mount /models/m:/models/m:none:bind,ro,x-create=auto --mount /run/i-1:/run/i-1"
        " --env HOME=/run/i-1/home --env TMPDIR=/run/i-1/tmp --env CUDA_VISIBLE_DEVICES --env OWN"
        " --env LD_PRELOAD=/x.so --env NVIDIA_VISIBLE_DEVICES --env NVIDIA_DRIVER_CAPABILITIES"
        " /images/v.sqsh vllm serve /models/m --uds /run/i-1/e.sock"
    )
    assert call.env["ENROOT_MOUNT_HOME"] == "n"
    assert call.env["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert call.env["HOME"] == "/home/user"
    assert call.files == {"/run/i-1/enroot.rc": '#!/bin/sh\ncd /run/i-1/work && exec "$@"\n'}


def test_pyxis() -> None:
    call = contained(spec("pyxis", "nvcr.io#v/v:1"), INSIDE, OUTSIDE, NVIDIA)
    assert " ".join(call.argv) == (
        "srun --nodes=1 --ntasks=1 --overlap --export=ALL --cpu-bind=none --mem=0 --unbuffered --kill-on-bad-exit=1"
        " --container-image=nvcr.io#v/v:1 --no-container-mount-home --container-workdir=/run/i-1/work"
        " --container-env=CUDA_VISIBLE_DEVICES,HOME,LD_PRELOAD,NVIDIA_DRIVER_CAPABILITIES,NVIDIA_VISIBLE_DEVICES,"
        "OWN,TMPDIR"
        " --container-mounts=/models/m:/models/m:ro,/run/i-1:/run/i-1 vllm serve /models/m --uds /run/i-1/e.sock"
    )
    assert call.env["OWN"] == "a secret"
    assert call.env["PATH"] == "/opt/bin:/bin"


def test_charliecloud() -> None:
    call = contained(spec("charliecloud"), INSIDE, OUTSIDE, NVIDIA)
    assert " ".join(call.argv) == (
        "ch-run --private-tmp --unset-env=LD_*"
        " --set-env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        " --set-env=HOME=/run/i-1/home --set-env=TMPDIR=/run/i-1/tmp --cd=/run/i-1/work"
        " --bind=/models/m:/models/m --bind=/run/i-1:/run/i-1 /images/v --"
        " vllm serve /models/m --uds /run/i-1/e.sock"
    )
    assert call.env["OWN"] == "a secret"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_value_of_the_environment_is_in_a_command_line(runtime: str) -> None:
    call = contained(spec(runtime), INSIDE, OUTSIDE, NVIDIA)
    assert "a secret" not in " ".join(call.argv)
    assert "a secret" in call.env.values()


@pytest.mark.parametrize(
    ("runtime", "host", "words"),
    [
        ("apptainer", AMD, "--rocm"),
        ("podman", AMD, "--device /dev/kfd --device /dev/dri"),
        ("podman", INTEL, "--device /dev/dri"),
    ],
)
def test_gpus_of_other_vendors(runtime: str, host: Host, words: str) -> None:
    assert words in line(runtime, host=host)
    assert "nvidia" not in line(runtime, host=host).lower()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_without_gpus_none_are_passed(runtime: str) -> None:
    for host in (NVIDIA, AMD, INTEL, NOTHING):
        words = line(runtime, host=host, gpus=False).replace("CUDA_VISIBLE_DEVICES", "")
        assert not {"--nv", "--rocm", "--gpu", "/dev/dri"} & set(words.split())
        assert "nvidia" not in words.lower()


def test_a_bind_is_read_only_unless_it_says_so() -> None:
    assert parse_bind("/a") == Bind("/a", "/a", writable=False)
    assert parse_bind("/a:/b:rw") == Bind("/a", "/b", writable=True)
    assert parse_bind("/a:/b:ro") == Bind("/a", "/b", writable=False)


def test_weights_are_seen_with_what_their_links_lead_to(tmp_path: Path) -> None:
    """As a model hub's cache has it: a snapshot of links to blobs beside it."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "b1").write_text("x")
    (snapshot / "model.safetensors").symlink_to("../../blobs/b1")
    found = binds_of(spec("apptainer"), own=["/run/i-1"], weights=[str(snapshot), f"{snapshot}/config.json"])
    assert [(bind.source, bind.writable) for bind in found] == [
        ("/run/i-1", True),
        (str(blobs), False),
        (str(snapshot), False),
    ]


def test_of_weights_in_one_file_the_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("x")
    assert binds_of(spec("apptainer"), own=[], weights=[f"{tmp_path}/m.gguf"]) == [
        Bind(str(tmp_path), str(tmp_path), writable=False)
    ]


def test_a_folder_comes_before_what_is_below_it_and_nothing_twice() -> None:
    asked = ContainerSpec("apptainer", "/i", ("/scratch:/scratch:ro", "/scratch/models", "/data:/in:rw"), gpus=False)
    found = binds_of(asked, own=["/scratch/run/i-1"], weights=["/scratch/models"])
    assert found == [
        Bind("/data", "/in", writable=True),
        Bind("/scratch", "/scratch", writable=False),
        Bind("/scratch/run/i-1", "/scratch/run/i-1", writable=True),
    ]


def test_an_image_that_is_a_folder_gets_the_folders_that_binds_need_but_nothing_outside_of_it(tmp_path: Path) -> None:
    image, elsewhere = tmp_path / "image", tmp_path / "elsewhere"
    image.mkdir()
    elsewhere.mkdir()
    (image / "link").symlink_to(elsewhere)
    source = str(tmp_path)
    binds = [Bind(source, "/a/b", writable=True), Bind(source, "/link/c", writable=True)]
    mountpoints(spec("charliecloud", str(image)), binds)
    assert (image / "a" / "b").is_dir()
    assert list(elsewhere.iterdir()) == []
