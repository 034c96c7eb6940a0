# SPDX-License-Identifier: Apache-2.0
"""The ssh_config that is written for a cluster: what is settled comes first, whatever else is said."""

from firstkit.adapters.runners.ssh_place import SshPlace, digest_of, render_config


def line_of(config: str, word: str) -> int:
    return next(number for number, line in enumerate(config.splitlines()) if line.split()[:1] == [word])


def test_what_keeps_a_login_safe_stands_before_what_the_users_own_file_says() -> None:
    config = render_config(SshPlace(host="login1", key="/keys/a"))
    include = line_of(config, "Include")
    for word in ("StrictHostKeyChecking", "BatchMode", "ForwardAgent", "PermitLocalCommand", "IdentitiesOnly"):
        assert line_of(config, word) < include
    assert "StrictHostKeyChecking yes" in config


def test_user_and_port_hold_for_the_login_alone_and_not_for_the_hosts_jumped_over() -> None:
    config = render_config(SshPlace(host="login1", user="svc", port=2222, jump="bastion")).splitlines()
    mine, everybody = config.index("Host login1"), config.index("Host *")
    assert mine < config.index("  User svc") < everybody
    assert mine < config.index("  Port 2222") < everybody
    assert mine < config.index("  ProxyJump bastion") < everybody


def test_no_file_of_the_users_is_read_where_that_is_said() -> None:
    assert "Include" not in render_config(SshPlace.of({"host": "login1", "ssh_config": "none"}))


def test_signs_that_ssh_would_expand_are_kept_as_they_are() -> None:
    assert 'IdentityFile "/keys/100%% mine"' in render_config(SshPlace(host="login1", key="/keys/100% mine"))


def test_a_connection_goes_by_everything_that_decides_where_it_leads_and_as_whom() -> None:
    places = [SshPlace(host="a"), SshPlace(host="b"), SshPlace(host="a", user="me"), SshPlace(host="a", key="/k")]
    assert len({digest_of(place) for place in places}) == len(places)
    assert digest_of(SshPlace(host="a", python="python3.11", renew="x")) == digest_of(SshPlace(host="a"))
