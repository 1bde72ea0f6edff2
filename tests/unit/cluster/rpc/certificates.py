"""Certificates made by the test: an authority, and what it signs."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.rpc.tls import TlsFiles

BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


class Authority:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.BasicConstraints(ca=True, path_length=0)
        self._cert = self._signed(name, self._key, usage)
        self._write(f"{name}.pem", self._cert.public_bytes(serialization.Encoding.PEM))

    def files(self, node: str) -> TlsFiles:
        """A certificate for `node`, its key, and the authority that signed it."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._signed(node, key, x509.BasicConstraints(ca=False, path_length=None))
        return TlsFiles(
            self._write(f"{self._name}-{node}.pem", cert.public_bytes(serialization.Encoding.PEM)),
            self._write(
                f"{self._name}-{node}.key",
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                ),
            ),
            str(self._folder / f"{self._name}.pem"),
        )

    def _signed(
        self, name: str, key: ec.EllipticCurvePrivateKey, usage: x509.BasicConstraints
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGIN)
            .not_valid_after(END)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, data: bytes) -> str:
        path = self._folder / name
        path.write_bytes(data)
        return str(path)
