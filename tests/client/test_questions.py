"""Do questions and subscriptions say clearly what came, what was lost and what is wrong?"""

import threading

import pytest
import zmq

import energyd_client as energy
from energyd_client import errors
from energyd_client.protocol import Answer, AskStage, AskStatus, Health, Refusal, Samples, StageState, pack
from energyd_client.request import ask
from energyd_client.subscriber import Subscriber


def test_a_question_gets_the_body_of_its_answer(daemon):
    daemon.answer = lambda q: Answer(q.req, {"state": "ok", "pid": 7})
    assert ask(daemon.endpoint, AskStatus(0), 5) == {"state": "ok", "pid": 7}


def test_an_answer_to_another_question_and_garbage_are_passed_over(daemon):
    answers = iter([b"\xc1", Answer(10**9, {"not": "mine"})])

    def answer(question):
        first = next(answers, None)
        if first is not None:
            daemon.again.append(question)
        return first or Answer(question.req, {"mine": True})

    daemon.again = []
    daemon.answer = answer
    with pytest.raises(errors.DaemonTimeout):
        ask(daemon.endpoint, AskStatus(0), 0.2)
    with pytest.raises(errors.DaemonTimeout):
        ask(daemon.endpoint, AskStatus(0), 0.2)
    assert ask(daemon.endpoint, AskStatus(0), 5) == {"mine": True}


def test_a_refused_question_raises_with_the_daemons_code_and_words(daemon):
    daemon.answer = lambda q: Refusal("not_found", "no stage x", "stage_id", req=q.req)
    with pytest.raises(errors.DaemonRefused, match="no stage x") as caught:
        ask(daemon.endpoint, AskStage(0, "x"), 5)
    assert (caught.value.code, caught.value.field) == ("not_found", "stage_id")


def test_another_protocol_version_has_an_error_of_its_own(daemon):
    daemon.answer = lambda q: Refusal("version", "upgrade the client", "v")
    with pytest.raises(errors.VersionMismatch, match="upgrade the client"):
        ask(daemon.endpoint, AskStatus(0), 5)


@pytest.mark.parametrize(
    "endpoint", ["ipc:///nowhere/energyd.sock", "nonsense", "ipc:///" + "x" * 120, "foo://bar"]
)
def test_an_absent_daemon_is_told_with_endpoint_reason_and_cure_in_three_lines(endpoint):
    with pytest.raises(errors.DaemonAbsent) as caught:
        ask(endpoint, AskStatus(0), 1)
    assert caught.value.endpoint == endpoint
    assert endpoint in str(caught.value)
    assert "energyd start" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_forbidden_socket_is_a_refused_permission(workplace, daemon, monkeypatch):
    import socket

    def refuse(self, address):
        raise PermissionError(13, "Permission denied")

    probe = type("Probe", (socket.socket,), {"connect": refuse})
    monkeypatch.setattr("energyd_client.reach.socket.socket", probe)
    with pytest.raises(errors.PermissionRefused, match="usermod"):
        ask(daemon.endpoint, AskStatus(0), 1)


def test_a_daemon_that_does_not_answer_is_a_timeout(daemon):
    daemon.answer = lambda q: None
    with pytest.raises(errors.DaemonTimeout, match=r"0\.2 s"):
        ask(daemon.endpoint, AskStatus(0), 0.2)


def test_every_error_belongs_to_the_tree_that_its_module_draws():
    tree = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(tree) >= 6
    for error in tree:
        assert issubclass(error, errors.EnergydError)
        assert error.__name__ in errors.__doc__


def test_a_stage_result_waits_for_the_final_energy(daemon):
    states = iter(["open", "ended", "final"])
    asked = []

    def answer(question):
        asked.append(question)
        if len(asked) == 1:
            return Refusal("not_found", "not yet", "stage_id", req=question.req)
        return Answer(question.req, {"stage_id": question.stage_id, "state": next(states), "energies": []})

    daemon.answer = answer
    with energy.run("r") as run, run.stage("a") as stage:
        pass
    assert stage.result(timeout_s=10)["state"] == "final"
    assert [q.stage_id for q in asked] == [stage.stage_id] * 4


def test_a_stage_result_without_a_daemon_is_none(workplace, caplog):
    with energy.run("r") as run, run.stage("a") as stage:
        pass
    assert stage.result(timeout_s=0.3) is None


@pytest.fixture
def publish(tmp_path):
    """(endpoint, subscribe-and-wait, send)"""
    endpoint = f"ipc://{tmp_path}/publish.sock"
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        socket.bind(endpoint)

        def subscribed(n):
            for _ in range(n):
                assert socket.poll(5000)
                socket.recv()

        def send(topic, message):
            data = message if isinstance(message, bytes) else pack(message)
            socket.send_multipart([topic.encode(), data])

        yield endpoint, subscribed, send


def sample(n, device=0):
    return Samples(n, device, [n * 10], [250_000], n * 1000)


def test_lost_messages_are_counted_by_topic(publish):
    endpoint, subscribed, send = publish
    with Subscriber(endpoint, ["samples/"]) as live:
        subscribed(1)
        for n in (5, 6, 9, 10):
            send("samples/0", sample(n))
        for n in (1, 2):
            send("samples/1", sample(n, 1))
        heard = [live.receive(5) for _ in range(6)]
        assert [m.n for m in heard] == [5, 6, 9, 10, 1, 2]
        assert (live.lost, live.lost_by_topic) == (2, {"samples/0": 2})


def test_a_last_value_repeated_for_somebody_else_is_not_heard_twice(publish):
    endpoint, subscribed, send = publish
    with Subscriber(endpoint, ["samples/"]) as live:
        subscribed(1)
        for n in (1, 1, 2):
            send("samples/0", sample(n))
        assert [live.receive(5).n for _ in range(2)] == [1, 2]
        assert live.receive(0) is None


def test_a_daemon_started_anew_counts_from_one_and_nothing_is_called_lost(publish):
    endpoint, subscribed, send = publish
    with Subscriber(endpoint, ["samples/0"]) as live:
        subscribed(1)
        for n in (100, 1, 2):
            send("samples/0", sample(n))
        assert [live.receive(5).n for _ in range(3)] == [100, 1, 2]
        assert live.lost == 0


def test_other_topics_do_not_come_and_garbage_is_passed_over(publish):
    endpoint, subscribed, send = publish
    with Subscriber(endpoint, ("health",)) as live:
        subscribed(1)
        send("samples/0", sample(1))
        send("health", b"\xc1")
        send("health", Health(1, {"state": "ok"}))
        assert next(iter(live)) == Health(1, {"state": "ok"})
        assert live.garbage == 1


def test_a_silent_publisher_yields_none_in_time(publish):
    endpoint, _, _ = publish
    with Subscriber(endpoint) as live:
        assert live.receive(0.05) is None


def test_final_stages_are_forgotten(publish):
    endpoint, subscribed, send = publish
    with Subscriber(endpoint, ["stages/"]) as live:
        subscribed(1)
        for state in ("open", "final"):
            stage = StageState(
                1 + (state == "final"), "r", "r", "s", None, "a", state, None, 1, None, {}, {0: 5}, {}
            )
            send("stages/s", stage)
            assert live.receive(5) == stage
        assert live._last == {}


def test_a_question_may_be_asked_from_any_thread(daemon):
    daemon.answer = lambda q: Answer(q.req, {"req": q.req})
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(ask(daemon.endpoint, AskStatus(0), 5))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({g["req"] for g in got}) == 4
