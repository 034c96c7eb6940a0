# SPDX-License-Identifier: Apache-2.0
"""What a configuration without mistakes becomes, and who wins over it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from firstkit.adapters.engines.vllm import Vllm
from firstkit.config.disk import Disk
from firstkit.config.document import node_at
from firstkit.config.keys import Key, all_keys
from firstkit.config.loading import Loaded, catalog_from_document, load, load_settings
from firstkit.config.scheduler_checks import UNDERSTOOD
from firstkit.core.catalog import Access, ClusterLimits, LinkSpec, Resources, Scaling, SchedulerSpec, UpdateStyle
from firstkit.core.errors import ConfigError, FirstError, SiteError
from firstkit.core.settings import ControllerSettings, GatewaySettings, Listen, StoreSettings, TlsFiles
from firstkit.ports.engine import Engine

VALID = Path(__file__).parent / "valid"
STATE = Path("/state")
SMALL = """
clusters:
  here: {scheduler: {kind: local}, runner: {kind: local}, link: {kind: local}, run_dir: /srv/first}
models:
  org/llama:
deployments:
  one:
    model: org/llama
    cluster: here
    engine: {kind: vllm, model: /models/llama}
"""


@pytest.fixture
def everything(engines: Mapping[str, Engine], disk: Disk) -> Loaded:
    text = (VALID / "everything.yaml").read_text()
    return load(text, data_dir=STATE, engines=engines, disk=disk)


# ------------------------------------------------------------------------------------------------- the promised example


def test_the_promised_example_loads(engines: Mapping[str, Engine], disk: Disk) -> None:
    text = (VALID / "surface.yaml").read_text().replace("/eagle/first", "/srv/first")
    loaded = load(text, data_dir=STATE, engines=engines, disk=disk)
    (warning,) = loaded.warnings
    assert warning.path == "deployments.llama-70b-sophia.engine.model"
    assert warning.sentence.endswith("fine if it is there on the nodes that jobs run on")
    cluster = loaded.catalog.clusters["sophia"]
    options = {"partition": "by-node", "account": "myproject", "extra": ["-l filesystems=home:eagle"]}
    assert cluster.scheduler == SchedulerSpec(kind="pbs", options=options)
    cluster = loaded.catalog.clusters["sophia"]
    assert cluster.link == LinkSpec(kind="direct", ports=(42000, 42099))
    assert cluster.limits == ClusterLimits(jobs=10, nodes=20, node_hours_per_day=240, submits_per_hour=60)
    assert cluster.setup == "module load conda\n"
    deployment = loaded.catalog.deployments["llama-70b-sophia"]
    assert deployment.resources == Resources(gpus=8, walltime_s=43200.0)
    assert deployment.scaling == Scaling(min=1, max=4, in_flight=64, idle_s=7200.0)
    assert deployment.engine.args == {"tensor-parallel-size": 8}


# ----------------------------------------------------------------------------------------------------- every single key


def test_the_file_with_everything_gives_every_key(everything: Loaded) -> None:
    names = {"models": "meta-llama/Llama-3.3-70B-Instruct", "deployments": "llama-70b-here"}
    understood = frozenset({"kind", "python"}).union(*UNDERSTOOD.values())

    def given(key: Key, cluster: str) -> bool:
        places = names | {"clusters": cluster}
        path = tuple(places[key.path[0]] if step == "NAME" else step for step in key.path)
        return node_at(everything.tree, path) is not None

    missing = [
        key.dotted
        for key in all_keys()
        if not any(given(key, cluster) for cluster in everything.catalog.clusters)
        and not (key.path[2:3] == ("scheduler",) and key.name not in understood)
    ]
    assert not missing


def test_every_process_setting_arrives(everything: Loaded) -> None:
    assert everything.settings.gateway == GatewaySettings(
        listen=Listen(host="0.0.0.0", port=8443),
        admin=Listen(host="10.0.0.5", port=8001),
        doors=Listen(host="0.0.0.0", port=8444),
        tls=TlsFiles(certificate="/tls/good.crt", key="/tls/good.key"),
        cors_origins=("https://chat.example.org", "*"),
        head_limit=32 * 1024,
        body_limit=100_000_000,
        body_limits={"/v1/audio/transcriptions": 200_000_000},
        body_memory=32_000_000,
        body_disk=2_000_000_000,
        connections=5000,
        head_timeout_s=10.0,
        body_timeout_s=30.0,
        keep_alive_s=60.0,
        user_timeout_s=15.0,
        connect_timeout_s=2.0,
        upstream_idle_s=300.0,
        attempts=2,
        queue=100,
        queue_per_principal=10,
        batch_reserve=0.25,
        hold_head_s=2.0,
        comment_every_s=4.0,
        hold_s=300.0,
        place_kept_s=60.0,
        drain_s=120.0,
        choices_limit=4,
        uploads="/state/uploads",
    )
    assert everything.settings.store == StoreSettings(
        url="postgresql://first@db.example.org/first", password_file="/keys/closed"
    )
    assert everything.settings.controller == ControllerSettings(
        tick_s=0.5,
        observe_s=10.0,
        observe_idle_s=60.0,
        term_ttl_s=20.0,
        settle_s=120.0,
        lost_after_s=120.0,
        fence_s=1800.0,
        failures_to_hold=3,
        backoff_first_s=1.0,
        backoff_max_s=600.0,
    )
    assert everything.settings.api_keys is True


def test_every_catalog_key_arrives(everything: Loaded) -> None:
    catalog = everything.catalog
    cluster = catalog.clusters["here"]
    assert (cluster.scheduler.kind, cluster.scheduler.options) == ("local", {"python": "/usr/bin/python3"})
    assert cluster.link == LinkSpec(kind="direct", ports=(42000, 42099), address="127.0.0.1")
    assert cluster.control == "files"
    model = catalog.models["meta-llama/Llama-3.3-70B-Instruct"]
    assert model.aliases == ("llama-70b", "llama/big")
    assert model.access == Access(groups=frozenset({"staff"}), domains=frozenset({"anl.gov"}))
    assert model.max_model_len == 131072
    deployment = catalog.deployments["llama-70b-here"]
    assert deployment.resources == Resources(
        nodes=1,
        gpus=8,
        cpus=16,
        memory_bytes=64_000_000_000,
        walltime_s=43200.0,
        options={
            "gpu_type": "a100",
            "gpu_request": "gres",
            "constraint": "gpu80",
            "exclusive": True,
            "account": "mine",
            "qos": "premium",
            "partition": "gpu",
            "reservation": "now",
            "extra": ["-l filesystems=home"],
        },
    )
    assert deployment.scaling == Scaling(min=1, max=4, in_flight=32, idle_s=None, linger_s=3600.0, handover=False)
    assert deployment.update is UpdateStyle.DRAIN_FIRST
    assert deployment.engine.env == {"VLLM_LOGGING_LEVEL": "WARNING"}
    assert deployment.engine.start_timeout_s == 2700.0
    assert deployment.engine.preflight is False
    assert deployment.engine.container is not None
    assert deployment.engine.container.binds == ("/adapters:/adapters:ro", "/scratch:/inside:rw")
    running = catalog.deployments["running"]
    assert running.external
    assert running.resources is None
    assert running.engine.options == {"url": "http://127.0.0.1:9000", "key_file": "/keys/closed"}


def test_what_a_local_scheduler_takes_no_notice_of_is_warned_of(everything: Loaded) -> None:
    warned = {finding.path.rpartition(".")[2] for finding in everything.warnings}
    assert warned == {
        "account", "constraint", "exclusive", "extra", "gpu_request", "gpu_type", "linger", "partition", "qos",
        "reservation",
    }  # fmt: skip
    assert all(": warning: " in str(finding) for finding in everything.warnings)


def test_an_empty_file_has_the_defaults_of_the_core(disk: Disk) -> None:
    settings = load("", data_dir=STATE, disk=disk).settings
    admin = Listen(host="", port=0, path="/state/run/admin.sock")
    assert settings.gateway == GatewaySettings(admin=admin, uploads="/state/uploads")
    assert settings.controller == ControllerSettings()
    assert settings.store == StoreSettings(url="sqlite:////state/first.db")


def test_every_setting_of_the_core_can_be_given_in_the_file() -> None:
    given = {key.name for key in all_keys() if key.path[0] in {"gateway", "controller"}}
    for target in (GatewaySettings, ControllerSettings):
        names = {field.name.removesuffix("_s") for field in dataclasses.fields(target)}
        assert names - given - {"uploads"} == set()


# ------------------------------------------------------------------------------------------------------- who wins


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(disk: Disk) -> None:
    text = "gateway: {listen: 127.0.0.1:1}\nstore: sqlite:///file.db\n"
    environ = {"FIRST_LISTEN": "127.0.0.1:2", "FIRST_STORE": "sqlite:///environment.db", "FIRST_DATA": "/environment"}
    assert load(text, data_dir=STATE, disk=disk).settings.gateway.listen.port == 1
    by_environment = load(text, environ=environ, disk=disk).settings
    assert by_environment.gateway.listen.port == 2
    assert by_environment.store.url == "sqlite:////environment/environment.db"
    by_line = load(text, data_dir=STATE, environ=environ, given={"gateway.listen": "127.0.0.1:3"}, disk=disk).settings
    assert by_line.gateway.listen.port == 3
    assert by_line.data_dir == "/state"


def test_a_mistake_in_the_environment_names_the_variable(disk: Disk) -> None:
    with pytest.raises(ConfigError) as raised:
        load("gateway:\n", data_dir=STATE, environ={"FIRST_LISTEN": "here"}, given={"store": "there"}, disk=disk)
    assert [finding.source for finding in raised.value.findings] == ["FIRST_LISTEN", "command line"]
    assert raised.value.message.startswith("FIRST_LISTEN: gateway.listen: ")


def test_a_variable_does_not_hide_a_section_that_is_no_mapping(disk: Disk) -> None:
    with pytest.raises(ConfigError) as raised:
        load("gateway: [1]\n", data_dir=STATE, environ={"FIRST_LISTEN": "127.0.0.1:1"}, disk=disk)
    assert [finding.path for finding in raised.value.findings] == ["gateway"]


def test_the_stores_other_keys_stay_when_its_url_comes_from_the_environment(disk: Disk) -> None:
    text = "store: {url: sqlite:///x.db, password_file: /keys/closed}\n"
    settings = load(text, data_dir=STATE, environ={"FIRST_STORE": "postgresql://db/first"}, disk=disk).settings
    assert settings.store == StoreSettings(url="postgresql://db/first", password_file="/keys/closed")


def test_relative_paths_of_settings_count_from_the_file_and_sqlites_from_the_state_folder(
    tmp_path: Path, disk: Disk
) -> None:
    class Anything(type(disk)):
        def exists(self, path: Path) -> bool:
            return True

        def is_folder(self, path: Path) -> bool:
            return False

    file = tmp_path / "first.yaml"
    file.write_text("gateway: {tls: {certificate: a.pem, key: a.key}}\nstore: sqlite:///sub/first.db\n")
    settings = load(file, data_dir=STATE, disk=Anything()).settings
    assert settings.gateway.tls == TlsFiles(certificate=f"{tmp_path}/a.pem", key=f"{tmp_path}/a.key")
    assert settings.store.url == "sqlite:////state/sub/first.db"
    text = load(file.read_text(), folder=tmp_path, data_dir=STATE, disk=Anything()).settings
    assert text == settings


def test_a_state_folder_too_deep_for_sockets_is_refused(disk: Disk) -> None:
    with pytest.raises(ConfigError, match="too long for the sockets in it"):
        load("", data_dir=Path("/" + "x" * 100), disk=disk)


# ----------------------------------------------------------------------------------------------------- names, engines


def test_a_name_without_slash_is_always_there(disk: Disk) -> None:
    assert load(SMALL, data_dir=STATE, disk=disk).catalog.models["org/llama"].aliases == ("llama",)
    named = SMALL.replace("org/llama:\n", "org/llama: {aliases: [tiny]}\n", 1)
    assert load(named, data_dir=STATE, disk=disk).catalog.models["org/llama"].aliases == ("tiny",)


def test_the_default_start_timeout_never_reaches_beyond_the_walltime(disk: Disk) -> None:
    text = SMALL + "    resources: {walltime: 10m}\n"
    assert load(text, data_dir=STATE, disk=disk).catalog.deployments["one"].engine.start_timeout_s == 600.0
    assert load(SMALL, data_dir=STATE, disk=disk).catalog.deployments["one"].engine.start_timeout_s == 1800.0


def test_without_adapters_an_engines_own_keys_are_kept_unseen(disk: Disk) -> None:
    text = SMALL.replace("/models/llama}", "/models/llama, anything: {a: [1]}}")
    assert load(text, data_dir=STATE, disk=disk).catalog.deployments["one"].engine.options == {"anything": {"a": [1]}}


def test_what_an_adapter_says_stands_at_the_key_it_names(disk: Disk) -> None:
    class Particular(Vllm):
        def check(self, deployment: object) -> list[tuple[str, str]]:
            return [("args.a.b", "is odd"), ("nowhere", "is wanted"), ("env", "is empty")]

    text = SMALL.replace("/models/llama}", "/models/llama, args: {a.b: 1}, env: {}}")
    with pytest.raises(ConfigError) as raised:
        load(text, data_dir=STATE, engines={"vllm": Particular()}, disk=disk)
    found = [(finding.path, finding.column, finding.problem) for finding in raised.value.findings]
    assert found == [
        ("deployments.one.engine", 5, "`nowhere` is wanted"),
        ('deployments.one.engine.args."a.b"', 60, "is odd"),
        ("deployments.one.engine.env", 64, "is empty"),
    ]


@pytest.mark.parametrize("error", [SiteError("no such site"), ConfigError("cannot say")])
def test_an_adapter_that_raises_is_a_finding_and_no_crash(disk: Disk, error: FirstError) -> None:
    class Failing(Vllm):
        def check(self, deployment: object) -> list[tuple[str, str]]:
            raise error

    with pytest.raises(ConfigError) as raised:
        load(SMALL, data_dir=STATE, engines={"vllm": Failing()}, disk=disk)
    assert [finding.problem for finding in raised.value.findings] == [error.message]


# ---------------------------------------------------------------------------------------- revisions and settings alone


def test_a_revision_is_read_without_its_process_settings_and_without_looking_at_the_disk() -> None:
    text = "gateway: {was_valid_once: 1}\nstore: nonsense\n" + SMALL.replace("/models/llama", "/gone")
    catalog = catalog_from_document(text, revision=7)
    assert catalog.revision == 7
    assert catalog.deployments["one"].engine.model == "/gone"


def test_a_revision_that_cannot_be_read_says_so() -> None:
    with pytest.raises(ConfigError, match=r"revision 7:1:1: modles: the file has no key"):
        catalog_from_document("modles: {}\n", revision=7)


def test_a_gateway_starts_whatever_is_wrong_with_the_catalog(disk: Disk) -> None:
    broken = "models: {a: {nonsense: 1}, a: 2}\nclusters: [1]\ngateway: {listen: 127.0.0.1:5}\n"
    assert load_settings(broken, data_dir=STATE, disk=disk).gateway.listen.port == 5
    with pytest.raises(ConfigError) as raised:
        load_settings("models: 1\ngatway: {}\n", data_dir=STATE, disk=disk)
    assert [finding.path for finding in raised.value.findings] == ["gatway"]


def test_the_document_is_kept_as_it_was_given(disk: Disk) -> None:
    text = "# a comment\n" + SMALL
    loaded = load(text, data_dir=STATE, disk=disk)
    assert loaded.document == text
    assert catalog_from_document(loaded.document) == loaded.catalog


# -------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"gateway:\n  queue: 1 # \xff\n", r":2:14: byte 0xff is not UTF-8"),
        ("gateway: {}".encode("utf-16"), r":1:1: the file is UTF-16; expected UTF-8"),
        (b"gateway: {}\n#" + b"x" * 1_000_001, "the file is too long; expected at most 1000 kB"),
        (b"gateway: {}\n# \x07\n", "U\\+0007 is not allowed"),
    ],
)
def test_a_file_that_is_no_text_of_reasonable_size_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "first.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        load(file, data_dir=STATE)


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    file.write_bytes(b"\xef\xbb\xbfgateway:\r\n  queue: 7\r\n")
    assert load(file, data_dir=STATE).settings.gateway.queue == 7


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file"):
        load(tmp_path / "none.yaml", data_dir=STATE)
    with pytest.raises(ConfigError, match="this is no file"):
        load(tmp_path, data_dir=STATE)


def test_a_file_that_all_may_change_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    file.write_text("gateway: {}\n")
    file.chmod(0o646)
    assert "every user of this machine can change" in str(load(file, data_dir=STATE).warnings[0])
    file.chmod(0o644)
    assert not load(file, data_dir=STATE).warnings


# ----------------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("engine", "path", "words"),
    [
        ("args: {enforce-eager: yes}", "args.enforce-eager", "`yes` is a word here, no truth value"),
        ("args: {seed: 0644}", "args.seed", "`0644` is the number 644"),
        ("args: {tensor-parallel-size: 2}", "args.tensor-parallel-size", "6 of 8 GPUs would be idle"),
    ],
)
def test_what_was_hardly_meant_is_warned_of(disk: Disk, engine: str, path: str, words: str) -> None:
    text = (
        SMALL.replace("/models/llama}", "/models/llama, " + engine + "}") + "    resources: {gpus: 8, walltime: 1h}\n"
    )
    (warning,) = load(text, data_dir=STATE, disk=disk).warnings
    assert warning.path == f"deployments.one.engine.{path}"
    assert words in warning.problem


def test_a_quoted_word_is_meant(disk: Disk) -> None:
    text = SMALL.replace("/models/llama}", '/models/llama, args: {x: "no"}}')
    loaded = load(text, data_dir=STATE, disk=disk)
    assert loaded.catalog.deployments["one"].engine.args == {"x": "no"}
    assert not loaded.warnings


def test_a_walltime_in_bare_seconds_is_warned_of(disk: Disk) -> None:
    (warning,) = load(SMALL + "    resources: {walltime: 12}\n", data_dir=STATE, disk=disk).warnings
    assert "`12` is seconds" in warning.problem


def test_prompts_in_the_clear_on_a_public_address_are_warned_of(disk: Disk) -> None:
    (warning,) = load("gateway: {listen: 0.0.0.0:8000}\n", data_dir=STATE, disk=disk).warnings
    assert "unencrypted" in warning.problem


@pytest.mark.parametrize(
    ("limits", "scaling", "warned"),
    [
        ("jobs: 1", "max: 1", "limits.jobs"),
        ("jobs: 2", "min: 2, max: 2", "limits.jobs"),
        ("nodes: 1", "min: 1, max: 1", "limits.nodes"),
        ("jobs: 2, nodes: 2", "min: 1, max: 1", ""),
        ("jobs: 1", "max: 1, handover: off", ""),
        ("{}", "max: 1", ""),
    ],
)
def test_limits_that_leave_no_place_for_a_successor_are_warned_of(
    disk: Disk, limits: str, scaling: str, warned: str
) -> None:
    text = f"""
clusters:
  here:
    scheduler: {{kind: local}}
    runner: {{kind: local}}
    link: {{kind: local}}
    run_dir: /srv
    limits: {limits if limits == "{}" else "{" + limits + "}"}
models: {{org/llama: {{}}}}
deployments:
  one:
    model: org/llama
    cluster: here
    engine: {{kind: llamacpp, model: /models/llama}}
    resources: {{walltime: 1h}}
    scaling: {{{scaling}}}
"""
    loaded = load(text, data_dir=STATE, disk=disk)
    assert [finding.path.partition("here.")[2] for finding in loaded.warnings] == ([warned] if warned else [])
