import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamd.config import CameraConfig, Config, Publish, load_config
from streamd.config.exposure import readable_secrets
from streamd.config.reference import render
from streamd.config.section import key_of
from streamd.errors import ConfigError

GATE = "cameras:\n  - id: gate\n    url: rtsp://camera-1.example/stream\n"


def load(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Config:
    path = folder / "streamd.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ or {})


def faults(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The faults of `text`, without the file's name that each has to begin with."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ)
    file = str(folder / "streamd.yaml")
    lines = str(caught.value).splitlines()
    assert lines == [str(fault) for fault in caught.value.faults]
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(file).removeprefix(":") for line in lines]


def test_the_smallest_file_is_a_camera_with_an_id_and_a_url(tmp_path: Path) -> None:
    config = load(tmp_path, GATE)
    (camera,) = config.cameras
    assert (camera.id, camera.url) == ("gate", "rtsp://camera-1.example/stream")
    assert (camera.fps, camera.classes, camera.enabled) == ("all", None, True)
    assert (camera.transport, camera.tls_verify, camera.loop) == ("tcp", False, False)
    assert config.publish is Publish.DETECTIONS
    assert (config.redis.url, config.redis.stream) == (
        "redis://localhost:6379/0",
        "streamd:detections",
    )
    assert (config.model.batch_size, config.model.confidence, config.model.iou) == (8, 0.25, 0.7)
    assert (config.http.host, config.http.port) == ("127.0.0.1", 8080)


def test_the_reference_file_is_what_the_models_say_and_holds_every_default(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "config" / "streamd.yaml"
    assert shipped.read_text(encoding="utf-8") == render()
    assert load(tmp_path, render()).model_dump() == load(tmp_path, GATE).model_dump()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", " is empty; at least cameras: is needed"),
        ("- 1\n", " holds no keys; at least cameras: is needed"),
        ("just text\n", " holds no keys; at least cameras: is needed"),
        ("log: {}\n", "1: cameras: is missing"),
        ("cameras: [\n", "2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: 'b\n", "2: not valid YAML: found unexpected end of stream"),
        ("a: b: c\n", "1: not valid YAML: mapping values are not allowed here"),
        (GATE + "---\na: 1\n", "4: not valid YAML: but found another document"),
        (
            GATE + "x\x00y",
            "4: not valid YAML: unacceptable character #x0000: special characters are",
        ),
        (GATE + "http:\n  port: *nowhere\n", "5: not valid YAML: found undefined alias 'nowhere'"),
        (
            "cameras: &all [*all]\n",
            " is nested too deeply, or an alias stands within what it names",
        ),
        ("a: " + "[" * 600, " is nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_says_so_with_its_line(
    tmp_path: Path, text: str, fault: str
) -> None:
    (found,) = faults(tmp_path, text)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GATE + "modle: {}\n", "4: modle: unknown key, did you mean 'model'?"),
        (
            GATE + "model:\n  batch_size: 4\n  confidance: 0.5\n",
            "6: model.confidance: unknown key, did you mean 'confidence'?",
        ),
        (GATE + "    urll: x\n", "4: cameras[0].urll: unknown key, did you mean 'url'?"),
        (
            GATE + "http: {zzz: 1}\n",
            "4: http.zzz: unknown key; known are host, port, token, "
            "requests_per_s, camera_schemes, camera_folders",
        ),
        (GATE + "? [a, b]\n: 1\n", "4: has a key that is no plain text"),
        ("cameras:\n  - url: x.mp4\n", "2: cameras[0].id: is missing"),
        ("cameras:\n  - id: x\n", "2: cameras[0].url: is missing"),
        ("cameras:\n", "1: cameras: should be a list"),
        ("cameras: {id: gate}\n", "1: cameras: should be a list"),
        ("cameras: []\n", "1: cameras: should have at least one entry"),
        ("cameras:\n  - gate\n", "2: cameras[0]: should hold keys"),
        (GATE + "redis:\n", "4: redis: should hold keys"),
        (
            "cameras:\n  - {id: a b, url: x.mp4}\n",
            "2: cameras[0].id: 'a b' may hold letters, digits, '_', '-', '.'; at most 64",
        ),
        (
            GATE + "http: {port: 65536}\n",
            "4: http.port: input should be less than or equal to 65535",
        ),
        (GATE + "http: {port: web}\n", "4: http.port: input should be a valid integer"),
        (GATE + "publish: some\n", "4: publish: input should be 'changes', 'detections' or 'all'"),
        (
            GATE + "    fps: 0\n",
            "4: cameras[0].fps: input should be 'all'; or input should be greater than 0",
        ),
        (GATE + "    fps: yes\n", "4: cameras[0].fps: should be a number, not true"),
        (GATE + "    priority: false\n", "4: cameras[0].priority: should be a number, not false"),
        (
            GATE + "http: {host: '[::1]'}\n",
            "4: http.host: is no address; an IPv6 one stands without [ ], the port in http.port",
        ),
        (GATE + "http: {host: '127.0.0.1:80'}\n", "4: http.host: is no address; an IPv6 one"),
        (GATE + "http: {host: 'http://a'}\n", "4: http.host: is no address; an IPv6 one"),
        (
            GATE + "redis: {status_stream: 's:{camera}'}\n",
            "4: redis.status_stream: is one for all cameras: it may hold no { or }",
        ),
        (
            "redis: {stream: 's:{camera}', status_stream: s:a}\ncameras: [{id: a, url: a.mp4}]\n",
            "2: cameras[0].id: its events would go to s:a, the redis.status_stream",
        ),
        (GATE + "model: {path: ''}\n", "4: model.path: string should have at least 1 character"),
        (GATE + "http: {port: true}\n", "4: http.port: should be a number, not true"),
        (
            "cameras:\n  - id: gate\n    url: rtsp://u:${A:-${B}}@h/s\n",
            "3: cameras[0].url: holds a ${ that is no ${NAME}; a dollar sign itself is $$",
        ),
        (GATE + "    fps: .nan\n", "4: cameras[0].fps: input should be 'all'; or input should be"),
        (
            GATE + "    fps: {all: 1}\n",
            "4: cameras[0].fps: input should be 'all'; or input should be a valid number",
        ),
        (
            GATE + "model: {confidence: .nan}\n",
            "4: model.confidence: input should be less than or equal",
        ),
        (GATE + "    loop: true\n", "4: cameras[0].loop: is for local files"),
        (GATE + "    paced: true\n", "4: cameras[0].paced: is for local files"),
        (
            "cameras: [{id: a, url: 'rtmp://x/y'}]\n",
            "1: cameras[0].url: scheme 'rtmp' is none of rtsp://, rtsps://, http://, https://, nor",
        ),
        (
            GATE + "redis: {url: 'http://x'}\n",
            "4: redis.url: scheme 'http' is none of redis://, rediss://, unix://",
        ),
        (GATE + "redis: {tls_ca: ca.pem}\n", "4: redis.tls_ca: is for rediss:// alone"),
        (GATE + "log: {max_mb: .inf}\n", "4: log.max_mb: input should be less than or equal to"),
        (GATE + "log: {max_mb: 1e300}\n", "4: log.max_mb: input should be less than or equal to"),
        (
            GATE + "ingest: {workers: 100000}\n",
            "4: ingest.workers: input should be 'auto'; or input should be less than or equal to",
        ),
        (GATE + "redis: {url: x}\n", "4: redis.url: scheme '(none)' is none of"),
        (GATE + "http: {port: !!int x}\n", "4: http.port: cannot be read as "),
        (GATE + "http: {port: !!int ''}\n", "4: http.port: cannot be read as "),
        (GATE + "http: {port: !!bool x}\n", "4: http.port: cannot be read as "),
        (GATE + "http: {port: !!timestamp x}\n", "4: http.port: cannot be read as "),
        (GATE + "http: {port: 2001-02-30}\n", "4: http.port: cannot be read as "),
        (GATE + "http: {port: !!python/none x}\n", "4: http.port: cannot be read as "),
    ],
)
def test_a_fault_names_line_and_key_and_says_what_is_wrong(
    tmp_path: Path, text: str, fault: str
) -> None:
    (found,) = faults(tmp_path, text)
    assert found.startswith(fault)


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "http: {port: -1}\ncameras:\n  - id: a\n  - {id: b, url: x, fps: -1}\nzzz: 1\n"
    lines = [fault.split(": ")[:2] for fault in faults(tmp_path, text)]
    assert lines == [
        ["1", "http.port"],
        ["3", "cameras[0].url"],
        ["4", "cameras[1].fps"],
        ["5", "zzz"],
    ]


