"""Verifies deliveries with the reference library of Standard Webhooks, and their ed25519 signatures,
which that library does not know, by the standard's text with the `cryptography` package."""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError


def v1a(case, public):
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    headers = case["headers"]
    content = f'{headers["webhook-id"]}.{headers["webhook-timestamp"]}.{case["body"]}'.encode()
    for part in headers["webhook-signature"].split(" "):
        version, signature = part.split(",", 1)
        if version != "v1a":
            continue
        try:
            key.verify(base64.b64decode(signature), content)
            return True
        except InvalidSignature:
            pass
    return False


def v1(case, secret):
    try:
        Webhook(secret).verify(case["body"], case["headers"])
        return True
    except WebhookVerificationError:
        return False


def main(path):
    symmetric = asymmetric = refused = 0
    for case in json.load(open(path)):
        yes, no = case["accepted"], case["refused"]
        for secret in yes["secrets"]:
            assert v1(yes, secret), f"v1 is refused: {yes}"
            changed = dict(yes, body=yes["body"] + " ")
            assert not v1(changed, secret), "a changed body is accepted"
            symmetric += 1
        for public in yes["public"]:
            assert v1a(yes, public), f"v1a is refused: {yes}"
            changed = dict(yes, body=yes["body"] + " ")
            assert not v1a(changed, public), "a changed body is accepted"
            asymmetric += 1
        for secret in no["secrets"]:
            assert not v1(no, secret), "another secret's signature is accepted"
            refused += 1
        for public in no["public"]:
            assert not v1a(no, public), "another key's signature is accepted"
            refused += 1
    assert symmetric and asymmetric and refused
    print(f"verified: {symmetric} by v1, {asymmetric} by v1a; {refused} of other keys refused")


main(sys.argv[1])
