import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.config.secrets import mask_text, mask_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://ann:s3cret@h:554/s?x=1", "rtsp://***@h:554/s?x=1"),
        ("RTSP://ann@h/s", "RTSP://***@h/s"),
        ("redis://:s3cret@h:6379/0", "redis://***@h:6379/0"),
        ("rtsp://ann:p@ss@h/s", "rtsp://***@h/s"),
        ("rtsp://ann:p ss@h/s", "rtsp://***@h/s"),
        ("rtsp://ann:a/b@h/s", "rtsp://***@h/s"),
        ("rtsp://ann:12/34@h/s", "rtsp://***@h/s"),
        ("rtsp://ann:a#b@h/s", "rtsp://***@h/s"),
        ("rtsp://ann:a?b@h/s", "rtsp://***@h/s"),
        ("http://h/s?user=ann&password=s3cret&z=1", "http://h/s?user=***&password=***&z=1"),
        ("http://h/s?API_KEY=s3cret", "http://h/s?API_KEY=***"),
        ("http://[::1]:80/s?token=s3cret", "http://[::1]:80/s?token=***"),
        ("http://u:s3cret@[::1/s", "http://***@[::1/s"),
        ("http://h/s?X-Amz-Signature=s3cret&z", "http://h/s?X-Amz-Signature=***&z"),
        ("rtsp://h/user=ann_password=s3cret_channel=1.sdp", "rtsp://h/user=***"),
        ("http://ann@h/s@2x.jpg", "http://***@h/s@2x.jpg"),
        ("http://h/s@2x.jpg", "http://h/s@2x.jpg"),
        ("rtsp://h:554/s", "rtsp://h:554/s"),
        ("clips/a@b.mp4", "clips/a@b.mp4"),
        ("/srv/a.mp4", "/srv/a.mp4"),
    ],
)
def test_an_address_is_shown_without_who_logs_in_and_how(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open rtsp://ann:s3cret@h/s: refused", "cannot open rtsp://***@h/s: refused"),
        ("'rtsp://ann:a/b@h/s' or redis://:x@h", "'rtsp://***@h/s' or redis://***@h"),
        (
            "GET http://h/s?user=ann&z=1&password=s3cret, 404",
            "GET http://h/s?user=***&z=1&password=***, 404",
        ),
        ("see http://h/s?z=1 and http://h/s@2x.jpg", "see http://h/s?z=1 and http://h/s@2x.jpg"),
        ("('http://h/s?token=s3cret')", "('http://h/s?token=***')"),
        ("mail ann@h about 12:30", "mail ann@h about 12:30"),
    ],
)
def test_a_message_is_shown_without_the_secrets_of_its_addresses(text: str, shown: str) -> None:
    assert mask_text(text) == shown


SECRETS = st.text("s3/#?@:%& ", min_size=1, max_size=8).map(lambda middle: f"hush{middle}hush")


@given(
    st.sampled_from(["rtsp", "rtsps", "http", "redis"]),
    st.sampled_from(["", "ann"]),
    SECRETS,
    st.sampled_from(["h", "h:554", "[::1]:80", "10.0.0.1"]),
    st.sampled_from(["", "/", "/s?x=1", "/a/b@c"]),
)
@settings(max_examples=200, deadline=None)
def test_no_password_survives_however_it_is_written(
    scheme: str, user: str, password: str, host: str, path: str
) -> None:
    assert "hush" not in mask_url(f"{scheme}://{user}:{password}@{host}{path}")


@given(SECRETS.filter(lambda secret: " " not in secret), st.sampled_from(["", "/s?token=hush"]))
@settings(max_examples=100, deadline=None)
def test_no_password_survives_in_a_message(password: str, path: str) -> None:
    assert "hush" not in mask_text(f"cannot open rtsp://ann:{password}@h{path}: refused")


@given(SECRETS.filter(lambda secret: not set(secret) & set(" &#")))
@settings(max_examples=60, deadline=None)
def test_no_token_of_a_query_survives_in_a_message(token: str) -> None:
    assert "hush" not in mask_text(f"GET http://h/s?z=1&token={token} failed")