def test_a_key_that_stands_twice_names_both_lines(tmp_path: Path) -> None:
    text = GATE + "http:\n  port: 1\n  host: x\n  port: 2\n"
    assert faults(tmp_path, text) == ["7: http.port: stands twice, first in line 5"]
    text = "cameras:\n  - id: a\n    url: x\n    id: b\n" + GATE
    assert faults(tmp_path, text) == [
        "4: cameras[0].id: stands twice, first in line 2",
        "5: cameras: stands twice, first in line 1",
    ]


def test_an_id_that_is_taken_names_the_line_of_the_first(tmp_path: Path) -> None:
    text = GATE + "  - {id: yard, url: a}\n  - id: gate\n    url: b\n  - {id: yard, url: c}\n"
    assert faults(tmp_path, text) == [
        "5: cameras[2].id: 'gate' is already the id of the camera in line 2",
        "7: cameras[3].id: 'yard' is already the id of the camera in line 4",
    ]


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigError, match=r"missing\.yaml: no such file"):
        load_config(missing, {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("# gate\ncameras: [Süd]".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: cannot be read: is not UTF-8 text"):
        load_config(latin, {})


def test_aliases_that_stand_for_billions_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (fault,) = faults(tmp_path, "\n".join(lines))
    assert fault == " holds more than 4 MiB or 200000 values, aliases expanded"


def test_merges_that_stand_for_billions_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    (fault,) = faults(tmp_path, "\n".join(lines))
    assert fault == " holds more than 4 MiB or 200000 values, aliases expanded"


USUAL = """\
x-usual: &usual
  fps: 5
  classes: [person]
cameras:
"""


def test_cameras_share_settings_by_merge_keys(tmp_path: Path) -> None:
    yard = "  - &yard {<<: *usual, id: yard, url: 'rtsp://${USER}@camera.example/1', fps: 2}\n"
    lane = "  - {id: lane, <<: [*yard, *usual]}\n"
    config = load(tmp_path, USUAL + yard + lane, {"USER": "me"})
    assert [camera.id for camera in config.cameras] == ["yard", "lane"]
    assert [camera.fps for camera in config.cameras] == [2, 2]
    assert [camera.classes for camera in config.cameras] == [("person",)] * 2
    assert config.cameras[1].url == "rtsp://me@camera.example/1"


@pytest.mark.parametrize(
    ("camera", "fault"),
    [
        ("{<<: *usual, id: a}", "5: cameras[0].url: is missing"),
        ("{<<: usual, id: a, url: b}", "5: cameras[0].<<: should name keys with their values"),
        ("{<<: [*usual, 1], id: a, url: b}", "5: cameras[0].<<: should name keys with their"),
        ("{<<: {fsp: 1}, id: a, url: b}", "5: cameras[0].fsp: unknown key, did you mean 'fps'?"),
        ('{"<<": *usual, id: a, url: b}', "5: cameras[0].<<: unknown key"),
        ("{<<: *usual, x-fps: 5, id: a, url: b}", "5: cameras[0].x-fps: unknown key"),
        ("&a {<<: *a, id: a, url: b}", " is nested too deeply, or an alias stands within what"),
    ],
)
def test_a_merge_that_does_not_fit_is_a_fault(tmp_path: Path, camera: str, fault: str) -> None:
    (found,) = faults(tmp_path, f"{USUAL}  - {camera}\n")
    assert found.startswith(fault)


def test_a_fault_of_a_shared_setting_has_the_line_where_it_stands(tmp_path: Path) -> None:
    text = USUAL.replace("fps: 5", "fps: -1") + "  - {<<: *usual, id: a, url: rtsp://camera/1}\n"
    (found,) = faults(tmp_path, text)
    assert found.startswith("2: cameras[0].fps: ")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, GATE + "#" * (5 << 20))
    assert fault.startswith(" holds more than 4 MiB")


def test_variables_that_never_end_take_no_time(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "cameras: '" + "${A:-" * 6_000 + "'")
    assert fault.startswith("1: cameras: holds a ${ that is no ${NAME}")


def url_of(folder: Path, written: str, **environ: str) -> str:
    text = f"cameras:\n  - id: gate\n    url: {written}\n"
    return load(folder, text, environ).cameras[0].url


def test_variables_come_from_the_environment_or_their_default(tmp_path: Path) -> None:
    login = "rtsp://${USER_}:${WORD:-guest}@h/s"
    assert url_of(tmp_path, login, USER_="ann", WORD="x y") == "rtsp://ann:x y@h/s"
    assert url_of(tmp_path, login, USER_="ann") == "rtsp://ann:guest@h/s"
    assert url_of(tmp_path, "x${WORD:-}y", WORD="") == "xy"


def test_an_empty_variable_takes_its_default_as_in_a_shell(tmp_path: Path) -> None:
    assert url_of(tmp_path, "${NAME:-a}.mp4", NAME="") == "a.mp4"


def test_two_dollars_are_one_and_a_single_one_is_itself(tmp_path: Path) -> None:
    assert url_of(tmp_path, "a$$b$c", b="!") == "a$b$c"
    assert url_of(tmp_path, "a$${X}b", X="!") == "a${X}b"


def test_what_a_variable_holds_is_not_expanded_again(tmp_path: Path) -> None:
    assert url_of(tmp_path, "a${X}b", X="${Y}$$", Y="!") == "a${Y}$$b"


def test_a_missing_variable_names_itself_and_its_key(tmp_path: Path) -> None:
    text = "cameras:\n  - id: gate\n    url: rtsp://${WHO}:${PASS}@h/s\n"
    assert faults(tmp_path, text, {"WHO": "ann"}) == [
        "3: cameras[0].url: the environment has no variable PASS"
    ]


def test_an_unquoted_variable_is_read_as_what_it_holds_and_a_quoted_one_as_text(
    tmp_path: Path,
) -> None:
    size = GATE + "model:\n  imgsz: {written}\n"
    environ = {"SIDE": "320", "ON": "false"}
    assert load(tmp_path, size.replace("{written}", "${SIDE}"), environ).model.imgsz == 320
    (fault,) = faults(tmp_path, size.replace("{written}", "'${SIDE}'"), environ)
    assert fault.startswith("5: model.imgsz: '320' is none of")
    assert not load(tmp_path, GATE + "    enabled: ${ON}\n", environ).cameras[0].enabled


@pytest.mark.parametrize("value", ["2001-99-99", "-", "...", "0x_", "---", "9" * 5000])
def test_a_variable_that_holds_no_such_value_is_a_fault_of_its_key(
    tmp_path: Path, value: str
) -> None:
    (fault,) = faults(tmp_path, GATE + "http:\n  port: ${PORT}\n", {"PORT": value})
    assert fault.startswith("5: http.port: ")
    assert len(fault) < 200


@pytest.mark.parametrize(
    "text",
    [
        "cameras:\n  - { id: gate, url: ${URL} }\n",
        "cameras:\n  - { id: gate, url: rtsp://${WHO}:${PASS}@h/s }\n",
    ],
)
def test_an_unquoted_variable_within_braces_gets_a_hint(tmp_path: Path, text: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith("2: not valid YAML: ")
    assert fault.endswith("inside { } a value with ${...} needs quotes")


def test_within_braces_a_quoted_variable_works(tmp_path: Path) -> None:
    text = 'cameras:\n  - { id: gate, url: "rtsp://${WHO}@h/s" }\n'
    assert load(tmp_path, text, {"WHO": "ann"}).cameras[0].url == "rtsp://ann@h/s"


@pytest.mark.parametrize(
    "text",
    [
        "cameras: [{id: 'rtsp://ann:s3cret@h/s', url: x}]\n",
        "cameras: [{id: a, url: 'rtmp://ann:s3cret@h/s'}]\n",
        "cameras: [{id: a, url: x.mp4, fps: 'rtsp://ann:s3cret@h/s'}]\n",
        GATE + "redis: {url: 'http://:s3cret@h'}\n",
        GATE + "model: {imgsz: 'http://h/?password=s3cret'}\n",
        GATE + "model: {imgsz: 'rtsp://ann:s3/cret@h/s'}\n",
    ],
)
def test_no_message_tells_a_password(tmp_path: Path, text: str) -> None:
    assert "cret" not in "\n".join(faults(tmp_path, text))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3/cret@h:6379",
        "redis://:s3#cret@h",
        "redis://:s3?cret@h",
        "redis://:1/cret@h",
        "redis://h:99999/0",
        "redis://h/0?s3cret=1",
        "redis://h/0?socket_timeout=s3cret",
        "redis://:s3[cret]@h",
        "redis://h/s3cret",
        "redis://h/0/1",
        "redis://h?db=s3cret",
        "redis://h?db=-1",
        "redis://h?db=",
        "redis://h?ssl_cert_reqs=none",
        "rediss://h?ssl_cert_reqs=s3cret",
        "unix:///redis.sock?ssl_keyfile=x",
        "unix://",
        "redis+sentinel://h:26379/service/s3cret",
        "redis+sentinel://h:26379/service/0/1",
        "redis+sentinel://h:26379/service?db=s3cret",
        "redis+sentinel:///service",
        "redis+sentinel://h,/service",
        "redis+cluster://",
        "redis+cluster://h/1",
        "redis+cluster://h?db=1",
    ],
)
def test_a_redis_url_that_the_client_would_stumble_over_is_a_fault(
    tmp_path: Path, url: str
) -> None:
    (fault,) = faults(tmp_path, GATE + f"redis:\n  url: '{url}'\n")
    assert fault.startswith("5: redis.url: has ")
    assert "cret" not in fault


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "REDIS://h",
        "redis://user:p%2Fw@h:6379/1",
        "redis://[::1]:6379?db=2",
        "rediss://h?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1&password=x",
        "redis+sentinel://[::1]:26379,h/service/3",
        "rediss+sentinel://h/service?db=3&ssl_ca_certs=ca.pem",
        "redis+cluster://h:7000/0",
        "rediss+cluster://h:7000?ssl_cert_reqs=none",
    ],
)
def test_a_redis_url_that_the_client_understands_is_taken(tmp_path: Path, url: str) -> None:
    loaded = load(tmp_path, GATE + f"redis:\n  url: '{url}'\n")
    assert loaded.redis.url.lower() == url.lower()
    assert loaded.redis.url.startswith(("redis", "unix"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "camera-1.example", "127.1"])
