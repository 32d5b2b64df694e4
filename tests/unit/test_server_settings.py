"""Settings of a server: four layers; a mistake is named with its place and the nearest name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.node.settings import ServerSettings, rules
from dvecdb.node.sources import SHORT_NAMES, load


def refused(**layers):
    with pytest.raises(InvalidRequestError) as caught:
        load(**layers)
    assert caught.value.code == Code.INVALID_SETTINGS
    return caught.value.message


def test_later_layers_win_and_each_value_says_where_it_comes_from():
    loaded = load(
        toml='host = "::1"\nrest_port = 1\ngrpc_port = 2\n\n[engine]\nflush_bytes = 5\n',
        path="d.toml",
        environment={"DVECDB_REST_PORT": "3", "DVECDB_GRPC_PORT": "4", "HOME": "/"},
        flags={"rest_port": 5, "metrics_port": None},
    )
    settings = loaded.settings
    assert (settings.host, settings.grpc_port, settings.rest_port) == ("::1", 4, 5)
    assert settings.engine.flush_bytes == 5
    assert loaded.origins["host"] == "d.toml:1"
    assert loaded.origins["grpc_port"] == "DVECDB_GRPC_PORT"
    assert loaded.origins["rest_port"] == "--rest-port"
    assert loaded.origins["metrics_port"] == "default"
    assert loaded.origins["engine.flush_bytes"] == "d.toml:6"


def test_every_type_can_come_from_the_environment():
    settings = load(
        environment={
            "DVECDB_LEGACY_ERRORS": "Yes",
            "DVECDB_SHUTDOWN_SECONDS": "2.5",
            "DVECDB_CORS_ORIGINS": "https://a.example, https://b.example",
            "DVECDB_TLS_CERT": "c.pem",
            "DVECDB_TLS_KEY": "k.pem",
            "DVECDB_ENGINE_FLUSH_COMMITS": "7",
        }
    ).settings
    assert settings.legacy_errors is True
    assert settings.shutdown_seconds == 2.5
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert (settings.tls_cert, settings.tls_key) == ("c.pem", "k.pem")
    assert settings.engine.flush_commits == 7


@pytest.mark.parametrize(
    ("layers", "origin"),
    [
        ({"toml": "trash_hours = 48", "path": "d.toml"}, "d.toml:1"),
        ({"toml": "[engine]\ntrash_hours = 48", "path": "d.toml"}, "d.toml:2"),
        ({"environment": {"DVECDB_TRASH_HOURS": "48"}}, "DVECDB_TRASH_HOURS"),
        ({"environment": {"DVECDB_ENGINE_TRASH_HOURS": "48"}}, "DVECDB_ENGINE_TRASH_HOURS"),
        ({"flags": {"trash_hours": 48}}, "--trash-hours"),
        ({"assignments": ["trash_hours=48"]}, "--set trash_hours"),
        ({"assignments": ["engine.trash_hours=48"]}, "--set engine.trash_hours"),
    ],
)
def test_the_hours_of_the_trash_are_the_engines_by_either_name(layers, origin):
    loaded = load(**layers)
    assert loaded.settings.engine.trash_hours == 48
    assert loaded.origins["engine.trash_hours"] == origin


def test_a_later_layer_wins_by_whichever_name():
    loaded = load(
        toml="[engine]\ntrash_hours = 1", environment={"DVECDB_TRASH_HOURS": "2"},
        assignments=["engine.trash_hours=3"],
    )  # fmt: skip
    assert loaded.settings.engine.trash_hours == 3


@pytest.mark.parametrize("value", ["-1", "876001", "x"])
def test_an_engine_setting_that_cannot_work_is_refused_with_its_origin(value):
    message = refused(environment={"DVECDB_TRASH_HOURS": value})
    assert message.startswith("DVECDB_TRASH_HOURS: ")
    assert "trash_hours" in message
    assert value in message


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one():
    text = '# a comment\nhost = "127.0.0.1"\nrest_prot = 3031\n'
    message = refused(toml=text, path="/etc/d.toml")
    assert "/etc/d.toml:3" in message
    assert "'rest_prot'" in message
    assert "'rest_port'" in message
    message = refused(toml="[engine]\nflush_byte = 3\n", path="d.toml")
    assert "d.toml:2" in message
    assert "'flush_bytes'" in message
    assert "table [server]" in refused(toml="[server]\nrest_port = 1\n", path="d.toml")
    assert "'DVECDB_REST_PORT'" in refused(environment={"DVECDB_RESTPORT": "1"})


def test_what_is_no_toml_is_named_with_its_line():
    assert "line 2" in refused(toml="host = '::1'\nrest_port = = 3\n", path="d.toml")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"toml": 'rest_port = "3030"'}, ["d.toml:1", "rest_port", "a whole number", "'3030'"]),
        ({"toml": "rest_port = true"}, ["rest_port", "a whole number"]),
        ({"toml": "rest_port = 70000"}, ["d.toml:1", "rest_port", "65535", "70000"]),
        ({"toml": "legacy_errors = 1"}, ["legacy_errors", "yes or no"]),
        ({"toml": 'import_roots = "/a"'}, ["import_roots", "a list"]),
        ({"toml": 'host = "example.com"'}, ["host", "an IP address"]),
        ({"toml": 'log_level = "loud"'}, ["log_level", "debug, info"]),
        ({"toml": "[engine]\nflush_bytes = 0"}, ["flush_bytes", "positive"]),
        ({"environment": {"DVECDB_REST_PORT": "x"}}, ["DVECDB_REST_PORT", "a whole number", "'x'"]),
        ({"environment": {"DVECDB_LEGACY_ERRORS": "2"}}, ["DVECDB_LEGACY_ERRORS", "yes or no"]),
        ({"flags": {"rest_port": 9090}}, ["must differ"]),
        ({"flags": {"tls_cert": "c.pem"}}, ["tls_cert and tls_key"]),
        ({"flags": {"request_timeout_seconds": float("nan")}}, ["request_timeout_seconds"]),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(layers, words):
    message = refused(**{"path": "d.toml", **layers})
    assert [word for word in words if word not in message] == []


def test_what_others_set_in_the_environment_is_left_alone():
    load(
        environment={
            "DVECDB_API_KEY": "secret",
            "DVECDB_URL": "http://localhost:3030",
            "DVECDB_JOB_OPENAI_KEY": "secret",
            "DVECDB_PORT": "tcp://10.0.0.1:3030",
            "DVECDB_PORT_3030_TCP_ADDR": "10.0.0.1",
            "DVECDB_SERVICE_HOST": "10.0.0.1",
            "DVECDB_SOAK": "1",
        }
    )


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.4", False)],
)  # fmt: skip
def test_only_loopback_is_loopback(host, is_loopback):
    assert ServerSettings(host=host).is_loopback is is_loopback


def test_there_are_few_settings_and_each_has_a_unit_and_a_reason():
    assert len(rules()) <= 26
    for name, rule in rules().items():
        assert rule.unit, name
        assert len(rule.why) > 10, name


def is_unknown(text):
    return text not in {*rules(), *SHORT_NAMES}


@given(st.text(alphabet="abcdefgh_", min_size=1).filter(is_unknown))
def test_no_unknown_name_is_ever_taken(name):
    refused(toml=f"{name} = 1", path="d.toml")
    refused(environment={f"DVECDB_{name.upper()}": "1"})
