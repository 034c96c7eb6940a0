# SPDX-License-Identifier: Apache-2.0
"""Ask an engine over HTTP for its model listing; proxies of the environment are ignored."""

from __future__ import annotations

import ssl

import httpx

from firstkit.core.topology import Address, AddressKind
from firstkit.ports.probe import Probed

DEADLINE_S = 5.0
BODY_LIMIT = 1_000_000


class HttpProbe:
    """Implements `Probe`; a connection for each question, so that what is asked is a new connection's answer."""

    async def __call__(self, address: Address, *, authorization: str | None, path: str) -> Probed:
        """GET the path; 200 is ready, everything else says why not in one sentence."""
        headers = {"authorization": authorization} if authorization else {}
        uds = address.path if address.kind is AddressKind.UNIX else None
        scheme = "https" if address.kind is AddressKind.TLS else "http"
        host = "localhost" if uds else address.host
        url = f"{scheme}://{host}{f':{address.port}' if address.port else ''}{address.base_path}{path}"
        verify = ssl.create_default_context() if scheme == "https" else False
        transport = httpx.AsyncHTTPTransport(uds=uds, verify=verify, retries=0)
        try:
            async with (
                httpx.AsyncClient(transport=transport, timeout=DEADLINE_S, trust_env=False) as client,
                client.stream("GET", url, headers=headers) as answer,
            ):
                if answer.status_code != 200:
                    hint = "; check its key_file" if answer.status_code in {401, 403} else ""
                    return Probed(ready=False, detail=f"{path} answers {answer.status_code}{hint}")
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > BODY_LIMIT:
                        return Probed(ready=False, detail=f"{path} answers more than a megabyte; is this an engine?")
                return Probed(ready=True, body=body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Probed(ready=False, detail=f"no answer from {host}: {str(error) or type(error).__name__}")