def test_http_for_other_machines_needs_a_token(tmp_path: Path, host: str) -> None:
    text = GATE + f"http:\n  host: '{host}'\n"
    assert faults(tmp_path, text) == [
        f"5: http.host: {host} can be reached by other machines: set http.token, "
        "or keep to 127.0.0.1"
    ]
    config = load(tmp_path, text + "  token: ${TOKEN}\n", {"TOKEN": "0123456789abcdef"})
    assert config.http.token
    assert config.http.token.get_secret_value() == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(config) + config.model_dump_json()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_http_for_this_machine_needs_none(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, GATE + f"http: {{host: '{host}'}}\n").http.token is None


@pytest.mark.parametrize(
    "token", ["s3cret", "''", "s3cret with spaces in it", "'s3crét-aaaaaaaaaaaaaaa'", "1" * 16]
)
def test_a_token_that_is_too_easy_or_cannot_be_sent_is_a_fault(tmp_path: Path, token: str) -> None:
    (fault,) = faults(tmp_path, GATE + f"http:\n  token: {token}\n")
    assert fault.startswith("5: http.token: ")
    assert "cr" not in fault


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("redis:\n  url: redis://:s3cret@h", "redis.url"),
        ("redis:\n  url: redis://h/0?password=s3cret", "redis.url"),
        ("redis:\n  url: redis://:${WORD:-s3cret}@h", "redis.url"),
        ("http:\n  token: s3cret-s3cret-s3cret", "http.token"),
    ],
)
def test_passwords_that_others_can_read_are_told(tmp_path: Path, lines: str, key: str) -> None:
    config = load(tmp_path, GATE + lines + "\n")
    path = tmp_path / "streamd.yaml"
    for mode in (0o604, 0o644):
        path.chmod(mode)
        warning = str(readable_secrets(config))
        assert warning.startswith(f"{path}:5: {key}: holds a password that others can read")
        assert f"mode {mode:04o}" in warning
        assert "s3cret" not in warning
    for mode in (0o600, 0o640):
        path.chmod(mode)
        assert readable_secrets(config) is None


