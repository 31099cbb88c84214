"""The guard bites."""

import socket

import pytest
import requests

from tests.conftest import NetworkForbiddenError


def test_no_connection_beyond_this_machine() -> None:
    with pytest.raises(NetworkForbiddenError, match="look-up of download"):
        requests.get("https://download.openmmlab.com", timeout=1)
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        with pytest.raises(NetworkForbiddenError, match="connect to"):
            stream.connect(("192.0.2.1", 443))  # an address for documentation (RFC 5737)
        with pytest.raises(NetworkForbiddenError, match="connect_ex to"):
            stream.connect_ex(("192.0.2.1", 443))
        with pytest.raises(NetworkForbiddenError, match="sendto to"):
            datagram.sendto(b"", ("192.0.2.1", 53))
