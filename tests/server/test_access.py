"""Who may come in, rule by rule."""

import pytest

from lmx_ledger.core.config import ServerSection
from lmx_ledger.core.errors import Forbidden, InvalidApiKey
from lmx_ledger.server.access import Access, Caller, Door

CLIENT, OPERATOR = "client-key-1", "operator-key-1"
OPEN = ServerSection()
KEYED = ServerSection(api_keys=[CLIENT], operator_keys=[OPERATOR])


def caller(method: str = "POST", **headers: str) -> Caller:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Caller(method, {"host": "127.0.0.1:3456", **named})


def bearer(key: str) -> Caller:
    return caller(authorization=f"Bearer {key}")


@pytest.mark.parametrize("host", ["127.0.0.1:3456", "localhost:3456", "localhost", "[::1]:3456", "127.0.0.5"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    Access(OPEN).check(caller(host=host), Door.CLIENT)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:3456", "localhost.evil", "[x"]
)
def test_a_rebinding_host_is_refused_at_every_door(host: str) -> None:
    for door in Door:
        with pytest.raises(Forbidden):
            Access(OPEN).check(caller(host=host), door)


def test_beyond_loopback_the_keys_decide_and_any_host_name_will_do() -> None:
    access = Access(ServerSection(host="0.0.0.0", api_keys=[CLIENT]))
    access.check(caller(host="box.lan", authorization=f"Bearer {CLIENT}"), Door.CLIENT)
    with pytest.raises(InvalidApiKey):
        access.check(caller(host="box.lan"), Door.CLIENT)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "file://"])
def test_a_page_of_another_origin_is_refused_even_where_no_key_is_needed(origin: str) -> None:
    for door in Door:
        with pytest.raises(Forbidden):
            Access(OPEN).check(caller(origin=origin), door)


def test_our_own_pages_and_named_origins_may_call() -> None:
    access = Access(ServerSection(allowed_origins=["https://chat.example/"]))
    access.check(caller(origin="http://127.0.0.1:3456"), Door.CLIENT)
    access.check(caller(origin="https://Chat.example"), Door.CLIENT)
    assert access.may_read("https://chat.example")
    assert not access.may_read("https://evil.example")


def test_a_cross_site_request_without_an_origin_gives_itself_away() -> None:
    with pytest.raises(Forbidden):
        Access(OPEN).check(caller("GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"), Door.CLIENT)
    Access(OPEN).check(caller("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate"), Door.OPEN)
    with pytest.raises(Forbidden):
        Access(OPEN).check(caller("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate"), Door.CLIENT)


def test_without_configured_keys_any_key_or_none_opens() -> None:
    for who in (caller(), bearer("anything")):
        Access(OPEN).check(who, Door.CLIENT)
        Access(OPEN).check(who, Door.OPERATOR)


@pytest.mark.parametrize("who", [caller(), bearer(""), bearer("client-key-2"), caller(x_api_key="no"), bearer("ключ")])
def test_a_missing_or_wrong_key_opens_nothing_but_health(who: Caller) -> None:
    access = Access(KEYED)
    access.check(who, Door.OPEN)
    for door in (Door.CLIENT, Door.OPERATOR):
        with pytest.raises(InvalidApiKey):
            access.check(who, door)


def test_a_client_key_opens_client_doors_only() -> None:
    access = Access(KEYED)
    access.check(bearer(CLIENT), Door.CLIENT)
    access.check(caller(x_api_key=CLIENT), Door.CLIENT)
    with pytest.raises(Forbidden):
        access.check(bearer(CLIENT), Door.OPERATOR)


def test_an_operator_key_opens_both() -> None:
    for door in Door:
        Access(KEYED).check(bearer(OPERATOR), door)


def test_without_operator_keys_the_client_keys_guard_the_operator_doors() -> None:
    access = Access(ServerSection(api_keys=[CLIENT]))
    access.check(bearer(CLIENT), Door.OPERATOR)
    with pytest.raises(InvalidApiKey):
        access.check(caller(), Door.OPERATOR)


def test_operator_keys_alone_leave_client_doors_open() -> None:
    access = Access(ServerSection(operator_keys=[OPERATOR]))
    access.check(caller(), Door.CLIENT)
    with pytest.raises(InvalidApiKey):
        access.check(caller(), Door.OPERATOR)