def test_passwords_from_the_environment_may_stand_in_a_file_that_all_can_read(
    tmp_path: Path,
) -> None:
    text = "cameras:\n  - id: a\n    url: rtsp://ann:${P}@h/s?token=${P}\n  - id: b\n    url: rtsp://ann@h/s\n"
    config = load(tmp_path, text + "http: {token: '${T}'}", {"P": "s3cret", "T": "t" * 16})
    (tmp_path / "streamd.yaml").chmod(0o644)
    assert readable_secrets(config) is None


def test_of_several_passwords_the_first_is_named_and_the_rest_counted(tmp_path: Path) -> None:
    config = load(tmp_path, GATE.replace("rtsp://", "rtsp://a:b@") + "redis: {url: 'redis://:x@h'}")
    (tmp_path / "streamd.yaml").chmod(0o644)
    warning = str(readable_secrets(config))
    assert ":3: cameras[0].url: holds a password (and 1 more) that" in warning


@pytest.mark.parametrize(
    ("written", "size"), [("auto", "auto"), ("640", 640), ("[384, 640]", (384, 640))]
)
def test_an_input_size_is_auto_a_side_or_height_and_width(
    tmp_path: Path, written: str, size: object
) -> None:
    assert load(tmp_path, GATE + f"model: {{imgsz: {written}}}\n").model.imgsz == size


