"""Holds the refusals that schemathesis does not provoke by itself against docs/openapi.yaml.

Usage: contract.py DESCRIPTION HOST PORT. Wants a service with HEADER_TIMEOUT=1s and MAX_HEADER_BYTES=80000.
"""

import http.client
import sys

import requests
import schemathesis
from schemathesis.specs.openapi import checks

DESCRIPTION, HOST, PORT = sys.argv[1:]
SCHEMA = schemathesis.openapi.from_path(DESCRIPTION)
FORMS = {
    "text/plain": "text/plain",
    "text/html": "text/html",
    "application/json": "application/problem+json",
    "application/problem+json": "application/problem+json",
}
PATHS = ["/", "/count", "/badge.svg", "/robots.txt", "/healthz", "/readyz", "/metrics", "/version"]
CHECKS = [checks.status_code_conformance, checks.response_headers_conformance]
CHECKS_OF_CONTENT = [checks.content_type_conformance, checks.response_schema_conformance]
BAD_REQUEST, NOT_ALLOWED, TOO_LARGE = 400, 405, 413


def request(path, status, head, content_type):
    """Sends bytes, and expects this answer, as it is described for GET of the path."""
    connection = http.client.HTTPConnection(HOST, int(PORT), timeout=30)
    connection.connect()
    connection.sock.sendall(head.encode())
    answer = http.client.HTTPResponse(connection.sock)
    answer.begin()
    content = answer.read()
    connection.close()
    given = (answer.status, (answer.getheader("Content-Type") or "").split(";")[0])
    assert given == (status, content_type), f"{head[:99]!r}: {given}"

    headers = {name: answer.headers.get_all(name) for name in answer.headers}
    asked = requests.Request("GET", f"http://{HOST}:{PORT}{path}").prepare()
    response = schemathesis.Response(answer.status, headers, content, asked, elapsed=0, verify=False)
    # An OpenAPI description cannot say that there may be no content at all.
    expected = CHECKS + (CHECKS_OF_CONTENT if content_type else [])
    SCHEMA[path]["GET"].Case().validate_response(response, checks=expected)


for path in PATHS:
    for accept, form in FORMS.items():
        lines = f"{path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {accept}\r\n"
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"]:
            request(path, NOT_ALLOWED, f"{method} {lines}\r\n", form)
        request(path, NOT_ALLOWED, f"POST {lines}Content-Length: 2\r\n\r\n{{}}", form)
        request(path, TOO_LARGE, f"POST {lines}Content-Length: 99999999\r\n\r\n", form)
        request(path, BAD_REQUEST, f"GET {lines}Content-Length: 2\r\n\r\n{{}}", form)
        request(path, NOT_ALLOWED, f"POST {lines}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", form)
        request(path, BAD_REQUEST, f"GET {lines}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", form)
        request(path, BAD_REQUEST, f"get {lines}\r\n", form)
        request(path, BAD_REQUEST, f"GET {lines}Host: another\r\n\r\n", form)
# What cannot be read is answered without content.
request("/", 400, f"GET / HTTP/1.1\r\nHost: {HOST}\r\nno header\r\n\r\n", "")
request("/", 408, f"GET / HTTP/1.1\r\nHost: {HOST}\r\n", "")
request("/", 414, f"GET /?{'a' * 65535} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "")
request("/", 431, f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {'a' * 99999}\r\n\r\n", "")
