"""The link from the reader's browser to a server: on the own machine, and behind a hub's proxy."""

import urllib.request

import pytest
from support.jupyter import jupyter

import mpmkit
from mpmkit.lab import proxy

PREFIX = "JUPYTERHUB_SERVICE_PREFIX"


@pytest.fixture
def server():
    with mpmkit.launch("event", StartServers=1, MinSpareThreads=1) as running:
        yield running


def test_the_link_is_the_servers_own_or_behind_a_hub_leads_through_the_proxy(server, monkeypatch):
    monkeypatch.delenv(PREFIX, raising=False)
    link = proxy.status_link(server)
    assert link == f"{server.url}/server-status"
    with urllib.request.urlopen(link, timeout=5) as page:
        assert b"Server Version" in page.read()
    assert f'href="{link}"' in link._repr_html_()
    monkeypatch.setenv(PREFIX, "/user/ann/")
    assert proxy.status_link(server) == f"/user/ann/proxy/{server.port}/server-status"
    assert proxy.status_link(server, "/a?b=1&c=2")._repr_html_().count("&amp;") == 2


def test_what_leads_nowhere_is_refused(server, monkeypatch):
    with pytest.raises(ValueError, match=r"try '/index\.html'"):
        proxy.status_link(server, "index.html")
    monkeypatch.setenv(PREFIX, "/user/ann/")
    monkeypatch.setattr(proxy, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="pip install jupyter-server-proxy"):
        proxy.status_link(server)
    server.stop()
    with pytest.raises(ValueError, match="event server has ended"):
        proxy.status_link(server)


@pytest.mark.timeout(90)
def test_the_proxied_link_opens_the_status_page(server, monkeypatch, tmp_path):
    """A real Jupyter under the same prefix, with its proxy extension."""
    pytest.importorskip("jupyter_server_proxy", reason="jupyter-server-proxy is not installed")
    monkeypatch.setenv(PREFIX, "/user/ann/")
    link = proxy.status_link(server)
    (tmp_path / "root").mkdir()
    with jupyter("jupyter_server", tmp_path / "root", base="/user/ann") as address:
        with urllib.request.urlopen(address.removesuffix("/user/ann") + link, timeout=10) as page:
            assert b"Server Version" in page.read()