@pytest.mark.parametrize(
    "written", ["[640]", "[1, 640]", "[1, 2, 3]", "true", "[true, 640]", "16", "640.5", "small"]
)
def test_other_input_sizes_are_faults(tmp_path: Path, written: str) -> None:
    (fault,) = faults(tmp_path, GATE + f"model: {{imgsz: {written}}}\n")
    assert fault.startswith("4: model.imgsz: ")


def test_a_disabled_camera_is_kept_and_not_read(tmp_path: Path) -> None:
    config = load(tmp_path, GATE + "  - {id: yard, url: a, enabled: false}\n")
    assert [camera.id for camera in config.cameras] == ["gate", "yard"]
    assert [camera.id for camera in config.enabled_cameras] == ["gate"]


def test_a_fault_found_later_has_the_line_of_the_key_or_of_what_holds_it(tmp_path: Path) -> None:
    config = load(tmp_path, GATE + "model:\n  path: x.onnx\n")
    assert config.fault(("model", "path"), "").line == 5
    assert config.fault(("model", "iou"), "").line == 4
    assert config.fault(("cameras", 0, "url"), "no").key == "cameras[0].url"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("clips/gate.mp4", True),
        ("/srv/gate.mp4", True),
        ("file:///srv/gate.mp4", True),
        ("rtsp://h/s", False),
        ("https://h/s.m3u8", False),
    ],
)
def test_a_path_is_told_from_the_address_of_a_camera(tmp_path: Path, url: str, local: bool) -> None:
    config = load(tmp_path, f"cameras: [{{id: a, url: '{url}'}}]")
    assert config.cameras[0].is_local_file is local


