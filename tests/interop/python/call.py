"""A workload that knows the `spiffe` package and nothing of Wayleave: it gets its X509-SVID
and bundle from a Workload API and calls a sidecar with them.

    call.py ENDPOINT OWN-ID PEER-ID HOST PORT PATH
"""

import http.client
import ssl
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from spiffe import SpiffeId, WorkloadApiClient, X509Source


def context(source: X509Source, folder: Path) -> ssl.SSLContext:
    """Mutual TLS with what the source has; ssl reads PEM files only."""
    svid = source.get_x509_context().default_svid
    pem = serialization.Encoding.PEM
    chain = b"".join(certificate.public_bytes(pem) for certificate in svid.cert_chain)
    key = svid.private_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "svid.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)
    bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    authorities = b"".join(
        authority.public_bytes(pem) for authority in bundle.x509_authorities
    )
    tls = ssl.create_default_context(cadata=authorities.decode())
    tls.load_cert_chain(folder / "svid.pem", folder / "key.pem")
    # Peers are known by SPIFFE ID, which `check_peer` compares.
    tls.check_hostname = False
    return tls


def check_peer(connection: http.client.HTTPSConnection, expected: str) -> None:
    leaf = x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert found == [expected], f"the sidecar is {found}, not {expected}"


def main(endpoint: str, own: str, peer: str, host: str, port: str, path: str) -> None:
    with WorkloadApiClient(endpoint) as client:
        svid = client.fetch_x509_svid(timeout=20)
        assert svid.spiffe_id == SpiffeId(own), f"the SVID is that of {svid.spiffe_id}"
        bundles = client.fetch_x509_bundles(timeout=20)
        assert bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    with X509Source(
        socket_path=endpoint, timeout_in_seconds=20
    ) as source, tempfile.TemporaryDirectory() as folder:
        tls = context(source, Path(folder))
        for method, expected in (("GET", 200), ("DELETE", 403)):
            connection = http.client.HTTPSConnection(host, int(port), context=tls, timeout=20)
            connection.connect()
            check_peer(connection, peer)
            connection.request(method, path)
            status = connection.getresponse().status
            connection.close()
            assert status == expected, f"{method} was answered with {status}, not {expected}"
            print(f"spiffe (PyPI): {method} {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
