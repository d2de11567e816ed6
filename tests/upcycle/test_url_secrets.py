import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upcycle.errors import UserError
from upcycle.url_secrets import masked, masked_value, names_a_secret, secret_in, without_secrets

SECRET = "hunter2"
HOLDING = {
    "redis://:hunter2@host:6379/0": "redis://host:6379/0",
    "redis://alice:hunter2@host/0": "redis://alice@host/0",
    "redis://:hun/ter2@ho@st/0": "redis://st/0",
    "rediss://host/0?password=hunter2&ssl_cert_reqs=none": "rediss://host/0?ssl_cert_reqs=none",
    "unix://alice@/run/redis.sock?db=1&password=hunter2": "unix://alice@/run/redis.sock?db=1",
    "s3://AKIA:hunter2@bucket/teachers": "s3://AKIA@bucket/teachers",
    "https://host/a?X-Amz-Signature=hunter2&sig=hunter2&b=1": "https://host/a?b=1",
    "abfs://box@host/teachers?account_key=hunter2": "abfs://box@host/teachers",
}
INNOCENT = [
    "redis://127.0.0.1:6379/0",
    "redis://alice@host/0",
    "rediss://host/0?ssl_keyfile=/etc/key.pem",
    "unix:///run/redis.sock?db=0",
    "s3://bucket/teachers",
    "abfs://box@host/teachers",
    "/home/a:b@c/runs",
    "Pong-v5",
]


@pytest.mark.parametrize("url", HOLDING)
def test_a_secret_is_found_and_left_out(url: str):
    assert secret_in(url) is not None
    assert SECRET not in str(secret_in(url))
    assert without_secrets({"a": [url, 1]}) == {"a": [HOLDING[url], 1]}
    assert secret_in(HOLDING[url]) is None


@pytest.mark.parametrize("url", HOLDING)
@pytest.mark.parametrize("text", ["{}", "cannot reach {}: refused", '{{"url": "{}", "n": 1}}', "url = '{}'"])
def test_text_never_shows_it(url: str, text: str):
    shown = masked(text.format(url))
    assert SECRET not in shown
    assert "ter2" not in shown
    assert "***" in shown


@pytest.mark.parametrize("url", INNOCENT)
def test_what_holds_none_stays_as_it_is(url: str):
    assert secret_in(url) is None
    assert without_secrets(url) == url
    assert masked(f"reached {url} at once") == f"reached {url} at once"


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_characters="\"'<> \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"), min_size=1))
def test_no_password_passes_whatever_it_is_made_of(password: str):
    url = f"redis://:{password}@somewhere:6379/0"
    assert secret_in(url) is not None
    assert secret_in(without_secrets(url)) is None
    assert masked(f"no answer from {url} yet") == "no answer from redis://:***@somewhere:6379/0 yet"


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), min_size=1))
def test_no_value_shows_its_password_even_with_blanks_and_quotes(password: str):
    url = f"redis://:{password}@somewhere:6379/0"
    assert masked_value(url) == "redis://:***@somewhere:6379/0"
    parameter = password.replace("&", "")
    assert masked_value(f"rediss://host/0?password={parameter}&db=1") == "rediss://host/0?password=***&db=1"
    refusal = UserError("cluster.redis_url", url, "holds a password", "leave it out")
    assert str(refusal) == "cluster.redis_url = 'redis://:***@somewhere:6379/0': holds a password; leave it out"


def test_a_value_that_holds_no_secret_is_shown_as_it_is():
    assert [masked_value(url) for url in INNOCENT] == INNOCENT
    assert masked_value("redis://us/er:hunter2@host") == "redis://us/er:***@host"


@pytest.mark.parametrize(
    ("field", "secret"),
    [
        ("cluster.redis_password", True),
        ("password", True),
        ("cluster.api_key", True),
        ("cluster.redis_url", False),
        ("learner.batch_size", False),
        ("env.task", False),
    ],
)
def test_names_of_secrets_are_known(field: str, secret: bool):
    assert names_a_secret(field) == secret
