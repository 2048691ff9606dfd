"""Who may ask: API keys, tokens of an issuer, and how often."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import time

import pytest
from support.asking import digit

from tandem.errors import SettingError
from tandem.serving.access import Access, Issuer
from tandem.serving.problems import Problem
from tandem.serving.settings import hash_key, read

ASKED = {"rows": [digit(0)[0]]}


def test_by_default_everybody_may_ask(app):
    assert app().post("/score", ASKED).status == 200


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": "right-right-right"}, {"Authorization": "Bearer right-right-right"}]
)
def test_a_key_opens_scoring_and_all_else_of_the_example_is_open(example, headers):
    client = example(
        api_keys=read({"TANDEM_API_KEYS": "other-other-other, right-right-right"}).api_keys
    )
    body = json.dumps(ASKED).encode()
    given = {"Content-Type": "application/json"}
    assert client.ask("POST", "/score", body, given | headers).status == 200
    for wrong in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic abc"}):
        answer = client.ask("POST", "/score", body, given | wrong)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.ask("POST", "/v2/models/digits/infer", body, given | wrong).status == 401
    for path in ("/", "/healthz", "/readyz", "/version", "/metrics", "/_tandem/docs"):
        assert client.get(path).status == 200


def test_keys_are_not_kept_and_not_shown():
    settings = read({"TANDEM_API_KEYS": "right-right-right"})
    assert "right" not in repr(settings)
    with pytest.raises(SettingError) as refused:
        read({"TANDEM_API_KEYS": "short-secret"})
    assert "short-secret" not in str(refused.value)


def test_a_client_that_asks_too_often_is_told_when_to_come_again(app):
    client = app(rate=0.01)
    said = [client.post("/score", ASKED) for _ in range(2)]
    assert [answer.status for answer in said] == [200, 429]
    assert 1 <= int(said[1].headers["retry-after"]) <= 101
    assert client.get("/version").status == 200


def test_each_client_has_a_rate_of_its_own():
    access = Access(rate=0.01)
    access.admit({"REMOTE_ADDR": "192.0.2.1"})
    access.admit({"REMOTE_ADDR": "192.0.2.2"})
    with pytest.raises(Problem):
        access.admit({"REMOTE_ADDR": "192.0.2.1"})


PROXIES = read({"TANDEM_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7, 2001:db8::/32"}).trusted_proxies


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.5", "203.0.113.5"),  # the first is the client's own word
        ("10.0.0.1", "203.0.113.5, 10.2.3.4,192.0.2.7", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5:4711", "203.0.113.5"),
        ("10.0.0.1", "[2001:db9::1]:4711", "2001:db9::1"),
        ("2001:db8::1", "2001:db9::1", "2001:db9::1"),
        ("::ffff:10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("203.0.113.9", "203.0.113.5", "203.0.113.9"),  # no proxy of ours
        ("192.0.2.8", "203.0.113.5", "192.0.2.8"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),  # one of ours asks itself
        ("10.0.0.1", "203.0.113.5, nonsense", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, , 10.0.0.2", "10.0.0.2"),
        ("nonsense", "203.0.113.5", "nonsense"),
    ],
)
def test_only_trusted_proxies_say_where_a_request_comes_from(peer, forwarded, client):
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    assert Access(proxies=PROXIES).address(environ) == client
    assert Access().address(environ) == peer


def test_clients_behind_a_trusted_proxy_have_rates_of_their_own():
    access = Access(rate=0.01, proxies=PROXIES)
    proxy = {"REMOTE_ADDR": "10.0.0.1"}
    access.admit(proxy | {"HTTP_X_FORWARDED_FOR": "203.0.113.5"})
    access.admit(proxy | {"HTTP_X_FORWARDED_FOR": "203.0.113.6"})
    with pytest.raises(Problem) as refused:
        access.admit(proxy | {"HTTP_X_FORWARDED_FOR": "203.0.113.6, 203.0.113.5"})
    assert refused.value.status == 429


def test_what_an_untrusted_client_forwards_is_no_way_around_its_rate(app):
    client = app(rate=0.01)
    body, given = json.dumps(ASKED).encode(), {"Content-Type": "application/json"}
    said = [
        client.ask("POST", "/score", body, given | {"X-Forwarded-For": f"203.0.113.{number}"})
        for number in range(2)
    ]
    assert [answer.status for answer in said] == [200, 429]


@pytest.mark.parametrize("text", ["10.0.0.1/8", "nonsense", "10.0.0.0/8,", "localhost"])
def test_proxies_are_addresses_or_networks(text):
    with pytest.raises(SettingError, match=r"TANDEM_TRUSTED_PROXIES=.*such as 10\.0\.0\.0/8"):
        read({"TANDEM_TRUSTED_PROXIES": text})


# --- guarded paths ---

KEY = "right-right-right"
EVERYTHING = "/, /docs, /metrics, /openapi.json, /version"


def guarded(paths: str = EVERYTHING) -> dict:
    settings = read({"TANDEM_API_KEYS": KEY, "TANDEM_GUARDED": paths})
    return {"api_keys": settings.api_keys, "guarded": settings.guarded}


@pytest.mark.parametrize("path", ["/", "/_tandem/docs", "/metrics", "/openapi.json"])
@pytest.mark.parametrize("spelt", ["{}", "{}/", "/{}", "{}?a=b"])
def test_a_guarded_path_needs_a_key_however_it_is_spelt(example, path, spelt):
    client = example(**guarded())
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        assert client.ask(method, spelt.format(path)).status == 401
        wrong = client.ask(method, spelt.format(path), headers={"X-API-Key": "wrong"})
        assert wrong.status == 401
    assert client.ask("GET", path, headers={"X-API-Key": KEY}).status == 200


def test_health_is_never_guarded(app):
    client = app(**guarded())
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status == 200
        with pytest.raises(SettingError, match=f"'{path}' cannot be guarded, expected some of /,"):
            read({"TANDEM_API_KEYS": KEY, "TANDEM_GUARDED": f"/metrics,{path}"})


def test_a_guarded_version_says_what_a_release_compares_and_no_more(app):
    client = app(**guarded("/version"), app_commit="c1", image_digest="sha256:1", release=3)
    open_ = client.get("/version")
    assert open_.status == 200
    assert set(open_.json) == {"app", "model", "image", "release"}
    assert set(open_.json["model"]) == {"name", "version", "digest"}
    assert open_.json["image"] == {"digest": "sha256:1"}
    assert client.ask("GET", "/version", headers={"X-API-Key": "wrong"}).json == open_.json
    whole = client.ask("GET", "/version", headers={"X-API-Key": KEY}).json
    assert whole["libraries"]
    assert whole["app"] == open_.json["app"]


def test_a_guard_without_a_key_is_a_wrong_setting():
    with pytest.raises(SettingError, match="set TANDEM_API_KEYS or TANDEM_OIDC_ISSUER"):
        read({"TANDEM_GUARDED": "/metrics"})


# --- tokens ---

# Made for these tests and of no use anywhere else.
MODULUS = int(
    "9f228adde1de1d23e09d936899fc428953c65fdb52dbc25a395252aea8cb0a52dee1092d74ca4c6e"
    "48cecea77c1f164a9e7541e5f732b686bca634d4093248732a29d4e0cc78965fbf3ee6c5c862e822"
    "275787d5988c19dee0f5a4f1b2de6afff0382cdfc152e18726f60ace7fcddd3cc1d823eed142b007"
    "8535bee36615d8cd42a13958f3e96dc1a02184afd6db67334fb1d14ae3d21a272d072e77f0f08f2f"
    "cc896f55792b49a0ddfee8f52d93848bbaa1c47ed0d0ad31cdc8657ae8ba19ac86ba1b9a75014d34"
    "bfe48d67c7224b4539d98985a3064c243165871401ac9695ce3c7d357a1ed10e8166463ba834d50b"
    "54e965f09391b473b040f4d425e2c72d",
    16,
)
PRIVATE = int(
    "186f6e29dc6f2603d68f73ad5de9bb90c9359e8df7b6e96cbfbd0997aab104bc8d5f3a30c9ec6f58"
    "86e3049df8a3f061145c567a589f27a26050d82f4fdb31ff4713e5cd7ff02b4cf7f9916780d9d921"
    "b76f4c1b0b01c64e30365ff5c21cbf8addc8ce712c470cfcdb097046dd9e8f906f06809c00f36fc2"
    "b3dc791b83572af339b04996df5de7d9d0d46028eceab357601d1aee43860fbfd467fba89698322b"
    "32f70028921a86582eedf5f190d34b452449a935b2d9df925efd3e0882724c8adf09442a255c1852"
    "3a978241f6030d90ab35919f0418042305a6e5a76f6ed7da0e579398dac8f95dbaccdc86238f769f"
    "3d0d800bc524b9e89656e808e8198589",
    16,
)
INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(claims: dict, *, header: dict | None = None, private: int = PRIVATE) -> str:
    head = packed(json.dumps(header or {"alg": "RS256", "kid": "1"}).encode())
    signed = f"{head}.{packed(json.dumps(claims).encode())}"
    return f"{signed}.{packed(signature(signed, private))}"


def signature(signed: str, private: int = PRIVATE) -> bytes:
    digest = INFO + hashlib.sha256(signed.encode()).digest()
    padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(digest)) + b"\x00" + digest
    return pow(int.from_bytes(padded), private, MODULUS).to_bytes(256)


def signed_text(claims: bytes) -> str:
    """A token around claims as they are written."""
    signed = f"{packed(json.dumps({'alg': 'RS256', 'kid': '1'}).encode())}.{packed(claims)}"
    return f"{signed}.{packed(signature(signed))}"


def unsigned(claims: dict, header: dict) -> str:
    return f"{packed(json.dumps(header).encode())}.{packed(json.dumps(claims).encode())}."


def public_key(name: str) -> dict:
    exponent, modulus = packed((65537).to_bytes(3)), packed(MODULUS.to_bytes(256))
    return {"kty": "RSA", "kid": name, "n": modulus, "e": exponent}


@pytest.fixture
def issuer():
    """An OpenID Connect issuer on loopback, with the requests that it was asked."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            told = {"issuer": url, "jwks_uri": f"{url}/keys"}
            if self.path == "/keys":
                told = {"keys": [public_key("1")]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *args: object) -> None:
            pass

    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield url, asked
    server.shutdown()
    server.server_close()
    thread.join()


