"""Messages arrive once, signed and in order; whoever does not listen holds up nobody."""

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.tta_server.calls import until
from tests.tta_server.receiver import receiving
from tta_server.telemetry.webhook import Webhook, place_of

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes or so.").decode()


class Sender:
    """A webhook, and what it says became of its messages."""

    def __init__(self, url: str, waits_s: tuple[float, ...] = (0.01,) * 3, most: int = 256, secret: str = "") -> None:
        self.outcomes: list[str] = []
        self.hook = Webhook(url, secret, 30.0, self.outcomes.append, waits_s, most)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"


def test_a_message_arrives_once_and_its_signature_can_be_checked():
    with receiving([]) as there:
        sender = Sender(there.url, secret=SECRET)
        sender.hook.start()

        sender.hook.post("drift", {"stream": "door"})
        sender.hook.close(30)

    ((headers, body),) = there.requests
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"a key of thirty-two bytes or so.", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert json.loads(body) == {"stream": "door"}
    assert sender.outcomes == ["sent"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_did_not_arrive_is_tried_again_under_the_same_id(status):
    with receiving([status, status]) as there:
        sender = Sender(there.url)
        sender.hook.start()

        sender.hook.post("drift", {})
        sender.hook.post("freeze", {})
        until(lambda: sender.outcomes.count("sent") == 2)
        sender.hook.close(30)

    ids = [headers["webhook-id"] for headers, _ in there.requests]
    assert [Counter(ids)[each] for each in dict.fromkeys(ids)] == [3, 1]
    assert sender.outcomes == ["retried", "retried", "sent", "sent"]


@pytest.mark.parametrize("status", [302, 400, 401])
def test_what_is_refused_for_good_is_given_up_at_once_and_follows_nobody(status, caplog):
    with receiving([status]) as there:
        sender = Sender(there.url)
        sender.hook.start()
        sender.hook.post("drift", {})
        sender.hook.close(30)

    assert (len(there.requests), sender.outcomes) == (1, ["failed"])
    assert f"webhook 'drift' is given up: HTTP {status}" in caplog.text


def test_a_receiver_that_is_gone_is_given_up_after_so_many_tries():
    with receiving([]) as there:
        pass
    sender = Sender(there.url)
    sender.hook.start()

    sender.hook.post("drift", {})
    until(lambda: "failed" in sender.outcomes)
    sender.hook.close(30)

    assert sender.outcomes == ["retried", "retried", "retried", "failed"]


def test_beyond_the_bound_the_oldest_is_dropped_and_counted():
    with receiving([]) as there:
        sender = Sender(there.url, most=2)
        for number in range(5):
            sender.hook.post("drift", {"number": number})
        sender.hook.start()
        sender.hook.close(30)

    assert [json.loads(body)["number"] for _, body in there.requests] == [3, 4]
    assert sender.outcomes == ["dropped"] * 3 + ["sent"] * 2


def test_a_stop_waits_for_nobody_who_does_not_answer(silent, caplog):
    sender = Sender(silent)
    sender.hook.start()
    for _ in range(3):
        sender.hook.post("drift", {})
    closing = threading.Thread(target=sender.hook.close, args=(0.2,))

    closing.start()
    closing.join(20)  # one try alone takes thirty seconds

    assert not closing.is_alive()
    assert "webhooks are not sent: the server has stopped" in caplog.text


def test_of_an_address_only_what_is_no_secret_is_shown():
    assert place_of("https://hooks.example:8443/T0/secret?token=x") == "https://hooks.example:8443"
