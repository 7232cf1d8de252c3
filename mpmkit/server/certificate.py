"""A certificate for a lab: self-signed, for localhost, made by the `openssl` program on request.

Clients do not know it and have to be configured to trust it (`curl --cacert FILE`, `ssl.create_default_context(
cafile=FILE)`) or not to ask (`curl -k`).
"""

from __future__ import annotations

import os
import subprocess

from mpmkit.config.settings import DirectiveError

# For 30 days, with a key on a curve that every client knows.
MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
)


def self_signed(directory: str) -> tuple[str, str]:
    """(certificate, private key): files in `directory`, in PEM, the key for its owner's eyes only.

    For the names localhost, 127.0.0.1 and ::1. Raises DirectiveError when none could be made."""
    certificate = os.path.join(directory, "server.crt")
    key = os.path.join(directory, "server.key")
    command = [*MAKE.split(), "-keyout", key, "-out", certificate]
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        text = "there is no openssl program to make a certificate with: install the openssl package"
        own = "or name your own with SSLCertificateFile and SSLCertificateKeyFile"
        raise DirectiveError(f"{text}, {own}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise DirectiveError(f"openssl made no certificate: {said[-1:] or error}") from None
    return certificate, key