def claims(url: str, **others: object) -> dict:
    return {"iss": url, "aud": "digits", "sub": "me", "exp": time.time() + 300, **others}


def test_a_token_of_the_issuer_opens_scoring(app, issuer):
    url, asked = issuer
    client = app(oidc_issuer=url, oidc_audience="digits")
    body = json.dumps(ASKED).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token(claims(url))}"}
    assert client.ask("POST", "/score", body, headers).status == 200
    assert client.ask("POST", "/score", body, headers).status == 200
    assert len(asked) == 2  # the issuer's configuration and keys, once


REFUSED = {
    "another issuer": lambda url: token(claims("https://example.org")),
    "another service": lambda url: token(claims(url, aud=["other"])),
    "has expired": lambda url: token(claims(url, exp=time.time() - 3600)),
    "not begun": lambda url: token(claims(url, nbf=time.time() + 3600)),
    "signature is wrong": lambda url: token(claims(url), private=PRIVATE - 2),
    "unknown key": lambda url: token(claims(url), header={"alg": "RS256", "kid": "2"}),
    "no algorithm": lambda url: token(claims(url), header={"alg": "none", "kid": "1"}),
    "secret algorithm": lambda url: token(claims(url), header={"alg": "HS256", "kid": "1"}),
    "expires never": lambda url: token(claims(url, exp=10**400)),
    "asks for an extension": lambda url: token(
        claims(url), header={"alg": "RS256", "kid": "1", "crit": ["b64"], "b64": False}
    ),
    "no expiry": lambda url: token({"iss": url, "aud": "digits"}),
    "not base64": lambda url: "a.b.c",
    "not objects": lambda url: "W10.W10.AA",
    "too long": lambda url: "a" * 20_000 + ".b.c",
    "a megabyte": lambda url: token(claims(url, more="a" * 2**20)),
    "expires at a text": lambda url: token(claims(url, exp=str(int(time.time()) + 300))),
    "expires at infinity": lambda url: token(claims(url, exp=float("inf"))),
    "expires at no number": lambda url: token(claims(url, exp=float("nan"))),
    "expires at true": lambda url: token(claims(url, exp=True)),
    "begins at a text": lambda url: token(claims(url, nbf="0")),
    "expires at a fraction that is past": lambda url: token(claims(url, exp=1.5)),
    "no audience": lambda url: token({"iss": url, "exp": time.time() + 300}),
    "no issuer": lambda url: token({"aud": "digits", "exp": time.time() + 300}),
    "an audience that only begins so": lambda url: token(claims(url, aud="digits-of-others")),
    "an audience in an object": lambda url: token(claims(url, aud={"digits": 1})),
    "a key id that is a path": lambda url: token(
        claims(url), header={"alg": "RS256", "kid": "../../../dev/null"}
    ),
    "a key id that is no text": lambda url: token(
        claims(url), header={"alg": "RS256", "kid": ["1"]}
    ),
    "no key id": lambda url: token(claims(url), header={"alg": "RS256"}),
    "a key of its own": lambda url: token(
        claims(url),
        header={"alg": "RS256", "kid": "2", "jwk": public_key("2"), "jku": f"{url}/keys"},
    ),
    "algorithms to choose from": lambda url: token(
        claims(url), header={"alg": ["none", "RS256"], "kid": "1"}
    ),
    "an algorithm in lower case": lambda url: token(claims(url), header={"alg": "rs256"}),
    "nothing signed": lambda url: unsigned(claims(url), {"alg": "none"}),
    "nothing signed, as if": lambda url: unsigned(claims(url), {"alg": "RS256", "kid": "1"}),
    "nested too deep": lambda url: (
        packed(b'{"alg":' + b"[" * 5000 + b"]" * 5000 + b"}") + "." + packed(b"{}") + ".AA"
    ),
    "claims nested too deep": lambda url: signed_text(b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    "claims given twice, the last one past": lambda url: signed_text(
        json.dumps(claims(url))[:-1].encode() + b', "exp": 1}'
    ),
}


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_the_public_key_is_no_secret_to_sign_with(issuer, form):
    import hmac

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    url, _ = issuer
    public = RSAPublicNumbers(65537, MODULUS).public_key()
    encoding = getattr(serialization.Encoding, form)
    secret = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    for header in ({"alg": "HS256", "kid": "1"}, {"alg": "RS256", "kid": "1"}):
        told = f"{packed(json.dumps(header).encode())}.{packed(json.dumps(claims(url)).encode())}"
        forged = f"{told}.{packed(hmac.digest(secret, told.encode(), 'sha256'))}"
        with pytest.raises(Problem) as refused:
            Access(issuer=Issuer(url, "digits")).admit({"HTTP_AUTHORIZATION": f"Bearer {forged}"})
        assert refused.value.status == 401


def test_a_token_says_what_is_wrong_with_it_and_nothing_of_the_library(issuer):
    url, _ = issuer
    access = Access(issuer=Issuer(url, "digits"))
    told = {}
    for name, made in REFUSED.items():
        with pytest.raises(Problem) as refused:
            access.admit({"HTTP_AUTHORIZATION": f"Bearer {made(url)}"})
        told[name] = refused.value.detail
    assert told["another issuer"] == "The token is of another issuer."
    assert told["another service"] == "The token is for another service."
    assert told["has expired"] == "The token has expired."
    assert told["not begun"] == "The token is not valid yet."
    assert told["signature is wrong"] == "The token's signature is wrong."
    assert told["unknown key"] == "The token is signed with an unknown key."
    assert told["a megabyte"] == "The token is too long."
    assert set(told.values()) - {
        "The token is of another issuer.",
        "The token is for another service.",
        "The token has expired.",
        "The token is not valid yet.",
        "The token's signature is wrong.",
        "The token is signed with an unknown key.",
        "The token is too long.",
    } <= {"The token cannot be checked.", "The key is unknown."}


def test_an_issuer_is_asked_for_no_key_of_a_token_that_cannot_be_right(issuer):
    url, asked = issuer
    access = Access(issuer=Issuer(url, "digits"))
    for header in ({"alg": "none"}, {"alg": "HS256", "kid": "1"}, {"alg": "RS256", "crit": ["x"]}):
        with pytest.raises(Problem):
            access.admit({"HTTP_AUTHORIZATION": f"Bearer {token(claims(url), header=header)}"})
    assert asked == []


@pytest.mark.parametrize("name", REFUSED)
def test_other_tokens_are_refused(issuer, name):
    url, _ = issuer
    access = Access(issuer=Issuer(url, "digits"))
    with pytest.raises(Problem) as refused:
        access.admit({"HTTP_AUTHORIZATION": f"Bearer {REFUSED[name](url)}"})
    assert refused.value.status == 401


def test_an_issuer_that_is_away_is_a_503_and_not_asked_for_each_token(monkeypatch):
    asked = []

    def away(url):
        asked.append(url)
        raise OSError("no route")

    monkeypatch.setattr("tandem.serving.access._get", away)
    access = Access(issuer=Issuer("https://issuer.example", "digits"))
    environ = {"HTTP_AUTHORIZATION": f"Bearer {token(claims('https://issuer.example'))}"}
    for _ in range(3):
        with pytest.raises(Problem) as refused:
            access.admit(environ)
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "30")
    assert len(asked) == 1


