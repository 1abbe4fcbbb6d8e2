"""Names that tenants give us are resolved here, and what leads into our own network is refused (SSRF)."""

from __future__ import annotations

import ipaddress
import socket

from django.conf import settings

from apps.common.errors import BadRequest


def resolve_public(host: str) -> list[str]:
    """The addresses of a host name. Raises BadRequest when there are none or any of them is not a public one."""
    try:
        found = sorted({info[4][0] for info in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:
        raise BadRequest(f"the host {host[:100]!r} has no address", param="host") from error
    for address in found:
        if not is_public(address):
            raise BadRequest(f"the host {host[:100]!r} is not a public one", param="host")
    return found


def is_public(address: str) -> bool:
    """Global unicast only; an IPv4 address inside an IPv6 one counts as itself."""
    value = ipaddress.ip_address(address.split("%")[0])
    if isinstance(value, ipaddress.IPv6Address):
        value = value.ipv4_mapped or value.sixtofour or (value.teredo or (None, None))[1] or value
    return value.is_global and not value.is_multicast


def caller_address(forwarded_for: str, peer: str) -> str:
    """The address that the outermost of our own proxies saw; without proxies that of the connection. What a client claims does not count."""
    hops = [h.strip() for h in forwarded_for.split(",") if h.strip()]
    count = settings.TRUSTED_PROXIES
    return (hops[-count] if 0 < count <= len(hops) else peer)[:45]
