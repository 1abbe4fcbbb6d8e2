from __future__ import annotations

import pytest

from config.env import BadSetting
from config.redis import broker, channel_hosts, counters_url, parse

TWO = "redis+sentinel://:p%40w@a:1,b/mymaster/2"


def test_one_server_is_passed_on_as_it_is():
    url = "redis://:secret@host:6379/0"
    assert not parse(url).sentinels and broker(url) == (url, {}) and channel_hosts(url) == [url] and counters_url(url) == url


def test_sentinels_are_named_to_each_client_in_its_own_way():
    address = parse(TWO)
    assert address.sentinels == (("a", 1), ("b", 26379)) and (address.master, address.db, address.password) == ("mymaster", 2, "p@w")
    assert broker(TWO)[0] == "sentinel://:p%40w@a:1/2;sentinel://:p%40w@b:26379/2" and broker(TWO)[1]["master_name"] == "mymaster"
    assert channel_hosts(TWO) == [{"sentinels": [("a", 1), ("b", 26379)], "master_name": "mymaster", "db": 2, "password": "p@w"}]
    assert counters_url(TWO) == "redis+sentinel://:p%40w@a:1,b:26379/mymaster"


@pytest.mark.parametrize("url", ["redis+cluster://a:1", "http://a", "", "redis+sentinel://a:1", "redis+sentinel:///m", "redis+sentinel://a:x/m", "redis+sentinel://a/m/x"])
def test_a_bad_address_is_refused_without_showing_its_password(url):
    with pytest.raises(BadSetting, match="REDIS_URL: .*expected redis"):
        parse(url)
    with pytest.raises(BadSetting) as refused:
        parse(url.replace("://", "://:hidden@") or "ftp://:hidden@a")
    assert "hidden" not in str(refused.value)