@pytest.mark.parametrize("url", ["http://example.org", "example.org", "file:///etc/passwd"])
def test_an_issuer_without_https_is_a_wrong_setting(url):
    with pytest.raises(SettingError, match="https URL"):
        Issuer(url, "digits")


def test_api_keys_and_tokens_can_be_used_together(issuer):
    url, _ = issuer
    access = Access(keys=(hash_key("right-right-right"),), issuer=Issuer(url, "digits"))
    access.admit({"HTTP_X_API_KEY": "right-right-right"})
    access.admit({"HTTP_AUTHORIZATION": f"Bearer {token(claims(url))}"})
    with pytest.raises(Problem):
        access.admit({"HTTP_AUTHORIZATION": "Bearer wrong"})


@pytest.mark.parametrize("path", ["/score/", "//score", "/v2/models/digits/infer/"])
def test_more_slashes_are_no_way_around_the_key(app, path):
    client = app(api_keys=read({"TANDEM_API_KEYS": "right-right-right"}).api_keys)
    body = json.dumps({"inputs": []} if "infer" in path else ASKED).encode()
    given = {"Content-Type": "application/json"}
    assert client.ask("POST", path, body, given).status == 401
    answer = client.ask("POST", path, body, given | {"X-API-Key": "right-right-right"})
    assert answer.status == (422 if "infer" in path else 200)


@pytest.mark.parametrize("method", ["post", "Post", "TRACE", "SCORE"])
@pytest.mark.parametrize("path", ["/score", "/v2/models/digits/infer", "/version"])
def test_a_method_in_another_spelling_is_refused_before_anything_else(app, method, path):
    client = app(api_keys=read({"TANDEM_API_KEYS": "right-right-right"}).api_keys)
    answer = client.ask(method, path, json.dumps(ASKED).encode())
    assert answer.status == 501
    assert answer.headers["connection"] == "close", "its body is not taken for the next request"
    assert "not supported" in answer.json["detail"]