def test_a_location_is_written_as_a_reader_would() -> None:
    assert key_of(("cameras", 0, "url")) == "cameras[0].url"
    assert key_of(("model", "imgsz", 1)) == "model.imgsz[1]"
    assert key_of(()) == ""


def must_load_or_name_faults(folder: Path, text: str, environ: Mapping[str, str]) -> None:
    path = folder / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    faults = None
    try:
        load_config(path, environ)
    except ConfigError as error:
        faults = error.faults
    assert faults is None or {fault.file for fault in faults} == {str(path)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@given(st.text("ab: -[]{}&*!|>'\"%@`#?,\n\t$\0é\u2028\ud800", max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_loads_or_is_refused_with_faults(folder: Path, text: str) -> None:
    must_load_or_name_faults(folder, text, {})


KEYS = st.sampled_from(
    [*Config.model_fields, "id", "url", "imgsz", "fps", "loop", "classes", "port", "path", "x", 1]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.dates(),
    st.sampled_from(["all", "auto", "rtsp://u:p@h/s", "${A}", "${B:-1}", "$$", "", "//[x", "a"]),
)
TREES = st.recursive(
    SCALARS, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(KEYS, tree, max_size=4)
)


@given(st.dictionaries(KEYS, TREES, max_size=5), st.text("a1-.x_:${}\n'", max_size=6))
@settings(max_examples=80, deadline=None)
def test_any_tree_of_yaml_loads_or_is_refused_with_faults(
    folder: Path, tree: dict[object, object], variable: str
) -> None:
    must_load_or_name_faults(folder, yaml.safe_dump(tree), {"A": variable})


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_load_or_are_refused_with_faults(folder: Path, data: bytes) -> None:
    path = folder / "bytes.yaml"
    path.write_bytes(data)
    with suppress(ConfigError):
        load_config(path, {})


SHIPPED = render().encode()


def damaged(rng: random.Random) -> bytes:
    """The reference file with a few of its bytes changed, moved or left out."""
    data = bytearray(SHIPPED)
    for _ in range(rng.randint(1, 8)):
        at, span = rng.randrange(len(data)), rng.choice((1, 1, 5, 50))
        piece = bytes(rng.choice(b"\t\n :-[]{}&*!|>'\"%@`#?,$\0ax1.~\xff") for _ in range(span))
        begin = rng.randrange(len(data))
        data[at : at + rng.choice((0, span))] = rng.choice((piece, data[begin : begin + span]))
    return bytes(data)


def load_damaged(folder: Path, seeds: range) -> None:
    path = folder / "damaged.yaml"
    for seed in seeds:
        path.write_bytes(damaged(random.Random(seed)))
        with suppress(ConfigError):
            load_config(path, {"A": "1"})


def test_the_reference_file_damaged_loads_or_is_refused_with_faults(folder: Path) -> None:
    load_damaged(folder, range(30))


@pytest.mark.slow
def test_thousands_of_damaged_files_load_or_are_refused_with_faults(folder: Path) -> None:
    load_damaged(folder, range(100, 5000))


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://",
        "rtsp:///stream",
        "rtsp://127.0.0.1:99999/x",
        "rtsp://h:0/x",
        "rtsp://cam:p@ss:w/rd@host/x",
        "http://cam:p/rd@host/x",
    ],
)
def test_a_network_url_without_a_valid_host_is_a_fault(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"cameras:\n  - id: a\n    url: {url}\n")
    said = str(caught.value)
    assert ":3: cameras[0].url: has no valid host or port" in said
    assert "p@ss" not in said


@pytest.mark.parametrize(
    ("scheme", "most"), [("rtsp", 127), ("rtsps", 127), ("http", 1023), ("https", 1023)]
)
def test_a_login_that_ffmpeg_would_cut_off_is_a_fault(scheme: str, most: int) -> None:
    longest = f"{scheme}://u:{'p' * (most - 2)}@h/x"
    assert CameraConfig(id="a", url=longest).url == longest
    with pytest.raises(ValidationError, match=f"more than {most} bytes of user and password"):
        CameraConfig(id="a", url=longest.replace("u:", "uu:"))


def test_the_zone_of_an_ipv6_address_may_be_escaped() -> None:
    camera = CameraConfig(id="a", url="rtsp://u:p%25@[fe80::1%25eth0]:554/x%25")
    assert camera.url == "rtsp://u:p%25@[fe80::1%eth0]:554/x%25"


def test_network_urls_as_cameras_have_them(tmp_path: Path) -> None:
    urls = (
        "rtsp://[fe80::1]:554/x",
        "rtsp://ann:p%40ss%2F@h:8554/user=a@b",
        "http://h/video?user=a@b",
        "rtsps://ann:p@ss@h",
    )
    lines = "".join(f"  - {{id: c{n}, url: '{url}'}}\n" for n, url in enumerate(urls))
    assert [camera.url for camera in load(tmp_path, f"cameras:\n{lines}").cameras] == list(urls)


def test_a_variable_that_is_not_closed_is_a_fault(tmp_path: Path) -> None:
    text = "cameras:\n  - id: a\n    url: rtsp://${CAM_USER@h/x\n"
    with pytest.raises(ConfigError, match=r":3: cameras\[0\]\.url: holds a \$\{ that is no"):
        load(tmp_path, text)
    escaped = load(tmp_path, text.replace("${", "$${"))
    assert escaped.cameras[0].url == "rtsp://${CAM_USER@h/x"


def test_a_key_that_begins_like_a_known_one_is_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        load(tmp_path, GATE + "model: {batch: 8}\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("status_stream: streamd:detections", "status_stream: is that of the events"),
        ("stream: 'x{cam}'", "stream: may hold {camera}, and no other"),
    ],
)
def test_streams_that_cannot_be(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"{GATE}redis:\n  {line}\n")
    assert f":5: redis.{said}" in str(caught.value)
